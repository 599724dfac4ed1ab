"""A plan file as one typed model: the reader and the JSON schema that editors use are both made from it."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, StrictBool, StrictInt, StrictStr, WithJsonSchema

from squeeze.data.sources import DataSource
from squeeze.evaluate.metrics import Metric
from squeeze.models.options import BYTES
from squeeze.plan.model_kinds import AnyKind
from squeeze.plan.parts import PASSES, SOURCE, BranchPart, ListOf, MetricPart, TargetPart
from squeeze.plan.plan import AnyPass
from squeeze.plan.section import Says, Section

VERSION = 1  # version of the plan format
MOST_SEED = 2**32 - 1  # the largest seed that all random generators accept
MOST_THREADS = 1024
SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMG]i?B|B)")

Source = Annotated[DataSource | None, SOURCE]
Metrics = ListOf(
    MetricPart(),
    "[top1, kl, size_bytes, latency] would do",
    "metrics: '{name}' stands twice; scores are known by their names",
)
Targets = ListOf(
    TargetPart(),
    "each target is an element that begins with '- target:'",
    "targets: '{name}' stands twice; name: would tell the two apart",
)
Scalar = Annotated[Any, WithJsonSchema({"type": ["string", "number", "boolean", "null"]})]
Bound = Annotated[Any, WithJsonSchema({"type": ["string", "number"]})]
Names = Annotated[list[StrictStr], Field(min_length=1)]
MAPPING = Says("{name}: is no mapping of names to values")


def _whole(least: int, most: int) -> Says:
    return Says(f"{{name}}: is {{value!r}}; a whole number from {least} to {most} would do")


def _size_bytes(value: Any) -> int | None:
    if value is None:
        return None
    match = SIZE.fullmatch(str(value).strip())
    if match is None or not float(match[1]):
        raise ValueError("no size")
    return int(float(match[1]) * BYTES[match[2]])


Bytes = Annotated[
    int | None,
    PlainValidator(_size_bytes),
    WithJsonSchema({"type": "string"}),
    Says("{name}: '{value!s:.40}' cannot be read; 4GB or 1500MB would do"),
]


class Roles(Section):
    """Where examples come from, by what they are for."""

    called: ClassVar[str] = "data"

    evaluate: Source = None
    """What every row is measured on."""
    calibrate: Source = None
    """What quantization chooses its ranges and weights by; must not overlap the evaluation data."""
    train: Source = None
    """What finetune, distill and probes learn from; must not overlap the evaluation data."""


class Judging(Section):
    """What is measured, and how it is judged."""

    called: ClassVar[str] = "a plan"

    metrics: Annotated[tuple[Metric, ...] | None, Metrics] = None
    """What each row measures; unless given, what goes with the kind of model."""
    budget: Annotated[dict[str, Bound] | None, MAPPING] = None
    """By metric, the bound against the original, as in <= 30 %; a broken one ends the run with exit code 3."""
    primary: Annotated[
        StrictStr | Names | None,
        Says("primary: is {value!r}; the name of a metric would do, or a list of names"),
    ] = None
    """The metric whose changes are judged, over all rows together; unless given, the first that can be."""
    equivalence: Annotated[dict[str, Bound] | None, MAPPING] = None
    """By metric, the change that is as good as none: 0.5 points of a share, else 2 %."""


class PlanFile(Judging):
    """Which model is compressed, by which passes, for which targets, and how that is measured."""

    version: Annotated[
        StrictInt,
        Field(ge=VERSION, le=VERSION),
        Says(f"version: is {{value!r}}; this Squeeze reads plans of version {VERSION}"),
    ] = VERSION
    """Of the language of plans."""
    model: AnyKind
    """Where the original is."""
    data: Annotated[Roles | None, MAPPING] = None
    """Where examples come from."""
    memory: Bytes = None
    """Peak memory that the run must stay under, as in 4GB."""
    disk: Bytes = None
    """The most that the store may hold at once, as in 300MB: models that nothing needs any more are released."""
    passes: Annotated[tuple[AnyPass, ...] | None, PASSES] = None
    """What is done to the model, in order."""
    targets: Annotated[tuple[BranchPart, ...] | None, Targets] = None
    """What is packed at the end, each after passes of its own."""
    vars: Annotated[dict[str, Scalar] | None, MAPPING] = None
    """Values of ${names} in the plan; --var and --set win over them, they over the environment."""
    seed: Annotated[StrictInt, Field(ge=0, le=MOST_SEED), _whole(0, MOST_SEED)] = 0
    """Where all randomness comes from."""
    threads: Annotated[StrictInt, Field(ge=1, le=MOST_THREADS), _whole(1, MOST_THREADS)] = Field(
        default_factory=lambda: os.cpu_count() or 1
    )
    """Processor threads, part of what decides the bytes of a result; unless given, as many as there are processors."""
    strict: Annotated[StrictBool, Says("strict: is {value!r}; true or false would do")] = False
    """A line of the budget that is not proven counts as broken."""
