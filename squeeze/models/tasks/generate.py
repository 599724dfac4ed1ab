"""Continue a text, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from squeeze.models.base import Batch, Model
from squeeze.models.tasks.base import TOKENS
from squeeze.models.tasks.cross_entropy import CrossEntropyTask


class Generate(CrossEntropyTask):
    """Logits of each next token, ``[n, length, vocabulary]``; what is right, the text itself says."""

    name = "generate"
    models = "language models"
    outputs = TOKENS
    metrics = ("perplexity", "kl", "flips", "size_bytes", "parameters")
    shows = "text"
    adamw_rate = 1e-4

    def golden(self, model: Model) -> Batch:
        return Batch({"input_ids": torch.tensor([model.golden_prompt()])})

    def predictions(self, output: Tensor) -> Tensor:
        return output[:, :-1].flatten(0, 1)

    def targets(self, batch: Batch) -> Tensor:
        return batch.inputs["input_ids"][:, 1:].flatten()
