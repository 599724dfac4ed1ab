"""ExecuTorch: ``.pte`` programs that answer one batch in one call, most of it by XNNPACK.

Its Python binding talks to standard error from C++; what it says is held back, and its last line is the reason of a
fault. Its threads belong to the process, not to a program: whoever asks for another number makes the others load again.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from squeeze.errors import ModelError, all_lines
from squeeze.formats.tensor_spec import TensorSpec
from squeeze.runtimes.base import GENERATE, PREDICT, Arrays, Opened, Runtime

if TYPE_CHECKING:  # a child that only runs a file starts without torch
    from squeeze.models.facts import Facts
    from squeeze.models.language.artifact import LanguageArtifact

DTYPES = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool"}


class ExecuTorchProgram:
    """A ``.pte`` file with its threads.

    Args:
        threads: Of the whole process: another number makes programs that are open load again when they next run.
    """

    NAMES = "names"  # the method of our files that returns the names of inputs and outputs as JSON
    programs: ClassVar[Any] = weakref.WeakSet()
    of_process: ClassVar[int] = 0

    def __init__(self, file: Path, threads: int) -> None:
        self.file, self.threads = str(file), threads
        self.program: Any = None
        self.method: Any = None
        self.loaded()

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """All outputs, in their order; inputs in the order in which they are given."""
        return [output.numpy() for output in self.call(self.tensors(feed))]

    def call(self, tensors: list[Any]) -> Any:
        """Its outputs, on its own number of threads.

        Kernels outside the delegate run in OpenMP, of which torch decides how many threads there are. More of them than
        was asked for wait for each other in every operator, and halve a decoder's speed.
        """
        import torch

        method, before = self.loaded(), torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return method(tensors)
        finally:
            torch.set_num_threads(before)

    def tensors(self, feed: dict[str, Any]) -> list[Any]:
        """In memory as the program reads them: it takes no strides."""
        import numpy as np
        import torch

        return [torch.from_numpy(np.ascontiguousarray(array).copy()) for array in feed.values()]

    def loaded(self) -> Any:
        """The program's method, loaded for this number of threads."""
        if self.method is None or self.threads != ExecuTorchProgram.of_process:
            with self.quiet() as stderr_file:
                try:
                    self.load()
                except RuntimeError as error:
                    raise RuntimeError(self.reason(error, stderr_file)) from None
        return self.method

    def load(self) -> None:
        """Load it; where threads change, every other program lets go first of the threads that it holds."""
        import torch  # noqa: F401  # its libraries must be there before the binding's
        from executorch.extension.pybindings import _C as binding  # noqa: N811  # a module

        if self.threads != ExecuTorchProgram.of_process:
            for other in list(ExecuTorchProgram.programs):
                other.method = other.program = None
            binding._unsafe_reset_threadpool(self.threads)
            ExecuTorchProgram.of_process = self.threads
        check = binding.Verification.InternalConsistency
        self.program = binding._load_program(self.file, program_verification=check)
        self.method = self.program.load_method("forward")
        ExecuTorchProgram.programs.add(self)

    def names(self) -> dict[str, Any]:
        """The names of inputs and outputs, and what else the file records; empty where Squeeze did not write it."""
        self.loaded()
        methods = [self.program.get_method_name(index) for index in range(self.program.num_methods())]
        if self.NAMES not in methods:
            return {}
        with self.quiet():
            (letters,) = self.program.load_method(self.NAMES)([])
        names = json.loads(bytes(letters.numpy().tolist()))
        if not isinstance(names, dict):
            raise ValueError("its names are none")
        return names

    @staticmethod
    def reason(error: Exception, stderr_file: Any) -> str:
        """What it wrote last to standard error, behind the place in its own code; else the error as it is."""
        stderr_file.flush()
        stderr_file.seek(0)
        lines = [line for line in stderr_file.read().splitlines() if line.strip()]
        return lines[-1].partition("] ")[2] or lines[-1] if lines else str(error)

    @staticmethod
    @contextmanager
    def quiet() -> Iterator[Any]:
        """Hold back what C++ writes to standard error, by itself or by Python's."""
        with tempfile.TemporaryFile("w+", errors="replace") as stderr_file:
            stderr = os.dup(2)
            os.dup2(stderr_file.fileno(), 2)
            try:
                with redirect_stderr(stderr_file):
                    yield stderr_file
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)


