"""What runs in gptqmodel's process: quantize, save a checkpoint, read its tensors, and let the package open it again.

Its kernel for CPUs refuses float32, so what it computes with are float16 products of a scale and an integer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from squeeze.formats.gptq_checkpoint import PARTS, from_tensors
from squeeze.passes.quantize.backends.job import Answer, Job, work


def quantize(job: Job) -> Iterator[tuple[str, Answer]]:
    from gptqmodel import BACKEND, GPTQModel

    saved = Path(job.work) / "saved"
    settings = dict(job.settings)
    batch_size = settings.pop("batch_size")
    model: Any = GPTQModel.load(job.model, _config(job, settings))
    sequences = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in job.tokens.tolist()]
    model.quantize(sequences, batch_size=batch_size, calibration_data_min_length=1)
    model.save(str(saved))
    del model
    stored: dict[str, Tensor] = {}
    for file in sorted(saved.glob("*.safetensors")):
        stored |= load_file(file)
    opened: Any = GPTQModel.load(str(saved), backend=BACKEND.TORCH, dtype=torch.float16, device="cpu")
    kernels = dict(opened.model.named_modules())
    version = 1 if _symmetric(job) else 2
    for name, scheme in job.weights.items():
        if f"{name}.qweight" not in stored:
            continue  # the caller reports it
        parts = {part: stored[f"{name}.{part}"] for part in PARTS}
        grid = from_tensors(parts, scheme.bits, scheme.group_size, version)
        real = kernels[name].dequantize_weight().t()
        yield name, Answer(grid.q, grid.scale, grid.zero_point, real, grid.g_idx)


def _config(job: Job, settings: dict[str, Any]) -> Any:
    from gptqmodel import QuantizeConfig
    from gptqmodel.quantization.config import GPTAQConfig

    alpha = settings.pop("alpha")
    first = next(iter(job.weights.values()))
    special: dict[str, dict[str, Any]] = {f"-:^{re.escape(name)}$": {} for name in job.float_linears}
    special |= {f"^{re.escape(name)}$": scheme.options() for name, scheme in job.weights.items() if scheme != first}
    return QuantizeConfig(
        **first.options(),
        **settings,
        gptaq=GPTAQConfig(alpha=alpha) if alpha else None,
        dynamic=special,
        format="gptq" if _symmetric(job) else "gptq_v2",
        device="cpu",
    )


def _symmetric(job: Job) -> bool:
    return all(scheme.symmetric for scheme in job.weights.values())


if __name__ == "__main__":
    work(quantize)
