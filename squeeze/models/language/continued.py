"""Texts that a language model writes: seeded sampling with a key-value cache, all its weights in memory as float32.

Holtzman et al., 2020, https://arxiv.org/abs/1904.09751 (``top_p``). The loop is that of transformers, so each family
keeps its own cache. Memory: 4 bytes a weight, and for each text ``4 x cache_values`` bytes a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from squeeze.models.language.language_model import LanguageModel

FLOAT = 4  # bytes
TOGETHER = 32  # texts that are written at once


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Args:
        temperature: Above 1 what is less likely is drawn more often.
        top_p: The likeliest tokens that have this share together are drawn from; 1: all of them.
        ends: Tokens with which a text is finished.
    """

    temperature: float
    top_p: float
    ends: tuple[int, ...] = ()


def writer_of(model: LanguageModel) -> nn.Module:
    """The model in memory, as :func:`continued` takes it."""
    return model.whole().float()


def writing_bytes(model: LanguageModel, texts: int, length: int) -> int:
    """What weights and cache take while so many texts of so many tokens are written together."""
    return FLOAT * (model.parameters() + texts * length * model.cache_values())


@torch.inference_mode()
def continued(module: nn.Module, prompts: list[list[int]], most: int, sampling: Sampling, seed: int) -> list[list[int]]:
    """Each prompt and what is written behind it, up to one of the tokens that end a text, which is left out.

    Args:
        prompts: Each of at least one token and fewer than ``most``.
        most: Tokens of the longest prompt and its continuation; other continuations are as long.
    """
    from transformers import GenerationConfig

    longest = max(map(len, prompts))
    tokens, mask = _filled_up(prompts, longest)
    config = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=0,
        max_new_tokens=most - longest,
        eos_token_id=list(sampling.ends) or None,
        pad_token_id=0,
    )
    module.generation_config = config  # what ours leaves open is not filled in from another
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        written: Tensor = module.generate(  # type: ignore[operator]
            inputs=tokens, attention_mask=mask, generation_config=config
        )
    rows = zip(prompts, written[:, longest:].tolist(), strict=True)
    return [prompt + list(takewhile(lambda token: token not in sampling.ends, new)) for prompt, new in rows]


def _filled_up(prompts: list[list[int]], longest: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask ``[n, longest]``, filled up in front, where a mask hides it."""
    tokens, mask = (torch.zeros(len(prompts), longest, dtype=torch.int64) for _ in range(2))
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return tokens, mask
