"""Do data and model fit together? Asked before anything long runs: the shape of an example, the range of the labels."""

from __future__ import annotations

import numpy as np

from squeeze.data.base import Dataset
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import DataError
from squeeze.models.base import Batch, InputSpec, Model
from squeeze.models.tasks.base import TOKENS

FREE = -1  # a dimension that the model leaves open


def require_fit(model: Model, role: str, data: Dataset) -> None:
    """Hold the first example and all labels of a role's data against the model.

    Raises:
        DataError: no examples, another shape than the model takes, or labels of classes that it does not know.
    """
    if not len(data):
        raise DataError(f"data.{role}: {data.name}: no examples")
    if model.task.outputs == TOKENS:
        _require_vocabulary(model, role, data)
        return
    _require_readable(model, role, data)
    batch = data.batch(np.arange(1))
    if fault := misfit(model.inputs, batch):
        raise DataError(f"data.{role}: {fault}")
    width = model.predict(batch).shape[1]
    labels = np.array([data.label(index) for index in range(len(data))])
    if 0 < (labels < 0).sum() < len(labels):
        raise DataError(
            f"data.{role}: {(labels < 0).sum()} of {len(labels)} examples carry no label; all or none would do"
        )
    if len(labels) and (fault := model.task.label_fault(int(labels.max()), width)):
        raise DataError(f"data.{role}: {fault}")


def _require_vocabulary(model: Model, role: str, data: Dataset) -> None:
    if not isinstance(data, TokenDataset):
        raise DataError(f"data.{role}: {data.name}: a language model takes text; {{text: file}} would do")
    _require_readable(model, role, data)


def _require_readable(model: Model, role: str, data: Dataset) -> None:
    """Texts of tokens that the model knows, no longer than it reads."""
    known, highest = model.vocabulary, data.highest_token()
    if known is not None and highest is not None and highest >= known:
        raise DataError(
            f"data.{role}: token {highest} is none of the model's {known}; its own tokenizer would give others"
        )
    most, longest = model.context, data.longest()
    if model.task.outputs != TOKENS and most is not None and longest is not None and longest > most:
        what = f"the longest sentence has {longest} tokens"
        raise DataError(f"data.{role}: {data.name}: {what}, and the model reads {most}; length: {most} would cut it")


def misfit(inputs: tuple[InputSpec, ...], batch: Batch) -> str | None:
    """In words, where a model does not take examples of these names and shapes; None where it does."""
    if len(inputs) != 1 or len(batch.inputs) != 1:
        return _misfit_of_several(inputs, batch)
    expected, shape = inputs[0].shape, tuple(next(iter(batch.inputs.values())).shape[1:])
    if len(expected) == len(shape) and all(want in (FREE, have) for want, have in zip(expected, shape, strict=True)):
        return None
    return f"an example is {_words(shape)}; the model takes {_words(expected)}: resize:, crop: or channels: make it fit"


def _misfit_of_several(inputs: tuple[InputSpec, ...], batch: Batch) -> str | None:
    for spec in inputs:
        if spec.name not in batch.inputs:
            return f"the model takes the input '{spec.name}'; the data has {', '.join(batch.inputs)}"
        shape = tuple(batch.inputs[spec.name].shape[1:])
        fits = len(spec.shape) == len(shape) and all(w in (FREE, h) for w, h in zip(spec.shape, shape, strict=True))
        if not fits:
            return f"an example of '{spec.name}' is {_words(shape)}; the model takes {_words(spec.shape)}"
    return None


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join("any" if size == FREE else str(size) for size in shape)
