"""One input or output of a model's file, as its runtime tells it; and what such records have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Values that nobody changes, with none beside those that are named."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Record):
    """A name, a shape and an element type; a free dimension is a name, such as ``"n"``."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
