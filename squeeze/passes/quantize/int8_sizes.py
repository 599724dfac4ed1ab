"""How much smaller a layer of an ONNX graph gets by int8, foretold from its shape: its weights become a quarter, and
scales, zero points and the nodes around it come on top."""

from __future__ import annotations

from math import prod

from squeeze.models.base import Layer

QDQ_BYTES = 1300  # bytes of nodes and names per layer: 1,256 in MobileNetV1, 1,315 in a small network
DYNAMIC_BYTES = 400  # the same two networks: 307 and 282
SCALE_BYTES = 8  # bytes per output channel, for weight and bias
SAVED_BYTES = 3  # bytes saved of the four of each weight


def saved_bytes(layer: Layer, graph_bytes: int) -> int:
    """Bytes that the layer takes less; negative for one so small that what comes on top is more.

    Args:
        graph_bytes: Of the nodes that come on top.
    """
    weights = prod(layer.shape)
    outputs = layer.parameters - weights or layer.shape[0]  # one per bias
    return SAVED_BYTES * weights - SCALE_BYTES * outputs - graph_bytes
