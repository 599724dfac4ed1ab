"""What a result depends on beside its inputs: versions of Squeeze and of the libraries that compute."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "torch-pruning",
    "transformers",
    "tokenizers",
    "safetensors",
    "pillow",
    "scikit-learn",
    "gptqmodel",
    "auto-round",
    "neural-compressor",
    "optimum",
    "gguf",
    "llama-cpp-python",
    "onnxruntime-genai",
    "executorch",
    "ai-edge-litert",
    "coremltools",
    "lm-eval",
)


@cache
def squeeze_version() -> str:
    """The installed version, or that of a bare checkout."""
    try:
        return version("squeeze")
    except PackageNotFoundError:
        return "0+checkout"


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that numbers may depend on; those of absent extras are left out."""
    return {name: installed for name in LIBRARIES if (installed := _installed(name)) is not None}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def code_digest() -> str:
    """sha256 over Squeeze's own sources: a changed algorithm never meets the old one's results."""
    root = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()


def source_digest(thing: Any) -> str | None:
    """sha256 of the file that defines a user's class or factory; None for Squeeze's own and for builtins."""
    if getattr(thing, "__module__", "").partition(".")[0] == "squeeze":
        return None
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None


def content_digest(path: Path) -> str:
    """sha256 of a file, or of every file in a folder with its name."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
