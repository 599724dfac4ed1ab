"""How much memory GPTQ takes on a model that is never in memory whole.

    python benchmarks/memory.py [--shape tiny-llama --shape llama-3.1-8b] [--layers 4 --layers 16] [--plain]
                                [--keep FOLDER]

Makes models of a known shape with random bf16 weights, shard by shard on disk, and sends each through ``gptq`` int4,
group 128, in a process of its own; prints the peak resident memory of that process, which counts the pages of mapped
files too, beside what ``squeeze check`` says beforehand. Calibration: 4 sequences of 128 random tokens. Without
options: the small shape at 4 and 16 layers (the peak must not grow with them) and the large one at 2; ``--shape`` alone
takes the shape's own number of layers. ``--plain`` is GPTQ as published, without what the pass adds to it (the
original's outputs as target, weights one after the other, refinements, negative scales), in far less time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = {
    "tiny-llama": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_hidden_layers": 22,
        "vocab_size": 32000,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
    },
}
SEQUENCES, LENGTH = 4, 128
PLAIN: dict[str, Any] = {"target": "given", "true_sequential": False, "refinements": 0, "negative_scales": False}
DEFAULT = [("tiny-llama", 4), ("tiny-llama", 16), ("llama-3.1-8b", 2)]


def main() -> None:
    options = arguments()
    if options.child:
        child(Path(options.child), options.plain)
        return
    heads = f"{'peak GB':>9}{'foretold':>10}{'GB per billion':>16}{'minutes':>9}"
    print(f"{'shape':<14}{'layers':>7}{'parameters':>12}{heads}")
    for shape, layers in wanted(options) or DEFAULT:
        measure(shape, layers, options.keep, options.plain)


def wanted(options: argparse.Namespace) -> list[tuple[str, int]]:
    """What the command line asks for."""
    shapes = options.shape or (list(SHAPES) if options.layers else [])
    return [(s, n) for s in shapes for n in options.layers or [SHAPES[s]["num_hidden_layers"]]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--layers", action="append", type=int)
    parser.add_argument("--keep", type=Path, help="folder for the models; else a temporary one, 2 GB per billion")
    parser.add_argument("--plain", action="store_true", help="GPTQ as published")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(shape: str, layers: int, keep: Path | None, plain: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)) / f"{shape}-{layers}"
        parameters = make(folder, {**SHAPES[shape], "num_hidden_layers": layers})
        command = [sys.executable, __file__, "--child", str(folder), *(["--plain"] if plain else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        said = json.loads(done.stdout.splitlines()[-1])
    peak, billions = said["peak_bytes"] / 1e9, parameters / 1e9
    told = f"{peak:>9.2f}{said['foretold_bytes'] / 1e9:>10.2f}{peak / billions:>16.2f}"
    figures = f"{billions:>11.2f}B{told}{said['seconds'] / 60:>9.1f}"
    print(f"{shape:<14}{layers:>7}{figures}", flush=True)


def make(folder: Path, sizes: dict[str, int]) -> int:
    """A Hugging Face Llama folder of random bf16 weights, one shard per block; gives the number of parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**sizes, tie_word_embeddings=False, dtype="bfloat16")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlamaForCausalLM(config).state_dict().items()}
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(0)
        for shard in sorted({shard_of(name) for name in shapes}):
            weights = {n: random(shape, generator) for n, shape in shapes.items() if shard_of(n) == shard}
            save_file(weights, folder / f"{shard}.safetensors")
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)
    return sum(shape.numel() for shape in shapes.values())


def random(shape, generator):  # type: ignore[no-untyped-def]
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator, dtype=torch.bfloat16) * 0.02


def shard_of(name: str) -> str:
    parts = name.split(".")
    return f"block-{int(parts[2]):03d}" if parts[1] == "layers" else parts[0] if parts[0] == "lm_head" else parts[1]


def child(folder: Path, plain: bool) -> None:
    """Quantize, and say what it took."""
    import numpy as np

    from squeeze.data.text import TokenDataset
    from squeeze.models.language.language_model import LanguageModel
    from squeeze.passes.base import Context
    from squeeze.passes.quantize.gptq import Gptq
    from squeeze.store import Journal

    model = LanguageModel(folder)
    tokens = np.random.default_rng(0).integers(0, model.vocabulary, (SEQUENCES, LENGTH))
    with tempfile.TemporaryDirectory(dir=folder) as work:
        began = time.monotonic()
        context = Context(calibration_data=TokenDataset("random", tokens), journal=Journal(Path(work)))
        pass_ = Gptq(bits=4, group_size=128, **(PLAIN if plain else {}))
        foretold = pass_.memory_bytes(model, SEQUENCES * LENGTH, None)
        pass_.run(model, context)
        seconds = time.monotonic() - began
    print(json.dumps({"peak_bytes": peak_bytes(), "foretold_bytes": foretold, "seconds": seconds}))


def peak_bytes() -> int:
    """Of this program alone: what rusage says may be the peak of the one that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
