"""Which share of a smaller model's bytes a pass left as they were: what is not covered shows at the row."""

from __future__ import annotations

from typing import Any

from squeeze.models.base import Model

SHOWN = 3  # layers by name, the largest first


def untouched(before: Model, after: Model) -> dict[str, Any]:
    """The fact of a row, JSON values; nothing where every layer changed its size.

    A layer counts as untouched where it takes the very bytes that it took before.
    """
    was = {layer.name: layer.nbytes for layer in before.layers()}
    left = [layer for layer in after.layers() if layer.nbytes and was.get(layer.name) == layer.nbytes]
    if not left:
        return {}
    left.sort(key=lambda layer: (-layer.nbytes, layer.name))
    total = after.nbytes()
    share = sum(layer.nbytes for layer in left) / total
    largest = [[layer.name, layer.nbytes / total] for layer in left[:SHOWN]]
    return {"untouched": {"share": share, "layers": len(left), "largest": largest}}
