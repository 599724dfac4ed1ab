"""What runs in auto-round's process: learn the rounding, and read scales and integers from its linears.

When it is done a linear holds the weights that it computes with, float32, and its scales; the integers are their ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.passes.quantize.backends.job import Answer, Job, WeightScheme, work

FLOAT = 16  # bits, as it calls linears that stay as they are


def quantize(job: Job) -> Iterator[tuple[str, Answer]]:
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32, trust_remote_code=False)
    tokens = job.tokens
    rounding = AutoRound(
        model,
        tokenizer=AutoTokenizer.from_pretrained(job.model, trust_remote_code=False),
        dataset=[{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in tokens],
        seqlen=tokens.shape[1],
        nsamples=len(tokens),
        seed=job.seed,
        device_map="cpu",
        enable_torch_compile=False,  # compiling takes longer than it saves on a CPU
        layer_config=_layers(job),
        **next(iter(job.weights.values())).options(),
        **job.settings,
    )
    done, _ = rounding.quantize()
    for name, module in done.named_modules():
        if name in job.weights and hasattr(module, "scale"):
            yield name, _answer(module, job.weights[name])


def _layers(job: Job) -> dict[str, dict[str, Any]]:
    floats: dict[str, dict[str, Any]] = {name: {"bits": FLOAT} for name in job.float_linears}
    return floats | {name: scheme.options() for name, scheme in job.weights.items()}


def _answer(module: nn.Module, scheme: WeightScheme) -> Answer:
    weight: Any = module.weight
    scale: Any = module.scale
    size = weight.shape[1] // scale.shape[1]
    real, wide = weight.detach(), scale.float().repeat_interleave(size, dim=1)
    zero_point = _zero_points(module, scale) - 2 ** (scheme.bits - 1)
    centred = (real / wide).round().int()
    q = centred + zero_point.repeat_interleave(size, dim=1)
    return Answer(q.to(torch.int8), scale, zero_point, real)


def _zero_points(module: nn.Module, scale: Tensor) -> Tensor:
    """int32, shaped as ``scale``; the package keeps a number where all are the same."""
    zero: Any = module.zp
    return torch.full(scale.shape, int(zero), dtype=torch.int32) if not isinstance(zero, Tensor) else zero.int()


if __name__ == "__main__":
    work(quantize)
