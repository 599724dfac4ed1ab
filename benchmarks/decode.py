"""How fast int4 decoders read a prompt and write on: our ONNX package beside its float32 self and other runtimes.

    python benchmarks/decode.py [--model FOLDER|FILE.gguf] [--evaluate TEXT] [--real FOLDER] [--threads 2] [--rounds 9]
        [--prompt 128] [--new 64] [--cpu-time]

On a model of yours, or on prose6M and two random layers of TinyLlama's shape, int4 in groups of 32, table and head too:
ONNX Runtime with caches that stay in place, the same file in ONNX Runtime GenAI, GenAI's own int4 build of the same
weights, ExecuTorch on a .pte of the same bits and groups, llama.cpp on Q4_0 made of the same grid and on Q2_0 made of
one of 2 bits in groups of 64, and the float32 model in ONNX Runtime. What is not installed is left out by name. Runs
alternate in one process; ratios are of medians, ours to each, with 95 % intervals: above 1, ours is faster. The prompt
is the beginning of the text, or random tokens.
``--cpu-time`` counts processor seconds instead, for one thread on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _inputs import REAL, Arguments, folder, model_path, open_model, open_text, positive, run, text_file
from memory import SHAPES, make

from squeeze.algorithms.stats import ratio_of_medians
from squeeze.errors import ModelError, SqueezeError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.executorch import ExecuTorchText
from squeeze.runtimes.ggml import two_bits_fault
from squeeze.runtimes.llama_cpp import WithoutAmx
from squeeze.runtimes.onnx_decoder import OnnxDecoder, Session, Text
from squeeze.writers.decoder.export import export_decoder
from squeeze.writers.executorch_decoder import ExecuTorchDecoderWriter
from squeeze.writers.genai import GenaiWriter
from squeeze.writers.gguf import write_gguf

OURS = "ours, int4, ONNX Runtime"
Read = Callable[[list[int]], int]  # more tokens -> the likeliest next one
Start = Callable[[], Read]  # a new text


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as work:
        if options.model is None:
            measure_both(options, Path(work))
        else:
            measure(options.model.stem, open_model(options.model, Path(work)), Path(work) / "made", options)


def measure_both(options: argparse.Namespace, work: Path) -> None:
    """A small trained model, and a shape."""
    real = options.real / "models" / "prose6M"
    if real.is_dir():
        measure("prose6M", LanguageModel(real), work / "prose6M", options)
    else:
        print(f"prose6M: skipped, {real} is absent; --real names the folder of real models and data")
    shape = work / "source"
    make(shape, {**SHAPES["tiny-llama"], "num_hidden_layers": 2})
    for tokenizer in real.glob("tokenizer*"):  # the others will not build a model without one
        shutil.copy(tokenizer, shape)
    measure("2 layers of TinyLlama's shape", LanguageModel(shape), work / "tiny", options)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=model_path, help="a Hugging Face folder, or a .gguf file")
    parser.add_argument("--evaluate", type=text_file, help="a text to read on; default: random tokens")
    parser.add_argument("--real", type=folder, default=REAL, help="folder of real models, where prose6M is")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--prompt", type=positive, default=128)
    parser.add_argument("--new", type=positive, default=64)
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds; says something with --threads 1")
    return parser.parse_args()


def measure(name: str, dense: LanguageModel, work: Path, options: argparse.Namespace) -> None:
    starts = variants(dense, work, options)
    clock = time.process_time if options.cpu_time else time.perf_counter
    speeds: dict[str, list[tuple[float, float]]] = {variant: [] for variant in starts}
    prompt = prompt_of(dense, options)
    for number in range(options.rounds + 1):
        for variant, start in starts.items():
            speed = timed(start, prompt, options.new, clock)
            if number:  # the first round warms up
                speeds[variant].append(speed)
    report(f"{name}, {options.threads} threads, {options.prompt} tokens read, {options.new} written", speeds)


def prompt_of(model: LanguageModel, options: argparse.Namespace) -> list[int]:
    """The tokens that are read."""
    if options.evaluate is not None:
        return open_text(options.evaluate, model, options.prompt, None).tokens[0].tolist()
    return np.random.default_rng(0).integers(5, min(500, model.vocabulary), options.prompt).tolist()


def timed(start: Start, prompt: list[int], new: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds per token read, and per token written."""
    read = start()
    began = clock()
    token = read(prompt)
    between = clock()
    for _ in range(new):
        token = read([token])
    return (between - began) / len(prompt), (clock() - between) / new


