"""How much memory GPTQ takes on a model that is never in memory whole.

    python benchmarks/memory.py [--shape tiny-llama --shape llama-3.1-8b] [--layers 4 --layers 16] [--plain]
                                [--memory 2] [--keep FOLDER]
    python benchmarks/memory.py --model FOLDER|FILE.gguf [--calibrate TEXT] [--group 64] [--plain]
    python benchmarks/memory.py --pte [--shape llama-3.2-1b | --model FOLDER|FILE.gguf] [--keep FOLDER]

Makes models of a known shape with random bf16 weights, shard by shard on disk, or takes yours, and sends each through
``gptq`` int4, groups of 128 (``--group``), in a process of its own; prints the peak resident memory of that process,
which counts the pages of mapped files too, beside what ``squeeze check`` says beforehand. Calibration: 4 sequences of
128 tokens, random or of a text. Without options: the small shape at 4 and 16 layers (the peak must not grow with them)
and the large one at 2; ``--shape`` alone takes the shape's own number of layers. ``--plain`` is GPTQ as published,
without what the pass adds to it (the original's outputs as target, weights one after the other, refinements, negative
scales), in far less time.

``--pte`` measures the export of a language model to ExecuTorch instead: rounded to int4 in groups of 32 (``rtn``, ends
too; int8 where 32 does not divide its widths), written for a cache of 512 tokens, read back and proven. The peak is
that of the process that exports or of the one that proves, whichever held more. Others' exporters are said to take
30 GB per billion parameters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _inputs import Arguments, folder, model_path, open_model, open_text, positive, run, text_file

if TYPE_CHECKING:
    from squeeze.models.language.language_model import LanguageModel

SHAPES = {
    "tiny-llama": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_hidden_layers": 22,
        "vocab_size": 32000,
    },
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 16,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
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
INT4: dict[str, Any] = {"bits": 4, "group_size": 32, "scales": "bfloat16", "embeddings": 4}
INT8: dict[str, Any] = {"bits": 8, "group_size": None, "embeddings": 8}
PTE = [("llama-3.2-1b", 16)]


def main() -> None:
    options = arguments()
    if options.child:
        child(options)
        return
    heads = f"{'peak GB':>9}{'foretold':>10}{'GB per billion':>16}{'minutes':>9}" + f"{'file GB':>9}" * options.pte
    print(f"{'model':<30}{'layers':>7}{'parameters':>12}{heads}")
    if options.model is not None:
        measure(options.model, options)
        return
    for shape, layers in chosen_shapes(options) or (PTE if options.pte else DEFAULT):
        with tempfile.TemporaryDirectory() as temporary:
            model = (options.keep or Path(temporary)) / f"{shape}-{layers}"
            make(model, {**SHAPES[shape], "num_hidden_layers": layers})
            measure(model, options)


def chosen_shapes(options: argparse.Namespace) -> list[tuple[str, int]]:
    """What the command line asks for."""
    shapes = options.shape or (list(SHAPES) if options.layers else [])
    return [(s, n) for s in shapes for n in options.layers or [SHAPES[s]["num_hidden_layers"]]]


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--layers", action="append", type=positive)
    parser.add_argument("--keep", type=folder, help="folder for the models; else a temporary one, 2 GB per billion")
    parser.add_argument("--model", type=model_path, help="in place of shapes: a Hugging Face folder, or a .gguf file")
    parser.add_argument("--calibrate", type=text_file, help="a text; default: random tokens")
    parser.add_argument("--group", type=positive, default=128, help="input channels that share a scale")
    parser.add_argument("--plain", action="store_true", help="GPTQ as published")
    parser.add_argument("--memory", type=positive, help="GB that a plan's memory: allows; default: it names none")
    parser.add_argument("--pte", action="store_true", help="measure the export to ExecuTorch instead of gptq")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(model: Path, options: argparse.Namespace) -> None:
    """One row, of a process that does nothing else."""
    command = [sys.executable, __file__, "--child", str(model), "--group", str(options.group)]
    command += ["--pte"] * options.pte + ["--plain"] * options.plain
    command += ["--calibrate", str(options.calibrate)] if options.calibrate else []
    command += ["--memory", str(options.memory)] if options.memory else []
    command += ["--keep", str(options.keep)] if options.keep else []
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{model.name}: {done.stderr.strip().splitlines()[-1]}")
    report = json.loads(done.stdout.splitlines()[-1])
    peak, billions = report["peak_bytes"] / 1e9, report["parameters"] / 1e9
    line = f"{peak:>9.2f}{report['foretold_bytes'] / 1e9:>10.2f}{peak / billions:>16.2f}"
    figures = f"{billions:>11.2f}B{line}{report['seconds'] / 60:>9.1f}"
    file = f"{report['file_bytes'] / 1e9:>9.2f}" if options.pte else ""
    print(f"{model.stem:<30}{report['blocks']:>7}{figures}{file}", flush=True)


def make(folder: Path, sizes: dict[str, Any]) -> None:
    """A Hugging Face Llama folder of random bf16 weights, one shard per block."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{"tie_word_embeddings": False, **sizes}, dtype="bfloat16")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlamaForCausalLM(config).named_parameters()}
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(0)
        for shard in sorted({shard_of(name) for name in shapes}):
            weights = {n: random(shape, generator) for n, shape in shapes.items() if shard_of(n) == shard}
            save_file(weights, folder / f"{shard}.safetensors")
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(folder)