class ExecuTorchText(ExecuTorchProgram):
    """A ``.pte`` decoder that goes on with a text, a chunk of tokens at a time."""

    def __init__(self, file: Path, threads: int) -> None:
        super().__init__(file, threads)
        self.record = self.names()
        self.context, self.chunk = int(self.record["context"]), int(self.record["chunk"])
        self.vocabulary = int(self.record["vocabulary"])
        self.reset()

    def reset(self) -> None:
        """A new text begins."""
        self.length, self.reading = 0, self.method

    def feed(self, tokens: list[int], every: bool = False) -> Any:
        """Read more tokens; float32 logits ``[tokens, vocabulary]``, or of the last one alone ``[1, vocabulary]``."""
        import numpy as np

        if self.length + len(tokens) > self.context:
            total = self.length + len(tokens)
            raise ValueError(f"{total} tokens are more than the {self.context} that a text may have")
        rows = []
        for start in range(0, len(tokens), self.chunk):
            part = tokens[start : start + self.chunk]
            logits = self.feed_chunk(part)
            rows.append(logits if every else logits[-1:])
        return np.concatenate(rows) if every else rows[-1]

    def feed_chunk(self, part: list[int]) -> Any:
        """Read at most ``chunk`` tokens; their logits."""
        import numpy as np

        if self.length and self.loaded() is not self.reading:
            raise ValueError("the number of threads changed in the middle of a text")
        places = np.arange(self.length, self.length + len(part), dtype=np.int64)
        (logits,) = self.run({"tokens": np.array([part], np.int64), "cache_position": places})
        self.length, self.reading = self.length + len(part), self.method
        return logits[0]


class OpenedExecuTorch(Opened):
    """A file in ExecuTorch."""

    def __init__(self, file: Path, threads: int, where: str) -> None:
        try:
            self.program = ExecuTorchProgram(file, threads)
            self.inputs, self.outputs = _specs(self.program)
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise ModelError(f"{where}: ExecuTorch refuses the program ({all_lines(error)})") from error

    def run(self, feed: Arrays) -> list[np.ndarray[Any, Any]]:
        ordered = {spec.name: feed[spec.name] for spec in self.inputs}
        for spec in self.inputs:
            if (array := ordered[spec.name]).shape != spec.shape or str(array.dtype) != spec.dtype:
                what = f"{array.dtype} {list(array.shape)}, and it takes {spec.dtype} {list(spec.shape)}"
                raise ModelError(f"ExecuTorch cannot run the model: input '{spec.name}' is {what}")
        try:
            return [np.asarray(output) for output in self.program.run(ordered)]
        except RuntimeError as error:
            raise ModelError(f"ExecuTorch cannot run the model: {all_lines(error)}") from error

    def stopwatch_call(self, feed: Arrays) -> Callable[[], object]:
        """As many runs as there are examples, if the program takes one at a time."""
        size = self.batch or len(next(iter(feed.values())))
        arrays = {spec.name: feed[spec.name] for spec in self.inputs}
        starts = range(0, len(next(iter(arrays.values()))), size)
        parts = [self.program.tensors({name: array[at : at + size] for name, array in arrays.items()}) for at in starts]
        program = self.program
        return lambda: [program.call(part) for part in parts]


def _specs(program: ExecuTorchProgram) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs; a file of another's has numbers for names."""
    meta = program.loaded().method_meta()
    inputs = [meta.input_tensor_meta(index) for index in range(meta.num_inputs())]
    outputs = [meta.output_tensor_meta(index) for index in range(meta.num_outputs())]
    names = program.names()
    return _tensor_specs(inputs, names.get("inputs"), "input"), _tensor_specs(outputs, names.get("outputs"), "output")


def _tensor_specs(infos: list[Any], names: Any, kind: str) -> tuple[TensorSpec, ...]:
    if not (isinstance(names, list) and len(names) == len(infos) and all(isinstance(name, str) for name in names)):
        names = [f"{kind}{index}" for index in range(len(infos))]
    return tuple(
        TensorSpec(name=name, shape=tuple(int(size) for size in info.sizes()), dtype=DTYPES[info.dtype()])
        for name, info in zip(names, infos, strict=True)
    )


class ExecuTorch(Runtime):
    """ExecuTorch with XNNPACK, on a processor."""

    name = "executorch"
    distribution = "executorch"
    modules = ("executorch", "torch")
    extra = "mobile"
    loads: ClassVar = {PREDICT: (".pte",), GENERATE: (".pte",)}
    opens = OpenedExecuTorch
    beside = (".pte", ".json", ".txt", ".model", ".jinja")
    float_writer = "executorch"
    script: ClassVar = {PREDICT: (ExecuTorchProgram,), GENERATE: (ExecuTorchProgram, ExecuTorchText)}

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> LanguageArtifact:
        from squeeze.runtimes.executorch_decoder import ExecuTorchDecoder  # which needs torch

        return ExecuTorchDecoder(folder, facts, keeper)

    @classmethod
    def requirements(cls, file: Path) -> tuple[str, ...]:
        return (cls.distribution, "torch", "numpy")
