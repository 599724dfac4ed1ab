"""Float16 for ONNX: half the bytes, on any CPU.

What a graph computes stays float32 unless ``compute`` says otherwise; then the whole graph works in float16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from squeeze.errors import EffectError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.onnx_half import compute_half, halve_weights
from squeeze.models.base import Model
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.options import Unused
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.quantize.selection import select, selection_faults

LARGEST = float(np.finfo(np.float16).max)


class Float16(Pass[OnnxModel, OnnxModel]):
    """Store weights as float16.

    With ``compute: float32`` a Cast gives each weight back as float32, which any CPU runs at the old speed; with
    ``compute: float16`` the arithmetic is float16 too, for phones and GPUs that have it, and slow elsewhere.
    """

    leaves: ClassVar[frozenset[str]] = frozenset({"float16"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized", "float16"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_bytes", "weights_changed"})

    compute: Literal["float32", "float16"] = "float32"
    """Type of the arithmetic; float16 has fast kernels on phones only."""
    include: tuple[str, ...] = ("*",)
    """Layers to change, by name."""
    exclude: tuple[str, ...] = ()
    """Layers to leave as they are."""

    def run(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Rewrite the weights, then let the runtime take the result."""
        graph_model = model.copy_ir()
        chosen = set(select([layer.name for layer in model.layers()], self.include, self.exclude))
        _require_range(graph_model.graph)
        if self.compute == "float16":
            graph_model, count = compute_half(graph_model)
        else:
            count = halve_weights(graph_model, chosen)
        if not count:
            raise EffectError(f"{self.name}: found no float32 weights; the model has none left")
        context.facts["float16_tensors"] = count
        halved = model.with_graph(graph_model)
        halved.session(halved.threads)
        return halved

    def faults(self, model: Model) -> Iterator[str]:
        yield from selection_faults([layer.name for layer in model.layers()], self.include, self.exclude)

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.compute == "float16":
            reason = "goes with compute: float32; compute: float16 turns the whole graph"
            yield from (Unused(option, reason) for option in ("include", "exclude"))

    def preview(self, model: Model, before: Preview) -> Preview:
        chosen = set(select([layer.name for layer in model.layers()], self.include, self.exclude))
        saved = sum(layer.nbytes // 2 for layer in model.layers() if layer.name in chosen)
        return Preview(tuple(sorted(chosen)), before.parameters, before.nbytes - saved, before.macs, exact=False)


def _require_range(graph: ir.Graph) -> None:
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size:
            largest = float(np.abs(tensor.numpy()).max())
            if np.isfinite(largest) and largest > LARGEST and tensor.size > 1:
                raise EffectError(f"float16: '{name}' holds {largest:.3g}; float16 holds at most {LARGEST:.0f}")
