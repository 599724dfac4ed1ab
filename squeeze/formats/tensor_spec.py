"""One input or output of a model's file, as its runtime tells it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class TensorSpec(BaseModel):
    """A name, a shape and an element type; a free dimension is a name, such as ``"n"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int | str, ...]
    dtype: str
