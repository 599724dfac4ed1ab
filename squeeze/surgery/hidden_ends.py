"""What lies before and behind the blocks of a decoder whose stream gets narrower: embedding, norm and head.

The channels that stay enter the stream as they did, also where a family scales them by its hidden size (Gemma): the
factor is found by embedding a few tokens both ways, and goes into the table. A head of its own is solved for what the
narrow stream's norm gives; one that is the embedding cannot change, there the norm's weights are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor

from squeeze.algorithms.factor import factorize
from squeeze.algorithms.hidden_channels import Means, MeansOf, norm_scales, refit_reader
from squeeze.blocks.inputs import head_inputs
from squeeze.blocks.norms import watched_output, weight_offset
from squeeze.blocks.walk import Walk
from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton, filled
from squeeze.surgery.hidden import OTHERS, Hidden, head_of, narrowed, table_of

ROWS = 4096  # tokens of the vocabulary at once
SAME = 2e-2  # of what is embedded, whose factor may have been rounded to half precision


class HiddenEnds:
    """The tensors outside the blocks, narrower, and a model that computes with them.

    Args:
        skeleton: Of the narrow model.
        kept: ``[kept]``, the channels that stay.
    """

    def __init__(self, model: LanguageModel, skeleton: Skeleton, hidden: Hidden, kept: Tensor) -> None:
        self.model, self.skeleton, self.hidden, self.kept = model, skeleton, hidden, kept
        self.tensors = {name: narrowed(model.tensor(name), hidden.outside.get(name), kept) for name in skeleton.outside}
        self.factor = 1.0  # of what is embedded
        self.table, self.head = table_of(skeleton), head_of(skeleton)

    def started(self, original: Walk) -> Walk:
        """The narrow model's walk, before its first block.

        Args:
            original: Before its first block, too.

        Raises:
            ModelError: what is embedded is not the channels that stay, whatever it is multiplied by.
        """
        spill = original.spill.with_name(f"{original.spill.name}-narrow") if original.spill else None
        narrow = Walk(self.skeleton, original.tokens, original.chunk, spill, original.wide)
        probe = copy(narrow)
        probe.tokens, probe.spill, probe.calls = original.tokens[: original.chunk], None, {}
        with self.filled():
            probe.start()
        self._scale_embedding(probe.hidden.float(), original.hidden[: original.chunk][..., self.kept].float())
        with self.filled():
            narrow.start()
        return narrow

    def _scale_embedding(self, now: Tensor, before: Tensor) -> None:
        factor = float((now * before).sum() / now.square().sum().clamp_min(1e-30))
        if (factor * now - before).norm() > SAME * before.norm():
            kind = self.skeleton.config.get_text_config().model_type
            raise ModelError(f"model_type '{kind}' embeds tokens otherwise with a smaller hidden_size; {OTHERS}")
        if abs(factor - 1) > 1e-3:
            self.factor, value = factor, self.tensors[self.table]
            self.tensors[self.table] = (value.float() * factor).to(value.dtype)

    @contextmanager
    def filled(self) -> Iterator[None]:
        """The narrow model with these tensors, for as long as the ``with`` lasts."""
        module = self.skeleton.module
        try:
            with filled(module, self.tensors, self.tensors.__getitem__):
                module.tie_weights()  # type: ignore[operator]
                yield
        finally:
            module.tie_weights()  # type: ignore[operator]

    @torch.no_grad()
    def solve(self, narrow: Walk, original: Walk, damping: float | None) -> None:
        """Let the head give what it gave.

        Args:
            narrow, original: Behind the last block.
            damping: None: nothing is made up for but factors that the family's code takes from its hidden size.
        """
        part = next(narrow.chunks())
        with self.filled():
            now = self._behind_norm(narrow, part)
        with self.model.outside():
            before = self._behind_norm(original, part)
        self._scale_norm(torch.tensor(before / now / (self.factor if self.tied else 1.0)))
        if damping is None:
            return
        if self.tied and self.norm is None:
            return
        means = self._means(narrow, original)
        if self.tied:
            self._scale_norm(norm_scales(*self._grams(), means.C, means.H, damping))
        else:
            self._solve_head(means, damping)

    @property
    def tied(self) -> bool:
        return len(self.skeleton.ends) == 1

    @property
    def norm(self) -> str | None:
        """The module between blocks and head that has weights for the channels."""
        flat = [name for name in self.hidden.outside if self.tensors[name].dim() == 1]
        return flat[0].rpartition(".")[0] if flat else None

    def _behind_norm(self, walk: Walk, part: slice) -> float:
        """What the head sees, as a multiple of what the norm before it gives."""
        outputs: list[Tensor] = []
        if self.norm is None:
            return 1.0
        with watched_output(walk.network.module.get_submodule(self.norm), outputs.append):
            inputs = head_inputs(walk, self.head, part)
        output = outputs[0].flatten(0, -2).float()
        return float((inputs * output).sum() / output.square().sum().clamp_min(1e-30))

    def _scale_norm(self, scale: Tensor) -> None:
        """Multiply what the norm gives, all of it or channel by channel."""
        if not bool(((scale - 1).abs() > 1e-3).any()):
            return
        if self.norm is None:
            kind = self.skeleton.config.get_text_config().model_type
            raise ModelError(
                f"model_type '{kind}' has no weights between blocks and head to scale what is tied; {OTHERS}"
            )
        with self.filled():
            offset = weight_offset(self.skeleton.module.get_submodule(self.norm))
        for kind, added in (("weight", offset), ("bias", 0.0)):
            value = self.tensors.get(f"{self.norm}.{kind}")
            if value is not None:
                self.tensors[f"{self.norm}.{kind}"] = ((value.float() + added) * scale - added).to(value.dtype)

    def _means(self, narrow: Walk, original: Walk) -> Means:
        size, kept = self.hidden.size, len(self.kept)
        means = MeansOf(size, kept)
        with self.filled(), self.model.outside():
            for part in narrow.chunks():
                means.add(head_inputs(narrow, self.head, part), head_inputs(original, self.head, part))
        return means.result()

    def _grams(self) -> tuple[Tensor, Tensor]:
        """``E_K^T E_K`` and ``E^T E_K`` without the mean over tokens, which no probability depends on."""
        before, now = self.model.tensor(self.head.name), self.tensors[self.head.name]
        means = MeansOf(self.hidden.size, len(self.kept))
        for old, new in zip(torch.split(before, ROWS), torch.split(now, ROWS), strict=True):
            means.add(new.float(), old.float())
        result = means.result().centred()
        return result.H, result.C

    def _solve_head(self, means: Means, damping: float) -> None:
        name, bias_name = self.head.name, f"{self.head.name.removesuffix('weight')}bias"
        bias = self.tensors.get(bias_name)
        own = means if bias is None else means.centred()
        factor, rows = factorize(own.H, damping), []
        bias_rows = []
        for W in torch.split(self.model.tensor(name), ROWS):
            new = refit_reader(W, self.kept, own.C, own.H, factor)
            rows.append(new.to(W.dtype))
            bias_rows.append(W.float() @ means.before - new @ means.now)
        self.tensors[name] = torch.cat(rows)
        if bias is not None:
            self.tensors[bias_name] = (bias.float() + torch.cat(bias_rows)).to(bias.dtype)
