"""all-MiniLM-L6-v2 as sentence-transformers runs it: BERT of six layers, mean of the tokens, length one.

Wang et al., 2020, https://arxiv.org/abs/2002.10957; Reimers & Gurevych, 2019, https://arxiv.org/abs/1908.10084. A plan
names it as ``model: {module: "minilm:encoder", weights: FOLDER/model.safetensors}``; module names are the file's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
UNSEEN = -10_000.0  # for what only fills up a batch


class Encoder(BertModel):
    """Token numbers in, one embedding ``[n, hidden]`` per sentence out."""

    inputs = {"input_ids": ((-1,), "int64"), "attention_mask": ((-1,), "int64")}  # what the model is fed, per example

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        positions = torch.arange(config.max_position_embeddings)[None]
        self.embeddings.register_buffer("position_ids", positions)  # old checkpoints store it

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        counted = attention_mask[..., None].to(torch.float32)
        unseen = (1 - counted)[:, None].transpose(-1, -2) * UNSEEN  # [n, 1, 1, length], added before each softmax
        tokens = super().forward(input_ids=input_ids, attention_mask=unseen).last_hidden_state
        mean = (tokens * counted).sum(1) / counted.sum(1)
        return nn.functional.normalize(mean, dim=1)


def encoder(**sizes: int) -> nn.Module:
    """As published, or with other sizes."""
    return Encoder(BertConfig(**SIZES | sizes, attn_implementation="eager"))
