"""The walk of passes that rewrite a language model's real weights block by block and leave what it computes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from squeeze.blocks.visit import visit_blocks
from squeeze.blocks.walk import Walk
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.rewriter import Rewriter
from squeeze.passes.base import Context, Pass


class BlockEdit(Pass[LanguageModel, LanguageModel]):
    """Gives each block other weights that compute the same."""

    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"weights_changed"})

    @abstractmethod
    def walk(self, model: LanguageModel, context: Context) -> Walk:
        """The sequences that the blocks are looked at with."""

    @abstractmethod
    def edit(self, model: LanguageModel, index: int, block: nn.Module, walk: Walk) -> dict[str, Any]:
        """Change some parameters of the block (by ``fill``); returns facts for the report."""

    def outside(self, model: LanguageModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """New tensors before and behind the blocks, and changes of the config."""
        return {}, {}

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        outside, config = self.outside(model)
        rewriter = Rewriter(model, context.model_folder(), config)
        walk = self.walk(model, context)

        def visit(index: int) -> None:
            with model.block(index) as block:
                before = dict(block.named_parameters())
                facts = self.edit(model, index, block, walk)
                now = block.named_parameters()
                rewriter.put_block(index, {n: p.data for n, p in now if p is not before[n]}, facts)

        advance = [(walk, model)]  # old weights: the edited block computes the same
        visit_blocks(model.blocks, rewriter, visit, advance, context.progress, self.name)
        rewriter.put_outside(outside, {})
        context.facts["blocks"] = {str(index): rewriter.done(index) for index in range(model.blocks)}
        return rewriter.finish()
