"""Make the checkpoints beside this file with auto-gptq 0.7.1 itself; see README.md for its environment.

Run once: ``python make.py STORIES260K_HF_FOLDER TEXT_FILE``. auto-gptq moves every layer to ``cuda:0`` before it
quantizes it; here that one constant says ``cpu``, and the two calls that wait for a GPU do nothing. All else, from the
Hessians to the packing and ``save_quantized``, is auto-gptq's own code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import auto_gptq.modeling._base as base
import numpy as np
import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

HERE = Path(__file__).parent
WIDE = 192  # its intermediate size is 172, which auto-gptq cannot pack; 20 channels of zeros change nothing
KINDS = {
    "act-order": BaseQuantizeConfig(bits=4, group_size=32, desc_act=True, sym=True, true_sequential=False),
    "asymmetric": BaseQuantizeConfig(bits=4, group_size=64, desc_act=False, sym=False, true_sequential=False),
}


def run_on_the_cpu() -> None:
    base.CUDA_0 = torch.device("cpu")
    torch.cuda.is_available = lambda: True
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.empty_cache = lambda: None


def widen(source: Path, target: Path) -> None:
    """The same model with an intermediate size that fills whole words, in the words of transformers 4."""
    weights = load_file(source / "model.safetensors")
    for name, value in weights.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            weights[name] = torch.cat([value, torch.zeros(WIDE - len(value), value.shape[1])])
        if name.endswith("down_proj.weight"):
            weights[name] = torch.cat([value, torch.zeros(len(value), WIDE - value.shape[1])], dim=1)
    weights = {name: value.half() for name, value in weights.items()}
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"intermediate_size": WIDE, "rope_theta": rope["rope_theta"], "torch_dtype": config.pop("dtype")}
    (target / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))


def tokenized(file: Path, text: str) -> torch.Tensor:
    """``[rows, 128]``; the tokenizers of that time want merges as strings."""
    values = json.loads(file.read_text())
    values["model"]["merges"] = [" ".join(merge) for merge in values["model"]["merges"]]
    ids = torch.tensor(Tokenizer.from_str(json.dumps(values)).encode(text).ids)
    return ids[: len(ids) // 128 * 128].reshape(-1, 128)


def main(source: Path, text: Path) -> None:
    rows = tokenized(source / "tokenizer.json", text.read_text())
    calibration, scored = rows[:12], rows[12:13, :64]
    run_on_the_cpu()
    for name, kind in KINDS.items():
        with TemporaryDirectory() as folder:
            widen(source, Path(folder))
            model = AutoGPTQForCausalLM.from_pretrained(folder, kind, torch_dtype=torch.float32)
            examples = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in calibration]
            model.quantize(examples, use_triton=False, use_cuda_fp16=False)
        model.model.config._name_or_path = "stories260K"
        model.model.half()  # it is stored as it lies in memory
        model.save_quantized(str(HERE / name), use_safetensors=True)
        whole = model.model.float().eval()  # its linears then multiply in float32
        with torch.no_grad():
            logits = whole(input_ids=scored).logits.float()
        np.savez_compressed(HERE / name / "reference.npz", input_ids=scored.numpy(), logits=logits.half().numpy())
        log_probabilities = torch.log_softmax(logits[:, :-1], -1).gather(-1, scored[:, 1:, None])
        print(name, f"loss {-float(log_probabilities.mean()):.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
