"""What runs in torchao's process: configure linears as for ExecuTorch and read integers and scales from their weights.

Scales are asked for in bfloat16, in which XNNPACK's kernels keep them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from squeeze.passes.quantize.backends.job import Answer, Job, WeightScheme, work


def quantize(job: Job) -> Iterator[tuple[str, Answer]]:
    from torchao.quantization import quantize_
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32, trust_remote_code=False)
    for scheme in dict.fromkeys(job.weights.values()):
        names = frozenset(name for name, own in job.weights.items() if own == scheme)
        quantize_(model, _config(scheme, job), filter_fn=lambda _, name, names=names: name in names)
    for name in job.weights:
        weight = model.get_submodule(name).weight
        zero_point = torch.zeros(weight.scale.shape, dtype=torch.int32)
        yield name, Answer(weight.qdata, weight.scale.detach(), zero_point, weight.dequantize().float())


def _config(scheme: WeightScheme, job: Job) -> Any:
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, PerGroup
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    return Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, f"int{scheme.bits}"),
        weight_granularity=PerAxis(0) if scheme.group_size is None else PerGroup(scheme.group_size),
        weight_scale_dtype=torch.bfloat16,
        intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm[job.settings["algorithm"].upper()],
    )


if __name__ == "__main__":
    work(quantize)
