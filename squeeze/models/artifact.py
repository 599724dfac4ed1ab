"""The artifact form: the files that a runtime loads, run as they lie on disk.

ONNX Runtime takes ``.onnx`` and ``.ort`` files. How an artifact is made is the business of ``squeeze.targets``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.onnx_external import external_files
from squeeze.formats.onnx_file import read_onnx
from squeeze.models import ort_session
from squeeze.models.base import Batch, Layer, Model
from squeeze.models.onnx_model import DESCRIPTION, OnnxModel
from squeeze.models.tasks.base import Task, described, read_task, task_named

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True)
class Facts:
    """What is known of the graph that an artifact was built from; a runtime's file need not tell. None: not known.

    Args:
        tolerance: How far another host's output may be off, as a share of the largest output.
    """

    parameters: int | None
    macs: int | None
    tolerance: float


class Artifact(Model):
    """A ``.onnx`` or ``.ort`` file and the files that lie beside it.

    Args:
        file: What the runtime loads.
        facts: Of the graph behind it; without them an ``.onnx`` file is counted.
        beside: Files that travel with it and that the runtime does not load, such as an operator list.
        keeper: Whatever must live as long as the files do, such as the package they were unpacked from.
        task: None: to classify.
    """

    form: ClassVar[str] = "artifact"

    def __init__(
        self,
        file: Path,
        facts: Facts | None = None,
        beside: tuple[Path, ...] = (),
        keeper: object = None,
        task: Task | None = None,
    ) -> None:
        if not file.is_file():
            raise ModelError(f"{file}: no such file")
        if file.suffix not in {".onnx", ".ort"}:
            raise ModelError(f"{file}: no runtime here loads '{file.suffix}' files; .onnx and .ort would do")
        self.file, self.beside, self.keeper = file, beside, keeper
        self.facts = facts
        self.task = task or task_named("classify")
        self.threads = min(4, os.cpu_count() or 1)
        self._sessions: dict[int, InferenceSession] = {}
        self.inputs = ort_session.input_specs(self.session(self.threads))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """What the runtime loads: the model file and the weights beside it."""
        side = external_files(self.file) if self.file.suffix == ".onnx" else ()
        return (self.file, *(self.file.parent / name for name in side))

    def reopened(self) -> Self:
        again = copy(self)
        again._sessions = {}
        return again

    def session(self, threads: int) -> InferenceSession:
        """ONNX Runtime's session on the stored file, made once per number of threads."""
        if threads not in self._sessions:
            self._sessions[threads] = ort_session.open_session(self.file, threads, str(self.file))
        return self._sessions[threads]

    def predict(self, batch: Batch) -> Tensor:
        arrays = ort_session.feed(self.inputs, batch, str(self.file))
        return ort_session.logits(self.session(self.threads), arrays, len(batch))

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        arrays = ort_session.feed(self.inputs, batch, str(self.file))
        return ort_session.stopwatch_call(self.session(threads), arrays)

    def layers(self) -> list[Layer]:
        """The layers of an ``.onnx`` file; an ``.ort`` file does not list them."""
        return self._graph.layers() if self._graph else []

    @cached_property
    def _graph(self) -> OnnxModel | None:
        """Of an ``.onnx`` file; an ``.ort`` file does not show its own."""
        return OnnxModel(read_onnx(self.file), str(self.file)) if self.file.suffix == ".onnx" else None

    def parameters(self) -> int | None:
        return self.facts.parameters if self.facts else self._graph.parameters() if self._graph else None

    def macs(self) -> int | None:
        return self.facts.macs if self.facts else self._graph.macs() if self._graph else None

    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def save(self, folder: Path) -> None:
        for path in (*self.files, *self.beside):
            target = folder / path.relative_to(self.file.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        record = {
            "form": self.form,
            **described(self),
            "file": self.file.name,
            "beside": [path.relative_to(self.file.parent).as_posix() for path in self.beside],
            "facts": asdict(self.facts) if self.facts else None,
        }
        (folder / DESCRIPTION).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        try:
            record = json.loads((folder / DESCRIPTION).read_text())
            facts = Facts(**record["facts"]) if record["facts"] else None
            beside = tuple(folder / name for name in record["beside"])
            return cls(folder / record["file"], facts, beside, task=read_task(folder / DESCRIPTION))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: not a stored artifact ({error}); {DESCRIPTION} must name its file") from error
