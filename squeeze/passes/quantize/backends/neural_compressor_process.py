"""What runs in neural-compressor's process: prepare, calibrate, convert, and read its packed linears.

It packs 32 // bits integers to a word, ten at 3 bits, which no checkpoint format knows: they are read through its own
``unpack``, and what it computes with through its own ``recover``, float16 both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from squeeze.passes.quantize.backends.job import Answer, Job, WeightScheme, work


def quantize(job: Job) -> Iterator[tuple[str, Answer]]:
    from neural_compressor.torch.algorithms.weight_only.modules import INCWeightOnlyLinear
    from neural_compressor.torch.quantization import convert, prepare
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32, trust_remote_code=False)
    model.config.use_cache = False
    prepared = prepare(model.eval(), _config(job))
    for row in job.tokens:
        prepared(row[None])
    for name, module in convert(prepared).named_modules():
        if isinstance(module, INCWeightOnlyLinear) and name in job.weights:
            yield name, _answer(module, job.weights[name])


def _config(job: Job) -> Any:
    from neural_compressor.torch.quantization import GPTQConfig

    config: Any = GPTQConfig(dtype="fp32")
    for name, scheme in job.weights.items():
        size = scheme.group_size or -1
        own = GPTQConfig(bits=scheme.bits, group_size=size, use_sym=scheme.symmetric, **job.settings)
        config.set_local(name, own)
    return config


def _answer(module: Any, scheme: WeightScheme) -> Answer:
    parts = module.unpack()
    offset = 2 ** (scheme.bits - 1)
    q, zero_point = parts["int_weight"].int() - offset, parts["zp"].int() - offset
    g_idx = None if module.g_idx is None else module.g_idx.int()
    return Answer(q.to(torch.int8), parts["scales"], zero_point, module.recover(), g_idx)


if __name__ == "__main__":
    work(quantize)
