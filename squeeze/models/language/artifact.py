"""A language model as the files that a runtime loads, scored and run by that very runtime.

How the files are made is the business of passes and targets; each runtime has a file of its own in ``runtimes``.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch

from squeeze.errors import ModelError
from squeeze.models.base import Batch, Layer
from squeeze.models.language.decoder import Decoder

DESCRIPTION, FILES = "artifact.json", "files"
RUNTIMES = {  # the runtime's name, as packages and plans say it -> who runs it
    "onnxruntime": "squeeze.runtimes.onnx_decoder:OnnxDecoder",
    "onnxruntime-genai": "squeeze.runtimes.genai:GenaiDecoder",
    "llama.cpp": "squeeze.runtimes.llama_cpp:GgufDecoder",
    "transformers-gguf": "squeeze.runtimes.gguf_in_transformers:GgufInTransformers",
    "transformers": "squeeze.runtimes.checkpoint:CheckpointDecoder",
}


@dataclass(frozen=True)
class LanguageFacts:
    """What is known of the model that the files were made from; a runtime's file need not tell.

    Args:
        parameters: Number of weights, as counted on the model; None where nobody counted them.
        tolerance: How far another host's log-probabilities may be off, as a share of the largest.
        macs: Multiply-accumulates for one token; None where nobody counted them.
    """

    parameters: int | None
    tolerance: float
    macs: int | None = None


class LanguageArtifact(Decoder):
    """A folder whose files a runtime loads, the tokenizer among them.

    Args:
        keeper: Whatever must live as long as the files do, such as the package they were unpacked from.
    """

    form: ClassVar[str] = "language artifact"
    runtime: ClassVar[str]  # a key of RUNTIMES
    distribution: ClassVar[str]  # the package that is the runtime
    modules: ClassVar[tuple[str, ...]] = ()  # what must be importable for the runtime to run
    extra: ClassVar[str | None] = None  # the extra of Squeeze that installs them

    def __init__(self, folder: Path, facts: LanguageFacts, keeper: object = None) -> None:
        self.folder, self.facts, self.keeper = folder, facts, keeper
        self.threads = min(4, os.cpu_count() or 1)
        if not self.main.is_file():
            raise ModelError(f"{folder}: no {self.main.name} here, which {self.runtime} loads")

    @property
    @abstractmethod
    def main(self) -> Path:
        """The file that the runtime is pointed at."""

    @property
    @abstractmethod
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold graph and weights: what counts as the model's size."""

    @abstractmethod
    def generate(self, prompt: Sequence[int], most: int) -> Iterator[int]:
        """Continue greedily by up to ``most`` tokens, each as soon as it is known, with the runtime's own cache."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the folder."""
        return tuple(sorted(path for path in self.folder.rglob("*") if path.is_file()))

    @classmethod
    def version(cls) -> str:
        """Of the runtime that is installed here."""
        return version(cls.distribution)

    def requirements(self) -> tuple[str, ...]:
        """What ``pip install`` must be told for the files to run without Squeeze."""
        return (self.distribution, "numpy", "tokenizers")

    @classmethod
    def absent(cls) -> str | None:
        """What to install for this runtime to run here; None where it is there."""
        missing = [name for name in cls.modules if find_spec(name) is None]
        if not missing:
            return None
        return f"{cls.runtime} needs {', '.join(missing)}: pip install 'squeeze[{cls.extra}]'"

    @classmethod
    def require_installed(cls, where: str) -> None:
        """Raise ``ModelError`` where the runtime is not installed; ``where`` names who wants it."""
        if reason := cls.absent():
            raise ModelError(f"{where}: {reason}")

    @abstractmethod
    def arithmetic(self) -> str: ...

    def reopened(self) -> Self:
        return type(self)(self.folder, self.facts, self.keeper)

    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.weight_files)

    def parameters(self) -> int | None:
        return self.facts.parameters

    def macs(self) -> int | None:
        return self.facts.macs

    def layers(self) -> list[Layer]:
        """A runtime's file need not list them."""
        return []

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        """One pass over the batch's tokens, as when a prompt is read."""
        self.threads = threads
        tokens = batch.inputs["input_ids"]
        return lambda: [logits for _, logits in self.logits(tokens, len(tokens))]

    def log_probabilities(self, prompt: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of each prompt token but the first ``[n - 1]``, and of every token that may follow ``[vocabulary]``."""
        tokens = torch.tensor([list(prompt)])
        (_, logits), *_ = self.logits(tokens)
        every = torch.log_softmax(logits[0].float(), dim=-1)
        chosen = every[:-1].gather(-1, tokens[0, 1:, None])[:, 0]
        return chosen.numpy(), every[-1].numpy()

    def save(self, folder: Path) -> None:
        """All files, linked where the file system can, and which runtime they are for."""
        for file in self.files:
            target = folder / FILES / file.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)
        described = {"runtime": self.runtime, "facts": asdict(self.facts)}
        (folder / DESCRIPTION).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        try:
            described = json.loads((folder / DESCRIPTION).read_text())
            kind, facts = runtime_class(described["runtime"]), LanguageFacts(**described["facts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: not a stored language artifact ({error})") from error
        assert issubclass(kind, cls)
        return kind(folder / FILES, facts)


def runtime_class(name: str) -> type[LanguageArtifact]:
    """Who runs the files of that runtime.

    Raises:
        ModelError: no such runtime.
    """
    if name not in RUNTIMES:
        raise ModelError(f"no runtime is called '{name}'; {', '.join(RUNTIMES)} would do")
    module, _, kind = RUNTIMES[name].partition(":")
    found: type[LanguageArtifact] = getattr(import_module(module), kind)
    return found