def report(title: str, speeds: dict[str, list[tuple[float, float]]]) -> None:
    print(f"\n{title}\n{'':<34}{'reads tok/s':>12}{'ours is x':>22}{'writes tok/s':>14}{'ours is x':>22}")
    own = np.array(speeds[OURS])
    for variant, seconds in speeds.items():
        each = np.array(seconds)
        cells = [f"{variant:<34}"]
        for place, width in ((0, 12), (1, 14)):
            ratio, interval = ratio_of_medians(each[:, place], own[:, place])
            spread = "" if variant == OURS else f"{ratio:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
            cells.append(f"{1 / np.median(each[:, place]):>{width},.0f}{spread:>22}")
        print("".join(cells), flush=True)


def variants(dense: LanguageModel, work: Path, options: argparse.Namespace) -> dict[str, Start]:
    """What there is to run here, by name."""
    model = Rtn(bits=4, group_size=32, embeddings=4).run(dense, Context())
    ours = export_decoder(model, work / "int4")
    floats = export_decoder(dense, work / "float32")
    most = options.prompt + options.new + 8
    starts = {OURS: ort(ours, options.threads, most), "float32, ONNX Runtime": ort(floats, options.threads, most)}
    others: dict[str, Callable[[], Start]] = {
        "ours, int4, GenAI": lambda: genai(GenaiWriter().write(ours, work / "genai").parent, options.threads, most),
        "GenAI's own int4 build": lambda: genai(built_by_genai(dense, work), options.threads, most),
        "ours, int4, ExecuTorch": lambda: executorch(dense, work / "pte", options.threads, most),
        "llama.cpp, Q4_0 of our grid": lambda: llama_cpp(model, work / "model.gguf", options.threads, most),
        "llama.cpp, Q2_0, 2 bits": lambda: llama_cpp(two_bits(dense), work / "2.gguf", options.threads, most, True),
    }
    for name, make_start in others.items():
        try:
            starts[name] = make_start()
        except (ImportError, SqueezeError, subprocess.CalledProcessError) as error:
            print(f"{name}: left out ({' '.join(str(error).split())[:120]})")
    return starts


def ort(decoder: OnnxDecoder, threads: int, most: int) -> Start:
    session = Session(decoder.main, threads, spinning=True)

    def start() -> Read:
        text = Text(session, most)
        return lambda tokens: int(text.read(tokens).argmax())

    return start


def genai(folder: Path, threads: int, most: int) -> Start:
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)

    def start() -> Read:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=most, min_length=most, do_sample=False)
        generator: Any = og.Generator(model, parameters)
        first = True

        def read(tokens: list[int]) -> int:
            nonlocal first
            if first:
                generator.append_tokens(np.array([tokens], np.int32))
            first = False
            generator.generate_next_token()  # what it chose itself is what comes in
            return int(generator.get_next_tokens()[0])

        return read

    return start


def built_by_genai(dense: LanguageModel, work: Path) -> Path:
    dense.save_dense(work / "dense")
    out = work / "genai-own"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(work / "dense"), "-o", str(out)]
    options = ["-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return out


def two_bits(dense: LanguageModel) -> LanguageModel:
    """The same model on a grid that Q2_0 holds."""
    if fault := two_bits_fault():
        raise ModelError(fault)
    return Rtn(bits=2, group_size=64, embeddings=4).run(dense, Context())


def llama_cpp(model: LanguageModel, file: Path, threads: int, most: int, two_bits: bool = False) -> Start:
    from llama_cpp import Llama

    write_gguf(model, file, two_bits)
    with WithoutAmx():
        llama = Llama(str(file), n_ctx=most, n_threads=threads, n_threads_batch=threads, verbose=False)

    def start() -> Read:
        llama.reset()

        def read(tokens: list[int]) -> int:
            llama.eval(tokens)
            logits = llama._ctx.get_logits_ith(-1)
            return int(np.ctypeslib.as_array(logits, shape=(llama.n_vocab(),)).argmax())

        return read

    return start


def executorch(dense: LanguageModel, folder: Path, threads: int, most: int) -> Start:
    """The same bits and groups, with scales that XNNPACK's kernels hold."""
    folder.mkdir()
    model = Rtn(bits=4, group_size=32, embeddings=4, scales="bfloat16").run(dense, Context())
    text = ExecuTorchText(ExecuTorchDecoderWriter(most).write(model, folder), threads)

    def start() -> Read:
        text.reset()
        return lambda tokens: int(text.feed(tokens)[-1].argmax())

    return start


if __name__ == "__main__":
    run(main)
