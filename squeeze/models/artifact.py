"""The artifact stage: the files that a runtime loads, run as they lie on disk.

Which runtime is a name in the registry. How an artifact is made is the business of ``squeeze.targets``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from squeeze import registry
from squeeze.errors import ModelError
from squeeze.models.base import Batch, InputSpec, Layer, Model
from squeeze.models.facts import Facts
from squeeze.models.links import link_or_copy
from squeeze.models.ort_session import Feed, feed, logits, parts
from squeeze.models.tasks.base import DESCRIPTION, Task, described, read_task, task_named

if TYPE_CHECKING:  # what only runs a file starts without onnx_ir, which takes a second
    from squeeze.models.onnx_model import OnnxModel

FILES = "files"  # where they lie in the store


class Artifact(Model):
    """A file that a runtime loads, and the files that lie beside it.

    This class answers a batch in one call; ``LanguageArtifact`` goes on with a text.

    Args:
        file: What the runtime loads.
        facts: Of the graph behind it; without them an ``.onnx`` file is counted.
        beside: Files that travel with it and that the runtime does not load, such as an operator list.
        keeper: Whatever must live as long as the files do, such as the package they were unpacked from.
        task: None: to classify.
        runtime: Registered name of the runtime that runs it.

    Raises:
        ModelError: no such file, or none that the runtime loads.
    """

    form: ClassVar[str] = "artifact"
    package_folder: ClassVar[str] = ""  # of a package, where its files lie
    folder: Path
    runtime: str
    facts: Facts | None

    def __init__(
        self,
        file: Path,
        facts: Facts | None = None,
        beside: tuple[Path, ...] = (),
        keeper: object = None,
        task: Task | None = None,
        runtime: str = "onnxruntime",
    ) -> None:
        runtime_class = registry.load("runtimes", runtime)
        endings = runtime_class.loads.get("predict", ())
        if not file.is_file():
            raise ModelError(f"{file}: no such file")
        if not file.name.endswith(endings):
            what = f"{runtime} loads no '{file.suffix}' files"
            raise ModelError(f"{file}: {what}; {' and '.join(endings)} would do")
        self.file, self.folder, self.beside, self.keeper = file, runtime_class.folder_of(file), beside, keeper
        self.runtime, self.facts = runtime, facts
        self.task = task or task_named("classify")
        self.threads = min(4, os.cpu_count() or 1)
        self._sessions: dict[int, Any] = {}
        self.inputs = tuple(
            InputSpec(spec.name, tuple(size if isinstance(size, int) else -1 for size in spec.shape[1:]), spec.dtype)
            for spec in self.opened(self.threads).inputs
        )

    @property
    def main(self) -> Path:
        """The file that the runtime is pointed at."""
        return self.file

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold graph and weights: what counts as the model's size."""
        files: tuple[Path, ...] = registry.load("runtimes", self.runtime).weight_files(self.main)
        return files

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((*self.weight_files, *self.beside)))

    def packed(self) -> dict[str, Path]:
        """All files by their names in a package."""
        return {self.package_folder + self._relative(path): path for path in self.files}

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def cannot_run(self) -> str | None:
        reason: str | None = registry.load("runtimes", self.runtime).cannot_run()
        return reason

    def reopened(self) -> Self:
        again = copy(self)
        again._sessions = {}
        return again

    def opened(self, threads: int) -> Any:
        """The stored file in its runtime (``squeeze.runtimes.base.Opened``), once per number of threads."""
        if threads not in self._sessions:
            runtime = registry.load("runtimes", self.runtime)
            self._sessions[threads] = runtime.open(self.main, threads, str(self.main))
        return self._sessions[threads]

    def signature(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Inputs and outputs as the runtime tells them (``TensorSpec``)."""
        opened = self.opened(1)
        return opened.inputs, opened.outputs

    def feed(self, batch: Batch) -> Feed:
        """Arrays as the runtime takes them; as many examples as it takes, where it takes one number only."""
        arrays = feed(self.inputs, batch, str(self.main))
        size = self.opened(1).batch
        return next(parts(arrays, len(batch), size)) if size else arrays

    def answer(self, arrays: Feed) -> Feed:
        """All outputs by name, on one thread, so that the same host gives the same bits."""
        opened = self.opened(1)
        return dict(zip((spec.name for spec in opened.outputs), opened.run(arrays), strict=True))

    def predict(self, batch: Batch) -> Tensor:
        opened = self.opened(self.threads)
        return logits(opened.run, opened.batch, feed(self.inputs, batch, str(self.main)), len(batch))

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        call: Callable[[], object] = self.opened(threads).stopwatch_call(feed(self.inputs, batch, str(self.main)))
        return call

    def layers(self) -> list[Layer]:
        """The layers of an ``.onnx`` file; an ``.ort`` file does not list them."""
        return self._graph.layers() if self._graph else []

    @cached_property
    def _graph(self) -> OnnxModel | None:
        """Of an ``.onnx`` file; an ``.ort`` file does not show its own."""
        if self.main.suffix != ".onnx":
            return None
        from squeeze.formats.onnx_file import read_onnx
        from squeeze.models.onnx_model import OnnxModel

        return OnnxModel(read_onnx(self.main), str(self.main))

    def parameters(self) -> int | None:
        return self.facts.parameters if self.facts else self._graph.parameters() if self._graph else None

    def macs(self) -> int | None:
        return self.facts.macs if self.facts else self._graph.macs() if self._graph else None

    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.weight_files)

    def write_file(self, folder: Path) -> Path:
        """All files, linked where the file system can, copied where it cannot.

        Returns:
            The file that the runtime is pointed at.
        """
        for file in self.files:
            link_or_copy(file, folder / self._relative(file))
        return folder / self._relative(self.main)

    def save(self, folder: Path) -> None:
        """All files, and what they are."""
        self.write_file(folder / FILES)
        weights = self.weight_files
        record = {
            "form": self.form,
            **described(self),
            "runtime": self.runtime,
            "file": self._relative(self.main),
            "beside": [self._relative(path) for path in self.files if path not in weights],
            "facts": asdict(self.facts) if self.facts else None,
        }
        (folder / DESCRIPTION).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        try:
            record = json.loads((folder / DESCRIPTION).read_text())
            facts = Facts(**record["facts"]) if record["facts"] else None
            files, task = folder / FILES, read_task(folder / DESCRIPTION)
            beside = tuple(files / name for name in record["beside"])
            runtime = registry.load("runtimes", record["runtime"])
            artifact = runtime.artifact(files / record["file"], facts, task, beside=beside)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: not a stored artifact ({error}); {DESCRIPTION} must name its file") from error
        assert isinstance(artifact, cls)
        return artifact


def artifact_of(model: Model) -> Artifact:
    """What a target built, as what it is."""
    assert isinstance(model, Artifact), "a target builds what a runtime loads"
    return model
