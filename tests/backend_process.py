"""A backend's process for tests, whose package is Squeeze's own rounding; a setting tells it what to do wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from squeeze.algorithms.rtn import round_to_nearest
from squeeze.passes.quantize.backends.job import Answer, Job, work


def quantize(job: Job) -> Iterator[tuple[str, Answer]]:
    print("a package that talks")
    assert job.tokens.dtype == torch.int64
    if job.settings["wrong"] == "fails":
        raise ValueError("no such luck")
    stored = {name: value for file in Path(job.model).glob("*.safetensors") for name, value in load_file(file).items()}
    for name, scheme in list(job.weights.items())[1 if job.settings["wrong"] == "leaves one" else 0 :]:
        grid = round_to_nearest(stored[f"{name}.weight"], scheme.bits, scheme.group_size, scheme.symmetric)
        real = grid.dequantize() + (0.001 if job.settings["wrong"] == "computes with others" else 0)
        yield name, Answer(grid.q, grid.scale, grid.zero_point, real, grid.g_idx)


if __name__ == "__main__":
    work(quantize)
