"""A stand-in for a tensor while a model's own code runs: each torch function on it appends nodes to a graph.

Which functions there are is the business of ``functions`` and ``views``; one that is not known ends the trace with its
name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.writers.decoder.graph import Builder
from squeeze.writers.decoder.shapes import Shape, Size

FUNCTIONS: dict[str, Callable[..., Any]] = {}  # by the name that torch gives them
DTYPES = {torch.float32: ir.DataType.FLOAT, torch.int64: ir.DataType.INT64, torch.bool: ir.DataType.BOOL}


Form = TypeVar("Form", bound=Callable[..., Any])


def function(*names: str) -> Callable[[Form], Form]:
    """Make a function the graph's form of the torch functions and tensor methods of these names."""

    def register(form: Form) -> Form:
        FUNCTIONS.update(dict.fromkeys(names, form))
        return form

    return register


def _registered(name: str) -> Callable[..., Any]:
    """A method of :class:`Traced` that is the graph's form of the torch function of this name."""
    return lambda self, *others: FUNCTIONS[name](self, *others)


class Traced:
    """A value of the graph under construction, with as much of a tensor's manner as models ask for."""

    def __init__(self, builder: Builder, value: ir.Value, dtype: torch.dtype = torch.float32) -> None:
        self.builder, self._value, self.dtype = builder, value, dtype
        self.shape: Shape = builder.shapes[value]
        self.device = torch.device("cpu")

    @property
    def value(self) -> ir.Value:
        return self._value

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def like(self, value: ir.Value, dtype: torch.dtype | None = None) -> Traced:
        return Traced(self.builder, value, dtype or self.dtype)

    def apply(self, op: str, *others: ir.Value, shape: Shape | None = None, **attributes: Any) -> Traced:
        """What an operator makes of the value and others behind it; ``shape``: if it is not the value's own."""
        inputs, sizes = [self.value, *others], self.shape if shape is None else shape
        return self.like(self.builder.one(op, inputs, sizes, attributes=attributes))

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS and not name.startswith("_"):
            return partial(FUNCTIONS[name], self)
        raise AttributeError(f"no graph form of Tensor.{name} is known")

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if name not in FUNCTIONS:
            raise ModelError(f"no graph form of torch's {name} is known")
        return FUNCTIONS[name](*args, **(kwargs or {}))

    __getitem__ = _registered("__getitem__")
    __add__ = __radd__ = _registered("add")
    __sub__, __rsub__ = _registered("sub"), _registered("rsub")
    __mul__ = __rmul__ = _registered("mul")
    __truediv__, __neg__ = _registered("div"), _registered("neg")

    def __bool__(self) -> bool:
        raise ModelError("the forward branches on a value, which one graph cannot")


def as_value(builder: Builder, item: Any, dtype: torch.dtype) -> ir.Value:
    """A traced value, a small tensor or a number as a value of the graph."""
    if isinstance(item, Traced):
        return item.value
    if isinstance(item, Tensor):
        if item.is_meta:
            what = f"a weight {list(item.shape)} in a way no graph form is known of"
            raise ModelError(f"the forward computes with {what}")
        array = item.detach().float().numpy() if item.is_floating_point() else item.numpy()
        return builder.constant(array, array.dtype)
    return builder.constant(item, {torch.int64: np.int64, torch.bool: np.bool_}.get(dtype, np.float32))


def sizes_of(item: Any) -> Shape:
    """The shape of whatever takes part in an elementwise function."""
    return tuple(item.shape) if isinstance(item, (Traced, Tensor)) else ()


def axis_of(traced: Traced, axis: int) -> int:
    return axis % len(traced.shape)


def number(size: Size, what: str) -> int:
    """A size that must be known now."""
    if not isinstance(size, int):
        raise ModelError(f"{what} is known only at run time ({size})")
    return size
