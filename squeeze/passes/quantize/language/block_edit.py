"""The walk of passes that rewrite a language model's real weights block by block and leave what it computes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.rewriter import Rewriter
from squeeze.models.language.walk import Walk
from squeeze.passes.base import Context, Pass
from squeeze.passes.quantize.language.block_pass import work_folder


class BlockEdit(Pass[LanguageModel, LanguageModel]):
    """Gives each block other weights that do the same."""

    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"weights_changed"})

    @abstractmethod
    def walk(self, model: LanguageModel, context: Context) -> Walk:
        """The sequences that the blocks are looked at with."""

    @abstractmethod
    def edit(self, model: LanguageModel, index: int, block: nn.Module, walk: Walk) -> dict[str, Any]:
        """Change some parameters of the block (by ``fill``); what is said of it."""

    def outside(self, model: LanguageModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """New tensors before and behind the blocks, and changes of the config."""
        return {}, {}

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        outside, config = self.outside(model)
        rewriter = Rewriter(model, work_folder(context), config)
        walk = self.walk(model, context)
        for index in context.progress.track(range(model.blocks), self.name, model.blocks):
            with model.block(index) as block:
                before = dict(block.named_parameters())
                if rewriter.done(index) is None:
                    facts = self.edit(model, index, block, walk)
                    now = block.named_parameters()
                    rewriter.put_block(index, {n: p.data for n, p in now if p is not before[n]}, facts)
            if index + 1 < model.blocks:
                with model.block(index):
                    walk.through(index)  # as it was: the block does the same
        rewriter.put_outside(outside, {})
        context.facts["blocks"] = {str(index): rewriter.done(index) or {} for index in range(model.blocks)}
        return rewriter.finish()
