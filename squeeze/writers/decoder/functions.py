"""Torch functions as nodes: arithmetic, reductions, dtypes. Views, weights and fused operators are in other files."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from squeeze.writers.decoder.shapes import broadcast
from squeeze.writers.decoder.traced import DTYPES, Traced, as_value, axis_of, function, sizes_of


def _elementwise(op: str, one: Any, other: Any) -> Traced:
    traced = one if isinstance(one, Traced) else other
    values = [as_value(traced.builder, item, traced.dtype) for item in (one, other)]
    shape = broadcast(sizes_of(one), sizes_of(other))
    return traced.like(traced.builder.one(op, values, shape, dtype=DTYPES[traced.dtype]))


for _op, _names in {
    "Add": ("add", "__add__", "__radd__", "__iadd__", "add_"),
    "Sub": ("sub", "__sub__"),
    "Div": ("div", "__truediv__", "__itruediv__", "true_divide"),
}.items():
    function(*_names)(partial(_elementwise, _op))


@function("rsub", "__rsub__")
def rsub(one: Any, other: Any) -> Traced:
    return _elementwise("Sub", other, one)


@function("mul", "__mul__", "__rmul__", "__imul__", "multiply")
def mul(one: Any, other: Any) -> Any:
    """Product; one with 1 is no node."""
    if isinstance(other, (int, float)) and other == 1:
        return one
    return _elementwise("Mul", one, other)


@function("square")
def square(traced: Traced) -> Traced:
    return _elementwise("Mul", traced, traced)


@function("pow", "__pow__")
def power(one: Traced, exponent: Any) -> Traced:
    """Power; a square is a product."""
    return _elementwise("Mul", one, one) if exponent == 2 else _elementwise("Pow", one, exponent)


@function("matmul", "__matmul__")
def matmul(one: Traced, other: Traced) -> Traced:
    shape = (*broadcast(one.shape[:-2], other.shape[:-2]), one.shape[-2], other.shape[-1])
    return one.apply("MatMul", other.value, shape=shape)


def _unary(op: str, traced: Traced, *_: Any, **__: Any) -> Traced:
    return traced.apply(op)


for _op in ("Neg", "Tanh", "Sigmoid", "Relu", "Sqrt", "Exp", "Cos", "Sin"):
    function(_op.lower())(partial(_unary, _op))


@function("rsqrt")
def rsqrt(traced: Traced) -> Traced:
    return traced.apply("Sqrt").apply("Reciprocal")


@function("silu")
def silu(traced: Traced, **_: Any) -> Traced:
    return traced.apply("Mul", traced.apply("Sigmoid").value)


@function("gelu")
def gelu(traced: Traced, approximate: str = "none") -> Traced:
    return traced.apply("Gelu", approximate=approximate)


@function("softmax")
def softmax(traced: Traced, dim: int, *_: Any, **__: Any) -> Traced:
    return traced.apply("Softmax", axis=axis_of(traced, dim))


def _reduced(op: str, traced: Traced, dim: Any, keepdim: bool = False) -> Traced:
    axes = [axis_of(traced, axis) for axis in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    sizes = [1 if axis in axes else size for axis, size in enumerate(traced.shape)]
    shape = tuple(sizes if keepdim else (size for axis, size in enumerate(traced.shape) if axis not in axes))
    return traced.apply(op, traced.builder.constant(axes), shape=shape, keepdims=int(keepdim))


function("mean")(partial(_reduced, "ReduceMean"))
function("sum")(partial(_reduced, "ReduceSum"))


@function("topk")
def topk(traced: Traced, k: int, dim: int = -1, largest: bool = True, **_: Any) -> tuple[Traced, Traced]:
    axis = axis_of(traced, dim)
    shape = tuple(k if place == axis else size for place, size in enumerate(traced.shape))
    kinds, attributes = [DTYPES[torch.float32], DTYPES[torch.int64]], {"axis": axis, "largest": int(largest)}
    inputs = [traced.value, traced.builder.constant([k])]
    values, places = traced.builder.node("TopK", inputs, [shape, shape], attributes, dtype=kinds)
    return traced.like(values), traced.like(places, torch.int64)


@function("to", "type_as", "float", "type")
def to(traced: Traced, *args: Any, **keywords: Any) -> Traced:
    """Of another dtype; all floats are float32 here."""
    dtypes = [item for item in (*args, *keywords.values()) if isinstance(item, torch.dtype)]
    dtype = torch.float32 if not dtypes or dtypes[0].is_floating_point else dtypes[0]
    if not (dtypes or not args) or dtype == traced.dtype or (not dtypes and traced.dtype == torch.float32):
        return traced
    attributes = {"to": int(DTYPES[dtype])}
    value = traced.builder.one("Cast", [traced.value], traced.shape, attributes=attributes, dtype=DTYPES[dtype])
    return traced.like(value, dtype)


@function("contiguous", "clone", "detach", "dropout")
def same(traced: Traced, *_: Any, **__: Any) -> Traced:
    """No node: these functions do not change values."""
    return traced
