"""How long each layer takes in ONNX Runtime at each width: measured on this host, not guessed from MACs.

The marginal time of a layer is measured: a graph that runs it several times on one input against a graph that runs
it once, so that the session's own time and the change of memory layout drop out. Both alternate with one reference
convolution and count in units of it, so a host that is busy for a while slows both alike. Runtimes work in blocks
of channels (16 with AVX-512), so the curve has steps: 9 channels can cost as much as 16. HALP (Shen et al., 2021,
https://arxiv.org/abs/2110.10811) calls this the latency look-up table.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

COPIES, ROUNDS, RUNS, WARM_UP = 5, 9, 4, 3


@dataclass(frozen=True)
class ConvPlace:
    """A convolution (or, with no spatial size, a linear layer) in its place in the network."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    depthwise: bool
    spatial: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.Module, input_shape: torch.Size) -> ConvPlace | None:
        """The place of ``layer`` when it takes an input of this shape; None for what is not measured."""
        if isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str):
            depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
            return cls(
                layer.kernel_size, layer.stride, layer.padding, layer.dilation, depthwise, tuple(input_shape[2:])
            )
        if isinstance(layer, nn.Linear):
            return cls((1, 1), (1, 1), (0, 0), (1, 1), False, (1, 1))
        return None

    def image(self, inputs: int) -> dict[str, Any]:
        """One example of noise for a graph of such convolutions."""
        return {"x": np.random.default_rng(0).standard_normal((1, inputs, *self.spatial), dtype=np.float32)}

    def key(self, inputs: int, outputs: int) -> str:
        """What the table calls it."""
        sizes = "_".join("x".join(map(str, part)) for part in (self.kernel, self.stride, self.padding, self.dilation))
        kind = "depthwise" if self.depthwise else "conv"
        return f"{kind}_{sizes}_at_{'x'.join(map(str, self.spatial))}_{inputs}_{outputs}"


class LatencyTable:
    """Seconds per layer shape, measured when first asked for.

    Args:
        threads: Threads of the runtime.
        known: What was measured before (or is pinned): taken as it is.
    """

    def __init__(self, threads: int, known: dict[str, float] | None = None) -> None:
        self.threads, self.seconds = threads, dict(known or {})

    def __call__(self, place: ConvPlace | None, inputs: int, outputs: int) -> float:
        if place is None or not inputs or not outputs:
            return 0.0
        key = place.key(inputs, outputs)
        if key not in self.seconds:
            self.seconds[key] = float(f"{measure(place, inputs, outputs, self.threads) * self.reference:.3g}")
        return self.seconds[key]

    @cached_property
    def reference(self) -> float:
        """Seconds of the reference convolution, as fast as it ever ran."""
        session = _session(REFERENCE, *REFERENCE_WIDTHS, 1, self.threads)
        return _timed(session, REFERENCE.image(REFERENCE_WIDTHS[0]), 200)


REFERENCE, REFERENCE_WIDTHS = ConvPlace((3, 3), (1, 1), (1, 1), (1, 1), False, (16, 16)), (32, 32)


def measure(place: ConvPlace, inputs: int, outputs: int, threads: int) -> float:
    """Time that one such convolution takes within a larger graph, in units of the reference convolution."""
    one, many = (_session(place, inputs, outputs, copies, threads) for copies in (1, COPIES))
    unit = _session(REFERENCE, *REFERENCE_WIDTHS, 1, threads)
    image, unit_image = place.image(inputs), REFERENCE.image(REFERENCE_WIDTHS[0])
    for session in (one, many):
        _timed(session, image, WARM_UP)
    rounds = [
        (_timed(one, image, RUNS), _timed(many, image, RUNS), _timed(unit, unit_image, RUNS)) for _ in range(ROUNDS)
    ]
    marginal = statistics.median((long - short) / reference for short, long, reference in rounds) / (COPIES - 1)
    return max(marginal, 1e-4)


def _timed(session: Any, image: dict[str, Any], runs: int) -> float:
    """Seconds of the fastest of a few runs: whatever else the host does only makes a run slower."""
    fastest = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, image)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def _session(place: ConvPlace, inputs: int, outputs: int, copies: int, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    graph = _graph(place, inputs, outputs, copies).SerializeToString()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _graph(place: ConvPlace, inputs: int, outputs: int, copies: int) -> Any:
    """``x -> conv + relu`` several times beside each other, added up."""
    shape = (outputs, 1 if place.depthwise else inputs, *place.kernel)
    pads = [*place.padding, *place.padding]
    values, nodes, total = [], [], ""
    for copy in range(copies):
        weight = np.random.default_rng(copy).standard_normal(shape, dtype=np.float32) / np.prod(shape[1:])
        values.append(numpy_helper.from_array(weight.astype(np.float32), f"w{copy}"))
        nodes.append(
            helper.make_node(
                "Conv", ["x", f"w{copy}"], [f"c{copy}"], kernel_shape=place.kernel, strides=place.stride, pads=pads,
                dilations=place.dilation, group=outputs if place.depthwise else 1,
            )
        )  # fmt: skip
        nodes.append(helper.make_node("Relu", [f"c{copy}"], [f"r{copy}"]))
        if copy:
            nodes.append(helper.make_node("Add", [total, f"r{copy}"], [f"s{copy}"]))
        total = f"s{copy}" if copy else "r0"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs, *place.spatial])
    y = helper.make_tensor_value_info(total, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "conv", [x], [y], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
