"""Optional packages: which extra brings what, and which of it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

EXTRAS = {
    "datasets": ("datasets",),
    "gptq": ("gptqmodel", "optimum"),
    "inc": ("neural_compressor", "auto_round"),
    "compressed-tensors": ("compressed_tensors",),
    "gguf": ("gguf", "accelerate"),
    "llama-cpp": ("llama_cpp",),
    "genai": ("onnxruntime_genai",),
    "mobile": ("executorch",),
    "litert": ("ai_edge_litert",),
    "coreml": ("coremltools",),
}


def absent(who: str, extras: tuple[str, ...]) -> Iterator[str]:
    """What must be installed first."""
    for extra in extras:
        if missing := [name for name in EXTRAS.get(extra, ()) if find_spec(name) is None]:
            yield f"{who} needs {', '.join(missing)}: pip install 'squeeze[{extra}]'"
