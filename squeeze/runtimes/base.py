"""A runtime: from a file to predictions. One class per runtime, found by its name in the registry.

A package names its runtime, and all that depends on it hangs on this class: which files it loads and which may lie
beside them, how a file is opened and run, what must be installed, and the part of ``run.py`` that runs it without
Squeeze. How a model becomes such a file is the business of ``squeeze.writers``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from squeeze.errors import ModelError
from squeeze.formats.onnx_external import external_files
from squeeze.formats.tensor_spec import TensorSpec

if TYPE_CHECKING:  # a child that only runs a file starts without torch
    from squeeze.models.artifact import Artifact
    from squeeze.models.facts import Facts
    from squeeze.models.language.artifact import LanguageArtifact
    from squeeze.models.tasks.base import Task

Call = Literal["predict", "generate"]
PREDICT: Call = "predict"  # all outputs of a batch in one call
GENERATE: Call = "generate"  # token after token, with a memory of those before
WEIGHTS = (".onnx", ".data", ".safetensors")  # how files of weights beside a config end
SHOWN = "the same model packed for target cpu, or for mobile with runtime: litert,"
Arrays = Mapping[str, np.ndarray[Any, Any]]


TASKS: Mapping[Call, str] = {PREDICT: "classify", GENERATE: "generate"}  # default task of packages that name none


def call_of(task: Task) -> Call:
    """How files of a model with this task are run."""
    return GENERATE if task.outputs == "tokens" else PREDICT


class Opened(ABC):
    """A file in its runtime, with a fixed number of threads.

    Args:
        inputs, outputs: What it is fed and what it gives, in order.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def run(self, feed: Arrays) -> list[np.ndarray[Any, Any]]:
        """All outputs for one feed, in their order.

        Raises:
            ModelError: the runtime does not take it, or does not end.
        """

    def documented(self, feed: Arrays) -> list[np.ndarray[Any, Any]]:
        """As :meth:`run`, by the documentation of the format and not by its runtime: for where that does not run.

        Raises:
            ModelError: what is in the file does not fit together.
        """
        raise ModelError(f"{type(self).__name__}: nothing but its runtime knows what such a file computes")

    def stopwatch_call(self, feed: Arrays) -> Callable[[], object]:
        """One run and nothing else."""
        return lambda: self.run(feed)

    @property
    def batch(self) -> int | None:
        """The one number of examples that it takes; None: any."""
        first = self.inputs[0].shape[:1]
        return first[0] if first and isinstance(first[0], int) else None


class Runtime:
    """What is known of a runtime without starting it; never instantiated."""

    name: ClassVar[str]  # name in packages and plans
    distribution: ClassVar[str]  # the installed package whose version is told
    modules: ClassVar[tuple[str, ...]]  # what must be importable for it to run
    extra: ClassVar[str | None] = None  # the extra of Squeeze that installs them
    loads: ClassVar[Mapping[Call, tuple[str, ...]]]  # how names of files end that it is pointed at
    beside: ClassVar[tuple[str, ...]]  # how names of all files end that a package for it may hold
    opens: ClassVar[type[Any] | None] = None  # the class that :meth:`open` makes of its arguments; None: no such models
    float_writer: ClassVar[str | None] = None
    """Registered name of the writer whose float file of the original latency is told against; None: an ONNX file."""
    script: ClassVar[Mapping[Call, tuple[type[Any], ...]]]
    """The classes of ``run.py`` that run the file; the last is called with the file and a number of threads.

    For ``predict`` it has ``run(feed)``, which gives all outputs in order; for ``generate`` it has ``feed(tokens,
    every)``, which reads on and gives logits float32 ``[tokens or 1, vocabulary]``, and ``reset()``. Whatever is not in
    the standard library is imported inside a method, since its source travels without this module.
    """

    @classmethod
    def open(cls, file: Path, threads: int, where: str) -> Opened:
        """A file that answers in one call; ``where`` names it in messages.

        Raises:
            ModelError: the runtime runs no such models, or does not take this one.
        """
        if cls.opens is None:
            raise ModelError(f"{where}: {cls.name} runs language models only")
        cls.require_installed(where)
        opened: Opened = cls.opens(file, threads, where)
        return opened

    @classmethod
    def values(cls, file: Path, feed: Arrays, names: Collection[str], where: str) -> dict[str, np.ndarray[Any, Any]]:
        """What a file computes on the way, float32 ``[n, ...]`` as the ONNX graph behind it has it (channels first).

        Args:
            feed: ``n`` examples.
            names: Values of that graph; those that the file does not have are left out. Where a value is rounded to
                integers, it is what these stand for.

        Raises:
            ModelError: the runtime shows the outputs of such a file only, or does not take it.
        """
        raise ModelError(f"{where}: {cls.name} shows the outputs of {file.name} only; {SHOWN} would show its layers")

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> LanguageArtifact:
        """The files of a language model.

        Raises:
            ModelError: the runtime runs none, or does not take these.
        """
        raise ModelError(f"{folder}: {cls.name} runs no language models")

    @classmethod
    def artifact(
        cls, file: Path, facts: Facts | None, task: Task, keeper: object = None, beside: tuple[Path, ...] = ()
    ) -> Artifact:
        """The model that a file is, to be run here; as in :class:`Artifact`."""
        from squeeze.models.artifact import Artifact

        if call_of(task) == PREDICT:
            return Artifact(file, facts, beside, keeper, task, cls.name)
        assert facts is not None, "a language model's file need not tell them"
        return cls.decoder(file.parent, facts, keeper)

    @classmethod
    def requirements(cls, file: Path) -> tuple[str, ...]:
        """What ``pip install`` must be told for this file to run without Squeeze, tokenizers apart."""
        return (cls.distribution, "numpy")

    @classmethod
    def cannot_run(cls) -> str | None:
        """Why no installation makes its files run on this system; None: it can run them."""
        return None

    @classmethod
    def folder_of(cls, file: Path) -> Path:
        """The folder that the files of a model lie in, from the one that it is pointed at."""
        return file.parent

    @classmethod
    def weight_files(cls, file: Path) -> tuple[Path, ...]:
        """The files that hold graph and weights: what counts as the model's size."""
        if file.suffix == ".json":  # a config that names them, of the package's one model
            return tuple(sorted(path for path in file.parent.iterdir() if path.suffix in WEIGHTS))
        side = external_files(file) if file.suffix == ".onnx" else ()
        return (file, *(file.parent / name for name in side))

    @classmethod
    def version(cls) -> str:
        """Of the runtime that is installed here."""
        return version(cls.distribution)

    @classmethod
    def absent(cls) -> str | None:
        """What to install for it to run here; None where it is there."""
        missing = [name for name in cls.modules if find_spec(name) is None]
        if not missing:
            return None
        how = f"pip install 'squeeze[{cls.extra}]'" if cls.extra else f"pip install {cls.distribution}"
        return f"{cls.name} needs {', '.join(missing)}: {how}"

    @classmethod
    def require_installed(cls, where: str) -> None:
        """Raise ``ModelError`` where it is not installed; ``where`` names who wants it."""
        if reason := cls.absent():
            raise ModelError(f"{where}: {reason}")

    @classmethod
    def require_runs(cls, where: str) -> None:
        """Raise ``ModelError`` where its files do not run here, or it is not installed."""
        if reason := cls.cannot_run():
            raise ModelError(f"{where}: {reason}; it does not run here")
        cls.require_installed(where)
