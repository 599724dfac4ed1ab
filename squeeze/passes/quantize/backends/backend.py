"""Shared by passes that call another package: its process, data transfer, and the proof that nothing is lost.

The package gets the dense model and the plan's calibration sequences, and quantizes the whole model in memory. What it
made is read into the grid without requantizing and held against the weights that it computes with itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor, integer_range
from squeeze.errors import EffectError, MissingExtra, SqueezeError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.rewriter import Rewriter
from squeeze.passes.base import Context, Holds, Pass, Preview
from squeeze.passes.calibration import calibration_tokens
from squeeze.passes.quantize.backends.job import GRIDS, LOG, Answer, Job, WeightScheme
from squeeze.passes.quantize.scheme import Scheme, WeightChoice

PACKAGES = Path(__file__).parents[4]  # the folder that squeeze is imported from
SECONDS = 0.2  # interval between polls of the process


class Backend(WeightChoice, Pass[LanguageModel, LanguageModel]):
    """A quantizer of another package, in a process of its own; the model is in that process's memory whole."""

    links_tables: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"calibration"})
    leaves: ClassVar[frozenset[str]] = frozenset({"quantized"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_bytes", "weights_changed"})
    package: ClassVar[str]  # name of the installed distribution
    process: ClassVar[str]  # the module that is run
    environment: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The options as the package calls them."""

    def faults(self, model: LanguageModel) -> Iterator[str]:
        return self.faults_before(model, lambda _: None)

    def faults_before(self, model: LanguageModel, holds: Holds) -> Iterator[str]:
        yield from self.option_faults(model, self.name, holds)
        shapes = model.matrices()
        if experts := [name for name in self.schemes(model) if shapes[name].experts]:
            what = f"{len(experts)} weights hold their experts in one tensor, {experts[0]} for one"
            yield f"{self.name}: {what}, which {self.package} is not given; exclude them, or let gptq take them"

    def preview(self, model: LanguageModel, before: Preview) -> Preview:
        return self.forecast(model, before)

    def run(self, model: LanguageModel, context: Context) -> LanguageModel:
        try:
            context.facts["backend"] = f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            raise MissingExtra(f"{self.name} needs {self.package}: pip install 'squeeze[{self.extra}]'") from None
        rewriter = Rewriter(model, context.model_folder())
        job = self._job(model, context)
        if not (Path(job.work) / GRIDS).exists():
            self._send(job, model, context)
        self._write(model, rewriter, dict(job.answers()), context)
        return rewriter.finish()

    def _job(self, model: LanguageModel, context: Context) -> Job:
        """The job for the backend's process; its folder lies beside the new model."""
        folder = (context.journal.folder if context.journal else context.work_folder()) / "backend"
        known = self.schemes(model)
        schemes = {_module(name): WeightScheme(s.bits, s.group_size, s.symmetric) for name, s in known.items()}
        linears = [name for name, child in model.skeleton.module.named_modules() if isinstance(child, nn.Linear)]
        floats = [name for name in linears if name not in schemes]
        dense, work = str(folder / "dense"), str(folder)
        return Job(dense, work, context.threads, context.seed, schemes, floats, self.settings())

    def _send(self, job: Job, model: LanguageModel, context: Context) -> None:
        """Run the job in a process of its own.

        Raises:
            SqueezeError: it ended in another way than well; says its last line and where the others are.
        """
        model.save_dense(Path(job.model))
        calibrates = "calibration" in self.needs
        tokens = calibration_tokens(context) if calibrates else torch.zeros(0, 0, dtype=torch.int64)
        file, log = job.write(tokens), Path(job.work) / LOG
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", self.process, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=job.work,
                env=self._environment(job),
            )
            try:
                for _ in context.progress.track(_until_done(process), f"{self.name} (no telling how far)"):
                    time.sleep(SECONDS)
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            last = _last_line(log)
            raise SqueezeError(f"{self.name}: {self.package} ended with code {process.returncode}: {last} (all: {log})")

    def _environment(self, job: Job) -> dict[str, str]:
        paths = os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH"))))
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
        return os.environ | quiet | {"PYTHONPATH": paths, "TMPDIR": job.work} | self.environment

    def _write(self, model: LanguageModel, rewriter: Rewriter, answers: dict[str, Answer], context: Context) -> None:
        schemes, shapes, moved = self.schemes(model), model.matrices(), 0.0
        for index in range(model.blocks):
            prefix = model.skeleton.prefix(index)
            new: dict[str, Tensor | QuantizedTensor] = {}
            for name in [name for name in schemes if name.startswith(prefix)]:
                answer = answers.get(_module(name))
                if answer is None:
                    raise EffectError(f"{self.name}: {self.package} left {_module(name)} unquantized")
                grid = read_answer(answer, schemes[name], shapes[name].matrix, f"{self.name}: {_module(name)}")
                moved = max(moved, _moved(grid, answer))
                new[name.removeprefix(prefix)] = grid
            rewriter.put_block(index, new, {})
        context.facts["quantized"] = {f"int{self.bits}": [len(schemes), len(schemes)]}
        context.facts["scales_rounded_by"] = moved  # largest relative change to float16; 0: they were float16 already


def read_answer(answer: Answer, scheme: Scheme, shape: tuple[int, ...], where: str) -> QuantizedTensor:
    """The grid that a backend gave, once it is sure that it is what the backend computes with and was asked for.

    Scales that are not exact in float16, in which the grid keeps them, are rounded to it after the comparison.

    Raises:
        EffectError: it is not.
    """
    if tuple(answer.q.shape) != shape:
        raise EffectError(f"{where} came back as {list(answer.q.shape)}, not {list(shape)}")
    low, high = int(answer.q.min()), int(answer.q.max())
    if low < integer_range(scheme.bits)[0] or high > integer_range(scheme.bits)[1]:
        raise EffectError(f"{where} came back with integers from {low} to {high}, which are not {scheme.bits} bits")
    if scheme.symmetric and bool(answer.zero_point.any()):
        raise EffectError(f"{where} came back with zero points, though symmetric was asked for")
    kind = scheme.bits, scheme.group_size, scheme.symmetric
    exact = QuantizedTensor(answer.q, answer.scale.float(), answer.zero_point, *kind, answer.g_idx)
    if not torch.equal(exact.dequantize().to(answer.real.dtype), answer.real):
        far = float((exact.dequantize() - answer.real.float()).abs().max())
        raise EffectError(f"{where}: what was read back is not what the backend computes with, by up to {far:.3g}")
    return replace(exact, scale=_float16(exact.scale, where))


def _float16(scale: Tensor, where: str) -> Tensor:
    """As float32 numbers that float16 holds; negative ones stay so (auto-round turns a grid round to use all of it)."""
    rounded = scale.half().float()
    if not bool(torch.isfinite(rounded).all()) or bool(((rounded == 0) & (scale != 0)).any()):
        low, high = float(scale.abs().min()), float(scale.abs().max())
        raise EffectError(
            f"{where}: scales from {low:.3g} to {high:.3g} do not fit float16, in which the grid keeps them"
        )
    return rounded


def _moved(grid: QuantizedTensor, answer: Answer) -> float:
    """The largest relative change of a scale."""
    scale = answer.scale.float()
    return float(((grid.scale - scale).abs() / scale.abs().clamp_min(1e-30)).max())


def _until_done(process: subprocess.Popen[bytes]) -> Iterator[None]:
    while process.poll() is None:
        yield


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _module(name: str) -> str:
    return name.removesuffix(".weight")
