"""A tiny random language model in a folder, a tokenizer of single letters, and calibration tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny import Killed, faults, write_plan
from torch import Tensor, nn

from squeeze.data.text import TokenDataset
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context, Pass
from squeeze.store import Journal

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"


def write_folder(folder: Path, family: str = "Llama", **changes: Any) -> Path:
    """A model of that family with weights larger than freshly initialized ones."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | changes)
    module = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter.data, 0.0, 0.1)
    module.save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """One token per letter; the last one ends a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: place for place, letter in enumerate(LETTERS)} | {"<end>": len(LETTERS)}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    letters.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>").save_pretrained(folder)


CALIBRATED = """\
model: {hf: .}
data:
  calibrate: {text: calibrate.txt, length: 16}
  evaluate: {text: evaluate.txt, length: 16}
metrics: [perplexity]
passes:
"""


def plan_faults(folder: Path, plan: str, family: str = "Llama", **changes: Any) -> list[str]:
    """What is wrong with a plan for a tiny model and two texts, all of which it finds beside itself."""
    write_tokenizer(write_folder(folder, family, **changes))
    (folder / "calibrate.txt").write_text("abc " * 40)
    (folder / "evaluate.txt").write_text("the fox. " * 40)
    return faults(write_plan(folder, plan))


def open_with_bos(folder: Path) -> None:
    """The tokenizer puts its last token before every text, as Llama's and Gemma's do."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = "<end>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", len(LETTERS))]
    )
    tokenizer.save_pretrained(folder)


def in_shards(model: object) -> LanguageModel:
    """The result of a pass that takes models in memory and in shards, and was given one in shards."""
    assert isinstance(model, LanguageModel)
    return model


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change the stored weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def context(tokens: np.ndarray | None = None) -> Context:
    """Calibration tokens, random unless given."""
    random = np.random.default_rng(0).integers(0, 128, (16, 16))
    return Context(calibration_data=TokenDataset("text", random if tokens is None else tokens))


def logits(model: LanguageModel) -> Tensor:
    """Of a few random tokens."""
    tokens = np.random.default_rng(1).integers(0, 128, (3, 16))
    return model.predict(Batch({"input_ids": torch.from_numpy(tokens)}))


def require_same_after_a_kill(
    pass_: Pass[Any, Any],
    model: LanguageModel,
    journal: Path,
    tokens: np.ndarray | None = None,
    finished: int = 1,
) -> None:
    """A run that is killed after the first block and started again must end with the facts and bytes of another.

    Args:
        finished: Blocks that it has gone through by then.
    """
    whole, half = context(tokens), context(tokens)
    half.journal = Journal(journal)
    half.progress = Killed(after=finished)
    try:
        pass_.run(model, half)
    except KeyboardInterrupt:
        half.progress = whole.progress
    assert half.progress is whole.progress, "it was not killed"
    result, resumed = pass_.run(model, whole), pass_.run(model, half)
    assert whole.facts == half.facts
    for file in sorted(result.folder.glob("*.safetensors")):
        assert file.read_bytes() == (resumed.folder / file.name).read_bytes(), file.name
