"""How long a plan will take on this host: what passes say of their work, and scoring, at speeds that are measured.

Counting needs shapes alone and belongs to every check; speeds are measured when somebody asks for seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from squeeze.data.base import Dataset
from squeeze.data.choices import ChoiceDataset
from squeeze.data.text import TextSource
from squeeze.data.token_dataset import TokenDataset
from squeeze.evaluate.endings import walked
from squeeze.evaluate.metrics import ClockMetric, ExampleMetric, ModelMetric
from squeeze.models.base import Model
from squeeze.models.language.effort import block_values, head_macs
from squeeze.models.language.language_model import in_shards
from squeeze.passes.effort import USUAL_WIDTH, Amount, Work, host_speed
from squeeze.plan.plan import Plan, Step

CALIBRATE, TRAIN = "calibrate", "train"
COMPARED_STEPS = 14  # times that a logit is read or written until it is compared with the original's
SCORED_STEPS = 6  # the same for the original's own
PREPARED_STEPS = 100  # the same of a value of an image, from its file to the model
READ_STEPS = 3  # times that a weight is read or written until a block can be run
ENDING_STEPS = 4  # the same until an ending is scored: its maximum, logarithm of the sum, its own

Seconds = tuple[float, float]


@dataclass(frozen=True)
class Effort:
    """The work of a row; None: not known.

    Args:
        of_pass: What the pass itself does; of the original, nothing.
        scoring: What its metrics take.
    """

    of_pass: Work | None
    scoring: Work | None

    def seconds(self, threads: int) -> dict[str, list[float] | None]:
        """The least and the most of both."""
        return {"pass": _seconds(self.of_pass, threads), "scoring": _seconds(self.scoring, threads)}


UNKNOWN = Effort(None, None)


def work_of(plan: Plan, step: Step, model: Model | None) -> Work | None:
    """What a pass will do; None where it cannot tell."""
    if model is None:
        return None
    role = TRAIN if step.pass_.trains else CALIBRATE
    once = step.pass_.work(model, _amount(plan, role))
    return None if once is None else once.times(step.pass_.repetitions())


def scoring_of(
    plan: Plan,
    form: str,
    model: Model | None,
    data: Dataset | None,
    own: Mapping[str, Dataset],
    original: bool = False,
) -> Work | None:
    """What scoring a row takes, clocks apart; None where it is not known, as where another tool scores.

    Args:
        form: Of the row's model, whose shapes are those of ``model``.
        data: The plan's evaluation data.
        own: By a metric's label, the data that it brings.
        original: Whether it is the original, which is compared with nothing.
    """
    metrics = [metric for metric in plan.metrics if not isinstance(metric, ClockMetric | ModelMetric)]
    if not all(isinstance(metric, ExampleMetric) for metric in metrics):
        return None
    brought = [metric.label for metric in metrics if metric.own_data() is not None]
    parts = [_of_endings(model, form, own.get(label)) for label in brought]
    if len(brought) < len(metrics):
        parts.append(_on_plan(form, model, data, original))
    known = [part for part in parts if part is not None]
    return sum(known, start=Work()) if len(known) == len(parts) else None


def _on_plan(form: str, model: Model | None, data: Dataset | None, original: bool) -> Work | None:
    """Of all metrics that are scored on the plan's own evaluation data."""
    macs = model.macs() if model is not None else None
    if model is None or data is None or macs is None:
        return None
    if isinstance(data, TokenDataset):
        return _of_text(model, form, macs, Amount(*data.tokens.shape), original)
    if not model.takes_images():
        return None
    prepared = PREPARED_STEPS * math.prod(abs(size) for size in model.inputs[0].shape)
    return Work({USUAL_WIDTH: macs * len(data)}, alone=prepared * len(data))


def _of_text(model: Model, form: str, macs: int, text: Amount, original: bool) -> Work | None:
    if form != model.form or not model.blocks:
        return None  # a runtime's file, which is fast or slow in its own way
    language = in_shards(model)
    head, width = head_macs(language), language.skeleton.hidden_size
    compared = 0 if original else head
    values = text.tokens * block_values(language, text.length)
    logits = text.tokens * (language.vocabulary or 0) * (SCORED_STEPS if original else COMPARED_STEPS)
    weights = READ_STEPS * (model.parameters() or 0)
    return Work({width: text.tokens * (macs + compared)}, values + logits + weights)


def _of_endings(model: Model | None, form: str, data: Dataset | None) -> Work | None:
    """Texts that are read once for each of their endings; the head sees the endings alone."""
    macs = model.macs() if model is not None else None
    if model is None or macs is None or form != model.form or not model.blocks or not isinstance(data, ChoiceDataset):
        return None
    language = in_shards(model)
    head, width = head_macs(language), language.skeleton.hidden_size
    texts = [Amount(count, length) for count, length in walked(data.sequences)]
    scored = sum(len(ending.tokens) - ending.start for ending in data.sequences)
    products = sum(text.tokens for text in texts) * (macs - head) + scored * head
    values = sum(text.tokens * block_values(language, text.length) for text in texts)
    logits = ENDING_STEPS * scored * (language.vocabulary or 0)
    weights = READ_STEPS * (model.parameters() or 0)
    return Work({width: products}, values + logits + weights)


def total(efforts: Iterable[Effort], threads: int) -> tuple[float, float, bool]:
    """Least and most seconds of all rows, and whether that is all of them."""
    parts = [work for effort in efforts for work in (effort.of_pass, effort.scoring)]
    known = [host_speed(threads).seconds(work) for work in parts if work is not None]
    return sum(low for low, _ in known), sum(high for _, high in known), len(known) == len(parts)


def _seconds(work: Work | None, threads: int) -> list[float] | None:
    return None if work is None else [round(end, 3) for end in host_speed(threads).seconds(work)]


def _amount(plan: Plan, role: str) -> Amount | None:
    """As much as the plan names; None where it says no number."""
    source = plan.data.get(role)
    if isinstance(source, TextSource):
        count = source.most_sequences()
        return None if count is None else Amount(count, source.length)
    return None if source is None or source.samples is None else Amount(source.samples)
