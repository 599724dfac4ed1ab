"""What a language model writes, for people to read in the report."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveInt

from squeeze.errors import ModelError, first_line
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context, Pass


class Write(Pass[LanguageModel, LanguageModel]):
    """Let the model go on from a prompt and show the text in the report; the model stays as it is.

    The likeliest token each time, so the same model writes the same text. All of it is in memory for that.
    """

    name: ClassVar[str] = "write"

    prompt: str = "Once upon a time"
    """Text to go on from."""
    tokens: PositiveInt = 120
    """Most tokens written; fewer where the model ends the text."""

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"{model.folder}: no tokenizer can be read here ({first_line(error)})") from None
        prompt = tokenizer(self.prompt, return_tensors="pt")
        whole: Any = model.whole()
        with torch.no_grad():
            output = whole.generate(
                input_ids=prompt["input_ids"],
                attention_mask=torch.ones_like(prompt["input_ids"]),
                max_new_tokens=self.tokens,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        context.facts["text"] = tokenizer.decode(output[0], skip_special_tokens=True)
        return model