def random(shape, generator):  # type: ignore[no-untyped-def]
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator, dtype=torch.bfloat16) * 0.02


def shard_of(name: str) -> str:
    parts = name.split(".")
    return f"block-{int(parts[2]):03d}" if parts[1] == "layers" else parts[0] if parts[0] == "lm_head" else parts[1]


def child(options: argparse.Namespace) -> None:
    """Do the work, and say what it took."""
    with tempfile.TemporaryDirectory(dir=options.keep) as work:
        model = open_model(options.child, Path(work))
        facts = exported(model, Path(work)) if options.pte else quantized(model, Path(work), options)
    print(json.dumps({"parameters": model.parameters(), "blocks": model.blocks} | facts))


def exported(model: LanguageModel, work: Path) -> dict[str, Any]:
    """Written and proven; where nothing is rounded yet, that first, so that its memory does not count."""
    if not model.grid:
        return rounded(model, work)
    from squeeze.peak import largest_process_bytes
    from squeeze.writers.executorch_decoder import ExecuTorchDecoderWriter
    from squeeze.writers.proof import proven

    writer, began = ExecuTorchDecoderWriter(), time.monotonic()
    foretold = writer.memory_bytes(model, model.grid_kinds())
    file = writer.write(model, work)
    proven(writer.prove(model, file))
    seconds, peak = time.monotonic() - began, largest_process_bytes()
    return {"peak_bytes": peak, "foretold_bytes": foretold, "seconds": seconds, "file_bytes": file.stat().st_size}


def rounded(model: LanguageModel, work: Path) -> dict[str, Any]:
    """The facts of the rounded model, from a process of its own."""
    from squeeze.passes.base import Context
    from squeeze.passes.quantize.rtn import Rtn

    folder = work / "int4"
    folder.mkdir()
    fits = all(shape.matrix[1] % INT4["group_size"] == 0 for shape in model.matrices().values())
    Rtn(**(INT4 if fits else INT8)).run(model, Context()).save(folder)
    command = [sys.executable, __file__, "--pte", "--child", str(folder), "--keep", str(work)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def quantized(model: LanguageModel, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """By gptq."""
    import numpy as np

    from squeeze.data.text import TokenDataset
    from squeeze.passes.base import Context
    from squeeze.passes.quantize.gptq import Gptq
    from squeeze.peak import peak_memory_bytes
    from squeeze.store import Journal

    tokens = np.random.default_rng(0).integers(0, model.vocabulary, (SEQUENCES, LENGTH))
    data = TokenDataset("random", tokens)
    if options.calibrate is not None:
        data = open_text(options.calibrate, model, LENGTH, SEQUENCES)
    began = time.monotonic()
    limit = options.memory and options.memory * 10**9
    context = Context(calibration_data=data, journal=Journal(work), memory_bytes=limit)
    pass_ = Gptq(bits=4, group_size=options.group, **(PLAIN if options.plain else {}))
    foretold = pass_.memory_bytes(model, SEQUENCES * LENGTH, limit)
    pass_.run(model, context)
    return {"peak_bytes": peak_memory_bytes(), "foretold_bytes": foretold, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    run(main)
