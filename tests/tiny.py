"""A network, data and a plan as small as they can be: what tests of the core need, in milliseconds.

Plans name the things here as ``tiny:network``, ``tiny:Scale``; nothing is trained and nothing is exported.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from squeeze.api import check, load
from squeeze.cli import main
from squeeze.errors import ModelError, PlanError, Terminated
from squeeze.models.base import InputSpec
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Pass
from squeeze.progress import Progress

CLASSES = 4
PLAN = """\
model: {module: "tiny:network", weights: tiny.safetensors}
data:
  evaluate: {npz: evaluate.npz}
  calibrate: {npz: calibrate.npz}
metrics: [top1, kl, size]
passes:
  - pass: "tiny:Scale"
    factor: 2.0
"""


def network(width: int = 8, channels: int = 3, classes: int = CLASSES) -> nn.Sequential:
    """``[n, channels, any, any]`` to ``[n, classes]``."""
    convolution = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Killed(Progress):
    """Ends the work, as a kill does, once it has done so many things; counts them."""

    def __init__(self, after: int) -> None:
        self.after, self.done = after, 0

    def track(self, items, what, total=None):  # type: ignore[no-untyped-def]
        for item in items:
            if self.done == self.after:
                raise KeyboardInterrupt
            yield item
            self.done += 1


class Scale(Pass[TorchModel, TorchModel]):
    """Multiply the classifier's weights."""

    promises = frozenset({"weights_changed"})
    factor: float = 2.0

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        with torch.no_grad():
            model.module.get_submodule("4").weight.mul_(self.factor)  # type: ignore[operator,union-attr]
        return model


class Quantize(Scale):
    """Says that it leaves integers, as a pass that quantizes does."""

    leaves = frozenset({"quantized"})


class Interrupt(Scale):
    """The user presses Ctrl-C."""

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        raise KeyboardInterrupt


class Terminate(Scale):
    """The system asks the process to end."""

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        signal.raise_signal(signal.SIGTERM)
        return model


class Litter(Scale):
    """Leaves its work in progress, and fails, is stopped or does neither."""

    then: str = "finish"

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        (context.work_folder() / "work in progress").write_text("half")
        stops = {"fail": ModelError("on purpose"), "Ctrl-C": KeyboardInterrupt(), "SIGTERM": Terminated()}
        if self.then in stops:
            raise stops[self.then]
        return super().run(model, context)


class Remove(Scale):
    """Somebody removes a folder meanwhile."""

    folder: str = ""

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        shutil.rmtree(self.folder)
        return super().run(model, context)


class Wait(Scale):
    """Says that it has begun and waits for a line, where the environment asks for it."""

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        if "WAIT" in os.environ:
            print("waiting", flush=True)
            sys.stdin.readline()
        return super().run(model, context)


def raises() -> nn.Module:
    raise RuntimeError("no disk\nand a second line")


def leaves() -> nn.Module:
    raise SystemExit(3)  # must not become the exit code of a broken budget


def nothing() -> None:
    return None


def chatty() -> nn.Module:
    print("this is no JSON")
    return network()


def two_maps() -> nn.Module:
    return nn.Conv2d(3, 4, 3)  # [n, 4, h, w]: no logits


number = 3


def images(count: int, seed: int, side: int = 6, channels: int = 3) -> np.ndarray:
    """``[n, side, side, channels]`` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def write_npz(path: Path, count: int = 12, seed: int = 0, **arrays: Any) -> Path:
    """Images and labels that nobody else has; ``arrays`` replace or join them."""
    labels = np.random.default_rng(seed).integers(0, CLASSES, count)
    np.savez(path, **{"images": images(count, seed), "labels": labels} | arrays)
    return path


def tiny_model() -> TorchModel:
    torch.manual_seed(0)
    source = FactorySource("tiny:network")
    return TorchModel(source.build(), source, (InputSpec("image", (3, 6, 6)),))


def write_world(folder: Path) -> Path:
    """Weights and data that ``PLAN`` names."""
    save_file(tiny_model().module.state_dict(), folder / "tiny.safetensors")
    write_npz(folder / "evaluate.npz", seed=1)
    write_npz(folder / "calibrate.npz", seed=2)
    write_npz(folder / "train.npz", seed=3)
    return folder


def write_plan(folder: Path, text: str = PLAN, *changes: tuple[str, str]) -> Path:
    """A plan file; each change replaces one piece of the text, which must be there."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in the plan"
        text = text.replace(old, new)
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


def faults(path: Path, *overrides: str, **variables: str) -> list[str]:
    """``line: message`` of every fault of a plan file, found by reading and checking it."""
    try:
        result = check(load(path, overrides, variables))
    except PlanError as error:
        result = error.faults
    return [f"{fault.line}: {fault.message}" for fault in result]


def squeeze(*arguments: object) -> int:
    """The command line in this process; gives its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def on_disk(folder: Path) -> int:
    """Bytes of all files, those that have several names once; those that have names elsewhere take nothing."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    names = Counter(file.st_ino for file in files)
    return sum({file.st_ino: file.st_size for file in files if file.st_nlink == names[file.st_ino]}.values())
