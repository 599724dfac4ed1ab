"""What benchmarks are given on the command line: folders, models, texts; what cannot be read is one line.

A parser by :class:`Arguments` knows four kinds of values: ``folder``, ``text_file``, ``model_path`` and ``positive``.
What is wrong with the contents of a model or a text is a ``SqueezeError``, of which :func:`run` shows the one line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from squeeze.errors import ModelError, SqueezeError, first_line

if TYPE_CHECKING:
    from squeeze.data.text import TokenDataset
    from squeeze.models.language.language_model import LanguageModel

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


class Arguments(argparse.ArgumentParser):
    """A parser whose faults are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def add_real(self, help: str = "folder of real models and data", default: Path | None = REAL) -> None:
        """``--real``; a default that is absent is a fault too."""
        self.add_argument("--real", type=folder, default=None if default is None else str(default), help=help)

    def add_language_model(self, *texts: str) -> None:
        """``--model``, ``--real``, and the texts among ``calibrate`` and ``evaluate``; without them prose6M and its."""
        self.add_argument("--model", type=model_path, help="a Hugging Face folder, or a .gguf file; default: prose6M")
        for text in texts:
            self.add_argument(f"--{text}", type=text_file, help=f"a text to {text} on; default: prose6M's own domain")
        self.add_argument("--real", type=folder, help="folder of real models and data, where defaults are looked for")

    def add_sequences(self, length: int, samples: int, scored: int) -> None:
        """``--length``, ``--samples`` and ``--scored``: how the texts are cut, and how much of them is taken."""
        self.add_argument("--length", type=positive, default=length, help="tokens in a sequence")
        self.add_argument("--samples", type=positive, default=samples, help="calibration sequences")
        self.add_argument("--scored", type=positive, default=scored, help="evaluation sequences")

    def language_model(self) -> argparse.Namespace:
        """The arguments, with defaults from ``--real`` filled in."""
        options = self.parse_args()
        for name, (kind, place) in DEFAULTS.items():
            if name in options and getattr(options, name) is None:
                try:
                    setattr(options, name, kind(str((options.real or REAL) / place)))
                except argparse.ArgumentTypeError as error:
                    self.error(f"--{name}: {error}; name one, or the folder of real models and data by --real")
        return options


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is none; a whole number from 1 on would do")
    return int(text)


def folder(text: str) -> Path:
    """An existing folder, resolved."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text).resolve()


def text_file(text: str) -> Path:
    """An existing file, resolved."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file")
    return Path(text).resolve()


def model_path(text: str) -> Path:
    """A folder with config.json, or a ``.gguf`` file, resolved."""
    path = Path(text)
    if not (path / "config.json").is_file() and not (path.suffix == ".gguf" and path.is_file()):
        raise argparse.ArgumentTypeError(f"{text} is neither a folder with config.json nor a .gguf file")
    return path.resolve()


DEFAULTS = {
    "model": (model_path, "models/prose6M"),
    "calibrate": (text_file, "data/prose/calibrate.txt"),
    "evaluate": (text_file, "data/prose/evaluate.txt"),
}


def open_model(path: Path, work: Path) -> LanguageModel:
    """A language model whose weights stay on disk; a ``.gguf`` file's are written into ``work`` as bf16.

    Raises:
        ModelError: it cannot be read, or is no language model.
    """
    from squeeze.models.language.language_model import LanguageModel  # late: a fault of the command line needs no torch
    from squeeze.models.spec import ModelSpec

    spec = ModelSpec(gguf=str(path), dtype="bfloat16") if path.suffix == ".gguf" else ModelSpec(hf=str(path))
    model: Any = spec.read(work, None)
    if not isinstance(model, LanguageModel):
        raise ModelError(f"{path}: no language model; a benchmark of language models needs one")
    return model


def open_text(path: Path, model: LanguageModel, length: int, samples: int | None) -> TokenDataset:
    """Sequences of a text, as the model's tokenizer cuts it."""
    from squeeze.data.text import TextData

    return TextData(text=str(path), length=length, samples=samples).open(Path("/"), model.folder)


def run(main: Callable[[], None]) -> None:
    """A user's fault ends with its one line and exit code 1; our own faults keep their trace."""
    try:
        main()
    except (SqueezeError, FileNotFoundError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {first_line(error)}")
