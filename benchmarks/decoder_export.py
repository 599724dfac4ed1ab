"""Two ways from a language model to an ONNX decoder with key-value cache: Squeeze's tracer, and torch.onnx.export.

    python benchmarks/decoder_export.py [--family llama3.1 ...] [--model FOLDER ...]

Each family is a tiny random model; ``--model`` takes a Hugging Face folder as well. Each export is a process of its
own, which also runs the file in ONNX Runtime on a prompt and on a token behind it. A line says how much processor time
the export took, the peak of resident memory until then, how many nodes the graph has, and how far logits are off
torch's; or what broke.
``torch`` is torch.onnx.export(dynamo=True) of the stock transformers model with keys and values as inputs and outputs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests" / "models"
WAYS = ("squeeze", "torch")
PROMPT, PAST = 6, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="*", help="tiny random models; unless given, all")
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="Hugging Face folders")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, folder, out = options.child
        child(way, Path(folder), Path(out))
        return
    sys.path.insert(0, str(TESTS))
    from families import FAMILIES, write_family

    print(f"{'model':<16}{'way':<9}{'CPU s':>8}{'peak MB':>9}{'nodes':>7}  logits off by (prompt, token)")
    with tempfile.TemporaryDirectory() as temporary:
        for name in FAMILIES if options.family is None else options.family:
            measure(name, write_family(name, Path(temporary) / name))
        for folder in options.model:
            measure(folder.name, folder)


def measure(name: str, folder: Path) -> None:
    for way in WAYS:
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, __file__, "--child", way, str(folder), out]
            done = subprocess.run(command, capture_output=True, text=True)
        line = f"{name:<16}{way:<9}"
        if done.returncode:
            print(f"{line}  {(done.stderr.strip().splitlines() or ['ended'])[-1][:90]}", flush=True)
            continue
        got = json.loads(done.stdout.splitlines()[-1])
        off = ", ".join(f"{value:.0e}" for value in got["off"])
        print(f"{line}{got['seconds']:>8.1f}{got['peak_mb']:>9.0f}{got['nodes']:>7}  {off}", flush=True)


def child(way: str, folder: Path, out: Path) -> None:
    """Export, then compare; the peak is taken in between."""
    import onnx

    warnings.simplefilter("ignore")
    began = time.process_time()
    (with_squeeze if way == "squeeze" else with_torch)(folder, out)
    seconds, peak = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "nodes": len(graph.node), "off": compare(folder, out)}))


def with_squeeze(folder: Path, out: Path) -> None:
    from squeeze.models.language.language_model import LanguageModel
    from squeeze.writers.decoder.export import Options, write

    write(LanguageModel(folder), out, Options())


def stock(folder: Path) -> Any:
    """The transformers model in float32, without its vision tower's task."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    vision = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
    kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def with_torch(folder: Path, out: Path) -> None:
    import torch
    from torch import nn
    from torch.export import Dim
    from transformers import DynamicCache

    class Flat(nn.Module):
        """Keys and values as plain tensors, two per layer."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, past: list[Any]) -> Any:
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            done = self.model(input_ids=input_ids, attention_mask=attention_mask, cache=cache, use_cache=True)
            return done.logits, [part for layer in done.cache.layers for part in (layer.keys, layer.values)]

    model = stock(folder)
    shapes = cache_shapes(model)
    past = [torch.zeros(2, heads, PAST, size) for heads, size in shapes]
    inputs = (torch.ones(2, PROMPT, dtype=torch.int64), torch.ones(2, PAST + PROMPT, dtype=torch.int64), past)
    free = (
        {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
        {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
        [{0: Dim.DYNAMIC, 2: Dim.DYNAMIC}] * len(past),
    )
    program = torch.onnx.export(Flat(model), inputs, dynamo=True, dynamic_shapes=free, verbose=False)
    assert program is not None
    program.save(out / "model.onnx", external_data=True)


def cache_shapes(model: Any) -> list[tuple[int, int]]:
    """Heads and channels of each key and value, by running a token."""
    import torch

    with torch.no_grad():
        cache = model(input_ids=torch.ones(1, 1, dtype=torch.int64), use_cache=True).cache
    return [(part.shape[1], part.shape[3]) for layer in cache.layers for part in (layer.keys, layer.values)]


def compare(folder: Path, out: Path) -> list[float]:
    """Of a prompt and of one token behind it: the largest difference of a logit, as part of the largest logit."""
    import numpy as np
    import onnxruntime
    import torch

    model = stock(folder)
    tokens = torch.randint(1, min(model.config.get_text_config().vocab_size, 127), (1, PROMPT + 1))
    with torch.no_grad():
        expected = model(input_ids=tokens).logits.numpy()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    ids, mask, *others = [value.name for value in session.get_inputs()]
    past = [np.zeros((1, heads, 0, size), np.float32) for heads, size in cache_shapes(model)]
    off, first = [], 0
    for last in (PROMPT, PROMPT + 1):
        feed = {ids: tokens[:, first:last].numpy(), mask: np.ones((1, last), np.int64)}
        positions = [name for name in others if "position" in name]
        feed |= {name: np.arange(first, last)[None] for name in positions}
        feed |= dict(zip([name for name in others if name not in positions], past, strict=False))
        got, *past = session.run(None, feed)
        off.append(float(np.abs(got - expected[:, first:last]).max() / np.abs(expected).max()))
        first = last
    return off


if __name__ == "__main__":
    main()
