"""A packed checkpoint as its ecosystem runs it: transformers, with optimum and gptqmodel, or with compressed-tensors.

GPTQ linears compute in float16; compressed-tensors are unpacked into float32 here, since a CPU has no integer kernels
for them.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch

from squeeze.errors import ModelError, first_line
from squeeze.models.facts import Facts
from squeeze.progress import no_foreign_bars
from squeeze.runtimes.base import GENERATE, Runtime
from squeeze.runtimes.in_transformers import InTransformers, TransformersScript

NEEDS = {  # by quant_method: what must be importable, the extra that installs it, what pip is told
    "gptq": ("gptqmodel", "gptq", ("gptqmodel", "optimum")),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors", ("compressed-tensors",)),
}


class CheckpointDecoder(InTransformers):
    """A Hugging Face folder whose ``config.json`` names how its weights are packed.

    Raises:
        ModelError: no such folder, another packing, or its package cannot load it.
    """

    runtime = "transformers"
    file_name = "config.json"

    @property
    def weight_files(self) -> tuple[Path, ...]:
        return tuple(sorted(self.folder.glob("*.safetensors")))

    @property
    def vocabulary(self) -> int:
        config = self._config
        return int(config.get("text_config", config)["vocab_size"])

    @property
    def packing(self) -> dict[str, Any]:
        """``quantization_config`` of config.json."""
        return packing_of(self._config, self.main)

    def arithmetic(self) -> str:
        if self.packing["quant_method"] == "gptq":
            return "transformers with gptqmodel: float16 activations, head and logits"
        return "transformers: float32 activations, head and logits, weights unpacked"

    @cached_property
    def module(self) -> Any:
        """The model in memory, as its package loads it."""
        method = self.packing["quant_method"]
        needed, extra, _ = NEEDS[method]
        if find_spec(needed) is None:
            raise ModelError(f"{self.folder}: {self.runtime} needs {needed}: pip install 'squeeze[{extra}]'")
        try:
            with no_foreign_bars():
                return (_gptq if method == "gptq" else _unpacked)(self.folder, self.packing).eval()
        except Exception as error:  # two libraries with exception classes of their own
            raise ModelError(f"{self.folder}: cannot be loaded ({first_line(error)})") from error

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_config(self.main)


def read_config(file: Path) -> dict[str, Any]:
    """``config.json`` of a folder; raises ``ModelError`` where there is none."""
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{file}: no config can be read here ({error})") from None


def packing_of(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a config says of packed weights; raises ``ModelError`` where it names none that is known."""
    values = config.get("quantization_config")
    if not isinstance(values, dict) or values.get("quant_method") not in NEEDS:
        raise ModelError(f"{file}: names no packing of {' or '.join(NEEDS)}")
    return values


def _gptq(folder: Path, packing: dict[str, Any]) -> Any:
    """transformers with optimum takes one scheme for all linears; gptqmodel, whose linears both use, takes any."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # by default it takes one per core of a large server
    if packing.get("dynamic") or find_spec("optimum") is None:
        from gptqmodel import BACKEND, GPTQModel

        return GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16).model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.quantization_config["backend"] = "gptq_torch"  # the reference kernel: other CPU kernels round more
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float16, trust_remote_code=False)


def _unpacked(folder: Path, packing: dict[str, Any]) -> Any:
    """Packed zero points load only through the way that unpacks at once, which knows one scheme for all weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    groups = list(packing["config_groups"].values())
    if any(not group["weights"]["symmetric"] for group in groups):
        if len(groups) > 1:
            raise ModelError("transformers reads asymmetric compressed-tensors weights of one kind only")
        config.quantization_config["dequantize"] = True
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return kind.from_pretrained(folder, config=config, dtype=torch.float32, trust_remote_code=False)


class CheckpointScript(TransformersScript):
    """A packed checkpoint folder in transformers."""

    def load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoConfig

        torch.set_num_threads(self.threads)
        config = AutoConfig.from_pretrained(self.file.parent, local_files_only=True, trust_remote_code=False)
        if config.quantization_config.get("quant_method") == "gptq":
            config.quantization_config["backend"] = "gptq_torch"  # the reference kernel: other CPU kernels round more
            return self.opened(config, torch.float16), torch
        return self.opened(config, torch.float32), torch

    def opened(self, config: Any, dtype: Any) -> Any:
        from transformers import AutoModelForCausalLM

        options = {"config": config, "dtype": dtype, "local_files_only": True, "trust_remote_code": False}
        return AutoModelForCausalLM.from_pretrained(self.file.parent, **options).eval()


class Transformers(Runtime):
    """transformers on a folder of packed weights."""

    name = "transformers"
    distribution = "transformers"
    modules = ("transformers",)
    loads: ClassVar = {GENERATE: ("config.json",)}
    beside = (".safetensors", ".json", ".txt", ".model", ".jinja")
    script: ClassVar = {GENERATE: (TransformersScript, CheckpointScript)}

    @classmethod
    def decoder(cls, folder: Path, facts: Facts, keeper: object = None) -> CheckpointDecoder:
        return CheckpointDecoder(folder, facts, keeper)

    @classmethod
    def requirements(cls, file: Path) -> tuple[str, ...]:
        return ("torch", "transformers", *NEEDS[packing_of(read_config(file), file)["quant_method"]][2])
