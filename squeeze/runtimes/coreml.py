"""Core ML: ``.mlpackage`` folders, read everywhere and run on macOS alone.

Elsewhere nothing of it can be installed that would run a file: inputs and outputs are read from the file itself, and
whoever asks for an answer gets an error. How it runs on macOS follows coremltools' documentation and is untested.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from squeeze.errors import ModelError, first_line
from squeeze.formats.mlpackage import MANIFEST, MODEL, WEIGHTS, read_mlpackage, root_of
from squeeze.runtimes.base import PREDICT, Arrays, Opened, Runtime

SYSTEM = "Darwin"


class CoreMlModel:
    """A ``.mlpackage`` in Core ML, on the processor alone, which computes float32 as it is written."""

    ONLY = "Core ML runs on macOS only"

    def __init__(self, file: Path, threads: int) -> None:
        import platform

        if platform.system() != "Darwin":
            raise NotImplementedError(self.ONLY)
        import coremltools

        folder = file.parents[2]  # the package that Data/com.apple.CoreML/model.mlmodel lies in
        self.threads = threads  # Core ML takes as many as it likes
        self.model = coremltools.models.MLModel(str(folder), compute_units=coremltools.ComputeUnit.CPU_ONLY)
        self.names = [output.name for output in self.model.get_spec().description.output]

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """All outputs, in their order."""
        answer = self.model.predict(feed)
        return [answer[name] for name in self.names]


class OpenedCoreMl(Opened):
    """A package whose inputs and outputs are read from it; Core ML takes it when it is run."""

    def __init__(self, file: Path, threads: int, where: str) -> None:
        self.program = read_mlpackage(root_of(file))
        self.inputs, self.outputs = self.program.inputs, self.program.outputs
        self.file, self.threads, self.where = file, threads, where
        self._model: CoreMlModel | None = None

    def run(self, feed: Arrays) -> list[np.ndarray[Any, Any]]:
        CoreMl.require_runs(self.where)
        try:
            self._model = self._model or CoreMlModel(self.file, self.threads)
            return self._model.run(dict(feed))
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"Core ML cannot run the model: {first_line(error)}") from error

    def documented(self, feed: Arrays) -> list[np.ndarray[Any, Any]]:
        from squeeze.formats.mil_arithmetic import computed  # torch takes two seconds to import

        return computed(self.program, feed)


class CoreMl(Runtime):
    """Core ML, by coremltools."""

    name = "coreml"
    distribution = "coremltools"
    modules = ("coremltools",)
    extra = "coreml"
    loads: ClassVar = {PREDICT: (Path(MODEL).name,)}
    opens = OpenedCoreMl
    beside = tuple(Path(name).name for name in (MODEL, WEIGHTS, MANIFEST))
    float_writer = "coreml"
    script: ClassVar = {PREDICT: (CoreMlModel,)}

    @classmethod
    def version(cls) -> str:
        return f"{cls.distribution} {version(cls.distribution)}"

    @classmethod
    def cannot_run(cls) -> str | None:
        return None if platform.system() == SYSTEM else CoreMlModel.ONLY

    @classmethod
    def folder_of(cls, file: Path) -> Path:
        return root_of(file).parent

    @classmethod
    def weight_files(cls, file: Path) -> tuple[Path, ...]:
        return tuple(sorted(path for path in root_of(file).rglob("*") if path.is_file()))
