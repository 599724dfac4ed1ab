"""Quantizers that ``perplexity.py`` compares, each run in a process of its own with the defaults of its package.

    python _perplexity_candidates.py NAME JOB.json

Reads the job, loads the model, quantizes it, saves what its users would save, and only then, with the clock stopped and
the peak taken, writes the weights that it computes with for scoring.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Weights = Iterator[tuple[str, Any]]  # module name, [out, in]


def main() -> None:
    name, file = sys.argv[1:]
    job = json.loads(Path(file).read_text())
    began = time.time()
    quantize = CANDIDATES[name]()
    imported = time.time()

    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    tokens = load_file(job["tokens"])["tokens"]
    weights = quantize(job, tokens)
    next(weights)  # done, saved
    done = {
        "import_s": imported - began,
        "quantize_s": time.time() - imported,
        "process_s": time.time() - job["spawned"],
        "peak_bytes": peak_bytes(),
    }
    save_file({module: value.float().contiguous() for module, value in weights}, job["out"])
    Path(job["said"]).write_text(json.dumps(done))


def peak_bytes() -> int:
    """Of this program alone: ``ru_maxrss`` of a child starts at what its parent held when it was made."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match, "Linux says so"
    return int(match[1]) * 1024


def ours(name: str, **more: Any) -> Callable[[], Callable[..., Weights]]:
    def load() -> Callable[..., Weights]:
        import numpy as np

        from squeeze.data.text import TokenDataset
        from squeeze.models.language.language_model import LanguageModel
        from squeeze.passes.base import Context
        from squeeze.registry import load as named
        from squeeze.store import Journal

        def run(job: dict[str, Any], tokens: Any) -> Weights:
            model = LanguageModel(Path(job["model"]))
            pass_ = named("passes", name)(bits=job["bits"], group_size=job["group_size"], **more)
            data = TokenDataset("calibration", np.asarray(tokens))
            context = Context(calibration_data=data, journal=Journal(Path(job["work"])), threads=job["threads"])
            result = pass_.run(model, context)
            yield "", None
            for full in result.skeleton.names():  # all of them: awq changes norms too
                yield full, result.tensor(full)

        return run

    return load


def llm_compressor() -> Callable[..., Weights]:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def run(job: dict[str, Any], tokens: Any) -> Weights:
        import torch

        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
        rows = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in tokens]
        args = QuantizationArgs(num_bits=job["bits"], group_size=job["group_size"], symmetric=True, strategy="group")
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        oneshot(
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(job["model"]),
            dataset=DataLoader(rows, batch_size=None),  # type: ignore[arg-type]  # a list of dicts is a dataset to it
            recipe=GPTQModifier(config_groups={"all": scheme}, ignore=["lm_head"]),
            max_seq_length=tokens.shape[1],
            num_calibration_samples=len(rows),
        )
        weights = {name: weight.clone() for name, weight in _linears(model)}  # saving leaves packed ones
        model.save_pretrained(job["work"], save_compressed=True)
        yield "", None
        yield from weights.items()

    return run


def gptqmodel() -> Callable[..., Weights]:
    from gptqmodel import GPTQModel, QuantizeConfig

    def run(job: dict[str, Any], tokens: Any) -> Weights:
        config = QuantizeConfig(bits=job["bits"], group_size=job["group_size"], sym=True, device="cpu")
        model = GPTQModel.load(job["model"], config)
        rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens.tolist()]
        model.quantize(rows, batch_size=8, calibration_data_min_length=1)
        saved = Path(job["work"]) / "saved"
        model.save(str(saved))
        yield "", None
        yield from _gptq_checkpoint(saved, job)

    return run


def neural_compressor() -> Callable[..., Weights]:
    from neural_compressor.torch.algorithms.weight_only.modules import INCWeightOnlyLinear
    from neural_compressor.torch.quantization import GPTQConfig, convert, prepare
    from transformers import AutoModelForCausalLM

    def run(job: dict[str, Any], tokens: Any) -> Weights:
        import torch

        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
        model.config.use_cache = False
        config = GPTQConfig(bits=job["bits"], group_size=job["group_size"], use_sym=True)
        config.set_local("lm_head", GPTQConfig(dtype="fp32"))
        prepared = prepare(model, config)
        for row in tokens:
            prepared(row[None])
        result = convert(prepared)
        result.save(job["work"])
        yield "", None
        packed = [(name, module) for name, module in result.named_modules() if isinstance(module, INCWeightOnlyLinear)]
        yield from ((f"{name}.weight", module.recover()) for name, module in packed)

    return run


def auto_round() -> Callable[..., Weights]:
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def run(job: dict[str, Any], tokens: Any) -> Weights:
        import torch

        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
        rounding = AutoRound(
            model,
            tokenizer=AutoTokenizer.from_pretrained(job["model"]),
            bits=job["bits"],
            group_size=job["group_size"],
            sym=True,
            dataset=[{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in tokens],
            seqlen=tokens.shape[1],
            nsamples=len(tokens),
            device_map="cpu",
            seed=0,
            enable_torch_compile=False,  # its default compiles, which here takes longer than it saves
            **({"iters": job["iterations"]} if job["iterations"] else {}),
        )
        result, _ = rounding.quantize()
        weights = {name: weight.clone() for name, weight in _linears(result)}
        rounding.save_quantized(str(Path(job["work"]) / "saved"), format="auto_gptq", inplace=False)
        yield "", None
        yield from weights.items()

    return run


def _linears(model: Any) -> Weights:
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            yield f"{name}.weight", module.weight.data


def _gptq_checkpoint(folder: Path, job: dict[str, Any]) -> Weights:
    from safetensors.torch import load_file

    from squeeze.formats.gptq_checkpoint import PARTS, from_tensors

    stored = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    for name in [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]:
        parts = {part: stored[f"{name}.{part}"] for part in PARTS}
        yield f"{name}.weight", from_tensors(parts, job["bits"], job["group_size"], 1).dequantize()


OURS = {
    "rtn": ours("rtn"),
    "hqq": ours("hqq"),
    "awq": ours("awq"),
    "gptq, plain": ours("gptq", target="given", refinements=0, negative_scales=False, true_sequential=False),
    "gptq": ours("gptq"),
    "gptq-end-loss": ours("gptq", weighting="end_loss"),
}
PEERS = {  # by the module that must be there
    "llm-compressor": ("llmcompressor", llm_compressor),
    "gptqmodel": ("gptqmodel", gptqmodel),
    "neural-compressor": ("neural_compressor", neural_compressor),
    "auto-round": ("auto_round", auto_round),
}
CANDIDATES = OURS | {name: load for name, (_, load) in PEERS.items()}


if __name__ == "__main__":
    main()
