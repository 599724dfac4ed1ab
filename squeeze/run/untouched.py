"""The share of bytes that a pass left unchanged, so that uncovered layers show in the ledger."""

from __future__ import annotations

from typing import Any

from squeeze.models.base import Model

MOST_LAYERS = 3  # layers by name, the largest first


def untouched(before: Model, after: Model) -> dict[str, Any]:
    """The fact of a row, JSON values; nothing where every layer changed its size.

    A layer counts as untouched where it takes the very bytes that it took before.
    """
    was = {layer.name: layer.nbytes for layer in before.layers()}
    layers = [layer for layer in after.layers() if layer.nbytes and was.get(layer.name) == layer.nbytes]
    if not layers:
        return {}
    layers.sort(key=lambda layer: (-layer.nbytes, layer.name))
    total = after.nbytes()
    share = sum(layer.nbytes for layer in layers) / total
    largest = [[layer.name, layer.nbytes / total] for layer in layers[:MOST_LAYERS]]
    return {"untouched": {"share": share, "layers": len(layers), "largest": largest}}
