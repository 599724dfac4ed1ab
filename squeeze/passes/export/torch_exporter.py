"""torch's own exporter to ONNX: called once per module, with what it says held back and its table of operators kept."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from squeeze.errors import ModelError, first_line
from squeeze.models.base import InputSpec


def export_graph(module: nn.Module, inputs: tuple[InputSpec, ...], opset: int) -> ir.Model:
    """The graph of a module that takes the inputs in order and gives logits.

    Raises:
        ModelError: torch cannot trace it.
    """
    _remember_operators()
    # two examples: a batch of one would be taken for a constant
    example = tuple(spec.noise(2, torch.Generator().manual_seed(0)) for spec in inputs)
    free = {place: torch.export.Dim(name) for place, name in _free_places(inputs).items()}
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                input_names=[spec.name for spec in inputs],
                output_names=["logits"],
                opset_version=opset,
                dynamic_shapes=(tuple(_free_axes(spec, free) for spec in inputs),),
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the user's module trips over
        raise ModelError(f"export_onnx: torch cannot trace the model: {first_line(error)}") from error
    assert program is not None
    graph_model: ir.Model = program.model
    return graph_model


def _free_places(inputs: tuple[InputSpec, ...]) -> dict[int, str]:
    """The batch, and every dimension that an input leaves open: inputs share its size, as tokens and their mask do."""
    open_places = sorted({1 + place for spec in inputs for place, size in enumerate(spec.shape) if size < 0})
    names = ["length"] if len(open_places) == 1 else [f"size_{place}" for place in open_places]
    return {0: "batch", **dict(zip(open_places, names, strict=True))}


def _free_axes(spec: InputSpec, free: dict[int, Any]) -> dict[int, Any]:
    open_places = {0, *(1 + place for place, size in enumerate(spec.shape) if size < 0)}
    return {place: dim for place, dim in free.items() if place in open_places}


@cache
def _remember_operators() -> None:
    """For each export, torch has onnxscript parse the sources of its 500 operators: half a second, with one outcome."""
    from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]

    onnxscript_apis.get_torchlib_ops = cache(onnxscript_apis.get_torchlib_ops)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about packages that are not installed and about its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
