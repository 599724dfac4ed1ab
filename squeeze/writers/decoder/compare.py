"""An exported decoder beside the torch model that it came from: the same logits in one go and token by token.

Torch walks the model block by block in float32, quantized weights as exactly what they stand for. The graph runs with
products whose activations stay float32, so that what is compared is the graph and the weights; what rounding the
activations adds is measured apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.errors import EffectError
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.onnx_decoder import Session, Text

SEQUENCES, LENGTH, FIRST = 2, 12, 5  # tokens compared; the first so many are read in one go, then one by one
MOST_TOKEN_ID = 4096  # token ids read, and logits compared, stay below this
TOLERANCE = 1e-3  # relative to the largest logit: summation order explains less, a wrong graph differs more


@dataclass(frozen=True)
class Differences:
    """The largest of a logit's, each as a share of the largest logit."""

    prefill: float
    decode: float


class Exact(LanguageModel):
    """The model with float32 weights; a quantized one is exactly ``scale * (q - zero_point)``.

    Args:
        most_tokens: Only so many: large tables at both ends are not in memory whole.
    """

    def __init__(self, folder: Path, most_tokens: int | None = None) -> None:
        super().__init__(folder)
        self.most_tokens = most_tokens
        self.cut = {name.rpartition(".")[0] for name in self.skeleton.ends}

    def tensor(self, name: str, wide: bool = True) -> Tensor:
        rows = slice(self.most_tokens if name.rpartition(".")[0] in self.cut else None)
        if name in self.grid:
            grid = self.quantized(name)
            whole = self.grid[name].shape
            return grid.dequantize().reshape(whole) if rows.stop is None else grid.rows(rows).dequantize()
        return super().tensor(name)[rows].float()


def reference(model: LanguageModel, blocks: int | None = None) -> tuple[Tensor, Tensor]:
    """Random tokens ``[sequences, length]`` and torch's logits of some tokens behind each of them.

    Args:
        blocks: Only the first so many; None: all.
    """
    vocabulary = min(model.tokens_known, model.vocabulary, MOST_TOKEN_ID)
    exact, generator = Exact(model.folder, vocabulary), torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (SEQUENCES, LENGTH), generator=generator)
    walk = exact.walk(tokens)
    for index in range(exact.blocks if blocks is None else blocks):
        with exact.block(index):
            walk.through(index)
    with exact.outside():
        return tokens, torch.cat([logits for _, logits in walk.finish()])


def differences(file: Path, threads: int, tokens: Tensor, expected: Tensor, exact: bool = False) -> Differences:
    """Of a file's logits from the expected ones; ``exact``: products that the runtime makes itself round nothing."""
    session = Session(file, threads, exact=exact)
    whole = session.read(tokens.numpy(), session.nothing(len(tokens)), 0)[0]
    largest, width = float(expected.abs().max().clamp_min(1e-6)), expected.shape[-1]
    prefill = float(np.abs(whole[..., :width] - expected.numpy()).max()) / largest
    steps = [np.abs(new[:width] - expected[row, at].numpy()).max() for row, at, new in _decoded(session, tokens)]
    return Differences(prefill, float(max(steps)) / largest)


def require_equal(differences: Differences) -> None:
    """Raise ``EffectError`` where the graph computes something else."""
    for what, error in (("read in one go", differences.prefill), ("read token by token", differences.decode)):
        if not error <= TOLERANCE:
            how = f"logits differ by {error:.1e} of the largest; {TOLERANCE:g} would do"
            raise EffectError(f"export_onnx: {what}, {how}")


def with_float_activations(source: Path, target: Path) -> bool:
    """The same graph with activations in float32; False, and no file, where it has no product that rounds them."""
    graph_model = ir.load(source)
    rounding = [node for node in graph_model.graph.all_nodes() if "accuracy_level" in node.attributes]
    for node in rounding:
        del node.attributes["accuracy_level"]
    if rounding:
        target.write_bytes(ir.to_proto(graph_model).SerializeToString(deterministic=True))
    return bool(rounding)


def _decoded(session: Session, tokens: Tensor) -> Iterator[tuple[int, int, np.ndarray]]:
    """Of each sequence, logits behind its first tokens and behind each one more."""
    for row, sequence in enumerate(tokens.tolist()):
        text = Text(session, LENGTH)
        yield row, FIRST - 1, text.read(sequence[:FIRST])
        for at in range(FIRST, LENGTH):
            yield row, at, text.read([sequence[at]])
