"""Text that the original writes itself: nothing leaves the machine, and no corpus is needed.

What is written is a ``.jsonl`` of texts, read and cut as any other; writing it is the business of ``squeeze.run``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Le
from pydantic import PositiveInt

from squeeze.data.cut import encoded
from squeeze.data.text import TextData, TextSource
from squeeze.data.text_file import TextFile
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import DataError


class SynthesizeData(TextSource):
    """Text that the plan's original model writes, by seeded sampling: from the user's prompts, or from nothing.

    Liu et al., 2023, https://arxiv.org/abs/2305.17888. The store keeps it: the same plan never writes it twice.
    """

    kind = "synthesize"
    asks_original = True

    synthesize: PositiveInt
    """How many sequences; of these `samples` and `select` may choose some."""
    prompts: str | None = None
    """A text file with a prompt per line, or a .jsonl with one in each `field`; taken in turn. null: the model begins
    each text itself, behind the token that opens one."""
    field: str = "text"
    """Of each line of a `.jsonl` file of prompts."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Above 1 what is less likely is written more often, below 1 more seldom."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """The likeliest tokens that have this share together are drawn from; 1: all of them."""

    def where(self) -> str:
        return self.prompts or self.kind

    def most_sequences(self) -> int:
        return self.samples or self.synthesize

    def chooses(self) -> bool:
        return True

    def open(self, root: Path, model: Path | None = None) -> TokenDataset:
        raise DataError("synthesize: the plan's original writes this text; a run lends it")

    def text(self, written: Path) -> TextData:
        """The source of what was written: a ``.jsonl``."""
        shared = {name: getattr(self, name) for name in TextSource.model_fields}
        return TextData(text=str(written), **shared)

    def faults(self, root: Path) -> Iterator[str]:
        if self.prompts is not None:
            yield from super().faults(root)
        else:
            yield from self.option_faults()

    def read_prompts(self, root: Path, tokenizer: Any) -> list[list[int]]:
        """The tokens of each prompt, as the tokenizer begins a text.

        Raises:
            DataError: there are none, one leaves nothing to write, or no token opens a text.
        """
        if self.prompts is None:
            token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            if token is None:
                raise DataError("synthesize: the tokenizer has no token that opens a text; prompts: a file would do")
            return [[token]]
        file = TextFile(root / self.prompts, self.field, root)
        lines = list(file.texts()) if file.by_lines else file.whole().splitlines()
        texts = [line for line in lines if line.strip()]
        if not texts:
            raise DataError(f"{self.prompts}: prompts: holds none; a line each would do")
        prompts: list[list[int]] = encoded(tokenizer, texts, verbose=False)["input_ids"]
        longest = max(map(len, prompts))
        if longest >= self.length:
            what = f"one has {longest} tokens, and a text of length: {self.length} ends there"
            raise DataError(f"{self.prompts}: prompts: {what}; shorter ones, or a length of more, would do")
        return prompts
