"""What a backend's process is asked for, and what it gives back.

The process is another package's world: it prints, patches torch, starts threads and may crash. So it gets a folder and
a file of tokens, and gives a file of integers, scales and, beside them, the weights that the package itself makes of
those; whoever asked checks that they are the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from squeeze.work import end_with_parent

TOKENS, GRIDS, LOG = "tokens.safetensors", "grids.safetensors", "log.txt"
PARTS = ("q", "scale", "zero_point", "real", "g_idx")  # of an answer


@dataclass(frozen=True)
class WeightScheme:
    """How one weight is to be stored."""

    bits: int
    group_size: int | None
    symmetric: bool

    def options(self) -> dict[str, Any]:
        """As GPTQ's packages call them."""
        return {"bits": self.bits, "group_size": self.group_size or -1, "sym": self.symmetric}


@dataclass(frozen=True)
class Answer:
    """One weight as a backend left it.

    Args:
        q: int8 ``[out, in]``, signed: ``real = scale * (q - zero_point)``.
        scale: ``[out, groups]``, in whichever float type the backend keeps it.
        zero_point: int32 ``[out, groups]``.
        g_idx: ``[in]``, the group of each input channel; None where groups are consecutive channels.
        real: ``[out, in]``, what the backend itself makes of it, in its own float type.
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    real: Tensor
    g_idx: Tensor | None = None


@dataclass(frozen=True)
class Job:
    """One model for one backend.

    Args:
        model: Folder of the dense model.
        work: Folder where everything else lies, and where the process may leave files.
        weights: How each linear is to be stored, by module name.
        float_linears: Linears that stay as they are.
        settings: Options as the backend calls them.
    """

    model: str
    work: str
    threads: int
    seed: int
    weights: dict[str, WeightScheme]
    float_linears: list[str]
    settings: dict[str, Any]

    @property
    def tokens(self) -> Tensor:
        """int64 ``[sequences, length]``."""
        return load_file(Path(self.work) / TOKENS)["tokens"]

    def write(self, tokens: Tensor) -> Path:
        """Put the job and its calibration tokens into its folder; gives the file that the process reads."""
        work = Path(self.work)
        work.mkdir(parents=True, exist_ok=True)
        save_file({"tokens": tokens.contiguous()}, work / TOKENS)
        file = work / "job.json"
        file.write_text(json.dumps(asdict(self)))
        return file

    @classmethod
    def read(cls, file: Path) -> Job:
        """What :meth:`write` wrote."""
        values = json.loads(file.read_text())
        values["weights"] = {name: WeightScheme(**scheme) for name, scheme in values["weights"].items()}
        return cls(**values)

    def answers(self) -> Iterator[tuple[str, Answer]]:
        """By module name, what the process gave."""
        tensors = load_file(Path(self.work) / GRIDS)
        for name in self.weights:
            if f"{name}.q" in tensors:
                parts = {part: tensors.get(f"{name}.{part}") for part in PARTS}
                yield name, Answer(**parts)  # type: ignore[arg-type]  # all but g_idx are there where q is


def work(quantize: Callable[[Job], Iterator[tuple[str, Answer]]]) -> None:
    """The life of a backend's process: read the job, do it, leave the answers whole or not at all."""
    end_with_parent()  # a killed run leaves no process behind that goes on for hours
    job = Job.read(Path(sys.argv[1]))
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    tensors: dict[str, Tensor] = {}
    for name, answer in quantize(job):
        parts = {part: getattr(answer, part) for part in PARTS}
        tensors |= {f"{name}.{part}": value.contiguous() for part, value in parts.items() if value is not None}
    temporary = Path(job.work) / f"{GRIDS}.part"
    save_file(tensors, temporary)
    temporary.replace(Path(job.work) / GRIDS)
