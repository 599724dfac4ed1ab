"""ExecuTorch for language models: a ``.pte`` program with its key-value cache inside, float or on the model's own grid.

What the file holds: integers of 4 bits in groups of a multiple of 32 with their bfloat16 scales, of 8 bits with one
scale per channel; XNNPACK rounds activations to int8, each token by its own range. ``holds`` refuses all other grids.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.formats.file_part import FilePart
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.pte import PteFile, read_pte
from squeeze.models.language.dense import copy_side_files
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.executorch import ExecuTorch
from squeeze.work import temporary_folder
from squeeze.writers.base import Writer
from squeeze.writers.executorch import AT_ONCE, READER, nearest, run_process
from squeeze.writers.executorch_process import FILE, REPORT, XNNPACK
from squeeze.writers.proof import Equality
from squeeze.writers.pte_decoder.footprint import peak_bytes
from squeeze.writers.pte_decoder.job import JOB, Job
from squeeze.writers.pte_decoder.weights import holds, table_bytes

PROCESS = "squeeze.writers.pte_decoder.process"
CONTEXT = 512  # tokens, by default
CHUNK = 64  # tokens of one call at most: a prompt is read in pieces, and room for their logits is part of the program


class ExecuTorchDecoderWriter(Writer[LanguageModel]):
    """``model.pte``, the tokenizer beside it, and ``delegated.json``: what XNNPACK runs.

    Args:
        context: Tokens that the cache has room for; None: 512, or as many as the model can read.
    """

    name = "executorch-decoder"
    extra: ClassVar[str | None] = "mobile"

    def __init__(self, context: int | None = None) -> None:
        self.context = context

    def holds(self, kind: GridKind) -> str | None:
        return holds(kind)

    def faults(self, model: LanguageModel) -> Iterator[str]:
        if self.context and model.context and self.context > model.context:
            yield f"context {self.context} is more than the {model.context} tokens that the model can read"
        shapes = model.matrices()
        if experts := [name for name in shapes if shapes[name].experts]:
            yield f"{experts[0]}: experts in one tensor have no form in a .pte file; target: gguf holds them"

    def memory_bytes(self, model: LanguageModel, grid: Mapping[str, GridKind]) -> int:
        return peak_bytes(model, grid, self.window_of(model.context))

    def window_of(self, longest: int | None) -> int:
        """Tokens that the cache has room for, of a model that can read ``longest``."""
        return self.context or min(CONTEXT, longest or CONTEXT)

    def write(self, model: LanguageModel, folder: Path) -> Path:
        ExecuTorch.require_installed(str(model.folder))
        report = export(model, folder, self.window_of(model.context))
        del report["peak_bytes"]  # differs between hosts
        (folder / REPORT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        copy_side_files(model.folder, folder)
        return folder / FILE

    def facts(self, model: LanguageModel, file: Path) -> dict[str, Any]:
        """Which share of operators and of multiplications XNNPACK runs, and which kernels run the rest."""
        report = json.loads((file.parent / REPORT).read_text())
        delegated = sum(report["taken"].values())
        counts = {name: len(modules) for name, modules in report["left"].items()}
        matrices = {layer.name.removesuffix(".weight"): layer.macs or 0 for layer in model.layers()}
        linears = (modules for name, modules in report["left"].items() if "linear" in name)
        slow = sum(matrices.get(module, 0) for modules in linears for module in modules)
        total = sum(matrices.values())
        kernels = {name: f"{count} times" for name, count in counts.items()}
        operators, multiplied = [delegated, delegated + sum(counts.values())], [total - slow, total]
        return {"delegated": {"to": XNNPACK, "operators": operators, "macs": multiplied, "left": kernels}}

    def prove(self, model: LanguageModel, file: Path) -> Iterator[Equality]:
        """Each weight that is integers, bit for bit as ExecuTorch's own reader sees it."""
        if not model.grid:
            return
        pte = read_pte(file)
        stored = [layer for layer in pte.layers() if layer.quantized]
        ends = model.skeleton.ends
        for name in model.grid:
            grid = model.quantized(name)
            if name == ends[0]:
                yield _table(name, grid, pte)
            if name != ends[0] or len(ends) == 1:  # a tied one is a matrix as well
                yield nearest(name, grid, stored)


def export(model: LanguageModel, folder: Path, context: int) -> dict[str, Any]:
    """Write ``model.pte`` in a process of its own; gives its report, with ``peak_bytes`` of memory.

    Raises:
        ModelError: a weight or an operator that .pte files cannot hold; ``folder`` stays empty.
    """
    with temporary_folder("executorch") as work:
        job = Job(str(model.folder.resolve()), context, min(CHUNK, context))
        (work / JOB).write_text(json.dumps(asdict(job)))
        report = run_process(PROCESS, work, str(model.folder))
        shutil.move(work / FILE, folder / FILE)
    return report


def _table(name: str, grid: QuantizedTensor, pte: PteFile) -> Equality:
    """A table of tokens: its bytes and its scales are constants of the program."""
    rows = range(0, len(grid.q), max(1, AT_ONCE // grid.q.shape[1]))
    parts = [slice(start, start + rows.step) for start in rows]
    held = all(
        any(_starts_with(constant, parts, encoded) for constant in pte.constants)
        for encoded in (lambda part: table_bytes(grid.rows(part)), lambda part: grid.scale[part])
    )
    return Equality(name, "executorch", READER, "float32", grid.q.numel(), 0 if held else grid.q.numel())


def _starts_with(constant: FilePart, parts: list[slice], encoded: Callable[[slice], Tensor]) -> bool:
    """Whether a constant's first bytes are those of a tensor, of which ``encoded`` gives some rows."""
    place = 0
    for part in parts:
        data = encoded(part).contiguous().numpy().tobytes()
        if place + len(data) > constant.size or constant.read(place, len(data)) != data:
            return False
        place += len(data)
    return True
