"""What is timed of each format of files: which layers, of which sizes, and how they get into their runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from squeeze import registry
from squeeze.evaluate.latency import median_seconds
from squeeze.formats.operation import Kind, Numbers
from squeeze.measure import chains
from squeeze.measure.attention import HEADS, attention_call
from squeeze.measure.clock import LEAST_RUNS, Call, seconds_a_layer
from squeeze.models.onnx_model import OnnxModel
from squeeze.runtimes.base import Runtime
from squeeze.work import temporary_folder

RUNS_IN = {"onnx": "onnxruntime", "ort": "onnxruntime", "litert": "litert"}  # what runs a writer's files
CONVOLUTIONS: tuple[Kind, ...] = ("conv", "pointwise", "depthwise")
CHANNELS, PLACES = (4, 16, 64, 256), (49, 196, 784, 3136, 12544)
WIDTHS, ROWS = (16, 64, 256, 1024), (1, 16, 128)
HEAD_CHANNELS, CACHED = (32, 128), (64, 512, 2048)
VALUES = (64, 1024, 16384, 262144)
MOST_MACS = 2e8  # of one layer: larger ones are no slower per product
SHORT, LONG = 2, 6  # layers of two chains
LIGHT_LONG = 26  # the same of operators that take less than a microsecond
ELEMENTS: dict[Kind, tuple[int, tuple[Numbers, ...]]] = {  # numbers read and written per number, and of which types
    "light": (3, ("float", "int8")),
    "move": (2, ("float", "int8")),
    "stride": (2, ("float", "int8")),
    "curve": (2, ("float",)),
    "norm": (2, ("float",)),
    "softmax": (2, ("float",)),
}
NOT_IN_LITERT = {"curve", "norm"}  # which our .tflite files cannot hold
GLUE = (256, 1024, 4096)


@dataclass(frozen=True)
class Point:
    """One layer to be timed.

    Args:
        name: Kind and numbers, as in a profile.
        size: ``(channels, places)``, or ``(values,)`` of what has no products.
        work: Multiply-accumulates or numbers of one layer.
        chain: The call that runs so many layers.
        layers: Of the long chain.
    """

    name: str
    size: tuple[int, ...]
    work: int
    chain: Callable[[int], Call]
    layers: int = LONG

    def per_s(self, seconds: float) -> float:
        """Work per second.

        Raises:
            ModelError: the runtime does not take the layer, or no time was seen to go.
        """
        short, long = self.chain(SHORT), self.chain(self.layers)
        return self.work / seconds_a_layer(short, long, self.layers - SHORT, seconds)


def formats() -> list[str]:
    """Formats whose runtime is installed."""
    return [name for name in RUNS_IN if runtime_of(name).absent() is None]


def points(name: str, threads: int) -> list[Point]:
    """All layers that are timed of one format."""
    found = [*_convolutions(name, threads), *_products(name, threads), *_elements(name, threads)]
    return [*found, *_decoder(threads)] if name == "onnx" else found


def call_seconds(name: str, threads: int, seconds: float) -> float:
    """Of a model that does next to nothing."""
    return median_seconds(opened(name, threads, chains.elementwise("light", 64, 1)), seconds, LEAST_RUNS)


def opened(name: str, threads: int, graph: ir.Model) -> Call:
    """A call that runs a graph from its file in its runtime once."""
    model = OnnxModel(graph)
    with temporary_folder("measure") as folder:
        file = registry.load("writers", name)().write(model, folder)
        runtime = runtime_of(name).open(file, threads, name)
    (spec,) = runtime.inputs
    x = np.random.default_rng(0).standard_normal([int(size) for size in spec.shape]).astype(np.float32)
    return runtime.stopwatch_call({spec.name: np.abs(x)})


def _convolutions(name: str, threads: int) -> Iterator[Point]:
    for kind in CONVOLUTIONS:
        for numbers, written in (("float", _as_is), ("int8", chains.as_static)):
            for channels in CHANNELS:
                for places in PLACES:
                    width = 1 if kind == "depthwise" else channels
                    work = channels * width * chains.KERNEL[kind] ** 2 * places
                    make = partial(chains.convolutions, kind, channels, places)
                    if work <= MOST_MACS:
                        call = partial(_chain, name, threads, make, written)
                        yield Point(f"{kind} {numbers}", (channels, places), work, call)


def _products(name: str, threads: int) -> Iterator[Point]:
    kinds: list[tuple[str, Any, Any]] = [
        ("matmul float", chains.products, _as_is),
        ("matmul int8", chains.products, chains.as_static),
    ]
    if RUNS_IN[name] == "onnxruntime":
        kinds += [("dynamic int8", chains.products, chains.as_dynamic)]
    if name == "onnx":
        kinds += [("matmul int4", chains.int4_products, _as_is)]
    for what, make, written in kinds:
        for width in WIDTHS if make is chains.products else WIDTHS[1:]:
            for rows in ROWS:
                call = partial(_chain, name, threads, partial(make, width, rows), written)
                yield Point(what, (width, rows), rows * width * width, call)


def _elements(name: str, threads: int) -> Iterator[Point]:
    for kind, (each, numbers) in ELEMENTS.items():
        for written in numbers if name != "litert" or kind not in NOT_IN_LITERT else ():
            form = chains.as_static if written == "int8" else _as_is
            for values in VALUES:
                call = partial(_chain, name, threads, partial(chains.elementwise, kind, values), form)
                operators = 2 if kind == "move" else 1
                yield Point(f"{kind} {written}", (values * each,), operators * values * each, call, LIGHT_LONG)


def _decoder(threads: int) -> Iterator[Point]:
    for channels in HEAD_CHANNELS:
        for cached in CACHED:
            call = partial(_attention, channels, cached, threads)
            yield Point("attention float", (channels, cached), 2 * HEADS * channels * cached, call)
    for width in GLUE:
        call = partial(_chain, "onnx", threads, partial(chains.glue, width), _as_is)
        yield Point("glue float", (width,), width, call)


def _attention(channels: int, cached: int, threads: int, layers: int) -> Call:
    return attention_call(channels, cached, layers, threads)


def _chain(name: str, threads: int, make: Callable[[int], ir.Model], written: Any, layers: int) -> Call:
    return opened(name, threads, written(make(layers)))


def _as_is(graph: ir.Model) -> ir.Model:
    return graph


def runtime_of(name: str) -> type[Runtime]:
    """What runs the files of a format."""
    runtime: type[Runtime] = registry.load("runtimes", RUNS_IN[name])
    return runtime
