"""A language model's .pte of 4-bit weights and 8-bit activations: torchao's 8da4w against rtn and gptq, in ExecuTorch.

    python benchmarks/phone_language.py [--real FOLDER | --model FOLDER|FILE.gguf --calibrate TEXT --evaluate TEXT]
        [--length 256 --samples 64 --scored 32 --group 32]

torchao's configuration is what ExecuTorch's examples and optimum-executorch quantize with; its integers go into the
same grid, the same writer and the same runtime as ours, so the files differ in their integers and scales alone: size
and speed are the same; ``gptq, int8`` takes its Hessians of inputs as the kernels round them. prose6M on its own
domain's texts, unless others are named; embedding and head stay float. The ratio is of perplexities to the original's;
``vs torchao`` is that to torchao's, paired over documents, with 95 % intervals. The export's peak is that of its own
process.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _inputs import Arguments, open_model, open_text, positive, run
from sparsity import ratio

from squeeze.data.text import TokenDataset
from squeeze.evaluate.tokens import Reference, score_tokens
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.backends.torchao import Torchao
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.rtn import Rtn
from squeeze.progress import Progress
from squeeze.runtimes.executorch_decoder import ExecuTorchDecoder
from squeeze.store import Journal
from squeeze.targets.mobile import Mobile
from squeeze.writers.executorch_decoder import export


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="phone-") as name:
        folder = Path(name)
        model = open_model(options.model, folder)
        calibrate = open_text(options.calibrate, model, options.length, options.samples)
        evaluate = open_text(options.evaluate, model, options.length, options.scored)
        (scores := folder / "original").mkdir()
        dense = score_tokens(model, evaluate, scores, None, Progress(), "original").nll.mean(1)
        print(f"original {np.exp(dense.mean()):.3f}, over {evaluate.tokens.size:,} tokens", flush=True)
        reference, first = Reference(model, scores), None
        for name, quantized in quantizers(model, calibrate, options.group, folder):
            first = row(name, quantized, evaluate, reference, dense, first, folder, options.length)


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_language_model("calibrate", "evaluate")
    parser.add_sequences(length=256, samples=64, scored=32)
    parser.add_argument("--group", type=positive, default=32, help="input channels that share a scale")
    return parser.language_model()


def quantizers(
    model: LanguageModel, calibrate: TokenDataset, group: int, folder: Path
) -> Iterator[tuple[str, LanguageModel]]:
    """The same weights on the same kind of grid, by who chose the integers."""
    gptq = Gptq(bits=4, group_size=group, scales="bfloat16", negative_scales=False)
    for name, pass_ in (
        ("torchao", Torchao(bits=4, group_size=group)),
        ("rtn", Rtn(bits=4, group_size=group, scales="bfloat16")),
        ("gptq", gptq),
        ("gptq, int8", gptq.model_copy(update={"activations": "int8"})),
    ):
        journal = Journal(Path(tempfile.mkdtemp(dir=folder)))
        quantized = pass_.run(model, Context(calibration_data=calibrate, journal=journal))
        assert isinstance(quantized, LanguageModel)
        yield name, quantized


def row(
    name: str,
    quantized: LanguageModel,
    evaluate: TokenDataset,
    reference: Reference,
    dense: np.ndarray,
    first: np.ndarray | None,
    folder: Path,
    length: int,
) -> np.ndarray:
    """Write, score and print one file; gives the first one's losses."""
    work = Path(tempfile.mkdtemp(dir=folder))
    peak = export(quantized, work, length)["peak_bytes"]
    (work / "model.pte").unlink()
    built = Mobile(runtime="executorch", context=length).build(quantized, work)
    assert isinstance(built, ExecuTorchDecoder)
    scored = score_tokens(built, evaluate, Path(tempfile.mkdtemp(dir=folder)), reference, Progress(), name)
    loss = scored.nll.mean(1)
    against = "" if first is None else f"vs torchao {ratio(loss, first, evaluate)}"
    print(
        f"{name:<10} perplexity {np.exp(loss.mean()):8.3f}  {ratio(loss, dense, evaluate)}  KL {scored.kl.mean():.5f}  "
        f"{built.nbytes() / 1e6:.1f} MB  export {peak / 1e6:,.0f} MB  {against}",
        flush=True,
    )
    return loss if first is None else first


if __name__ == "__main__":
    run(main)
