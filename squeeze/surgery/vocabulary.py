"""A decoder with fewer tokens: which of its tensors have a row for each, and its folder with config and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.regular import read_json
from squeeze.formats.tokenizer_json import Vocabulary, cut_tokenizer, named_tokens, read_vocabulary, renumbered
from squeeze.models.language.build import text_values
from squeeze.models.language.dense import write_dense
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import Skeleton
from squeeze.models.tokenizer import TOKENIZER, read_tokenizer

SIZE = "vocab_size"
OTHERS = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model", "vocab.txt")  # say it once more
CONFIGS = ("config.json", "generation_config.json")
ROLES = "system user assistant tool"  # names in a chat that no template spells out


@dataclass(frozen=True)
class Tokens:
    """A model's tokenizer, as far as cutting it goes.

    Args:
        values: Of its tokenizer.json.
        required: Numbers of the tokens without which some text, or a chat, could not be encoded.
    """

    values: Mapping[str, Any]
    vocabulary: Vocabulary
    required: frozenset[int]

    @classmethod
    def read(cls, folder: Path) -> Tokens:
        """Of a folder.

        Raises:
            ModelError: it has no tokenizer.json, or one of a kind that cannot be cut.
        """
        file = folder / TOKENIZER
        if not file.is_file():
            raise ModelError(f"{folder}: no {TOKENIZER} here, whose tokens could be cut")
        return _read(folder, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)  # a check asks several times, and a quarter of a million tokens take seconds
def _read(folder: Path, written_ns: int) -> Tokens:  # noqa: ARG001 - a file that was changed is read again
    values = read_json(folder / TOKENIZER)
    if not isinstance(values, dict):
        raise ModelError(f"{folder / TOKENIZER}: is no mapping, as the tokenizers library writes it")
    vocabulary = read_vocabulary(values, str(folder / TOKENIZER))
    configs = [read_json(folder / name) for name in CONFIGS if (folder / name).is_file()]
    named = {number for config in configs for number in named_tokens(config)}
    return Tokens(values, vocabulary, vocabulary.required | _of_chats(folder) | named)


def with_tokens(model: LanguageModel, count: int, new: Mapping[int, int] | None = None) -> Skeleton:
    """The decoder with so many tokens, without weights.

    Args:
        new: Old number of each token that stays: its new one; None: not known yet, any that there is will do.

    Raises:
        ModelError: its config does not name their number, or other tensors would change with it.
    """
    values = dict(model.skeleton.values)
    if getattr(model.skeleton.config.get_text_config(), SIZE, None) != model.tokens_known:
        raise ModelError(f"{model.folder / 'config.json'}: {SIZE} is not the number of embedded tokens")
    numbers = new or {old: min(old, count - 1) for old in range(model.tokens_known)}
    smaller = Skeleton.built(model.folder, renumbered(values | text_values(values, {SIZE: count}), numbers))
    _rows(model, smaller)
    return smaller


def _rows(model: LanguageModel, smaller: Skeleton) -> list[str]:
    """Names of the tensors with a row for each token."""
    new = dict(smaller.module.named_parameters())
    changed = [(n, v, new[n]) for n, v in model.skeleton.module.named_parameters() if new[n].shape != v.shape]
    for name, old, fewer in changed:
        if old.shape[0] != model.tokens_known or old.shape[1:] != fewer.shape[1:]:
            raise ModelError(f"{name} changes with {SIZE} from {list(old.shape)} to {list(fewer.shape)}: not known how")
    if set(model.ends) - {name for name, _, _ in changed}:
        raise ModelError(f"{model.ends[0]} does not change with {SIZE}")
    return [name for name, _, _ in changed]


def write_with_tokens(model: LanguageModel, tokens: Tokens, staying: Sequence[int], folder: Path) -> LanguageModel:
    """The decoder with these tokens alone, as a folder that stock transformers loads.

    Args:
        staying: Their numbers, ascending.
    """
    new = {old: place for place, old in enumerate(staying)}
    smaller, rows = with_tokens(model, len(staying), new), torch.tensor(staying)
    cut = set(_rows(model, smaller))

    def tensor(name: str) -> Tensor:
        value = model.tensor(name)
        return value[rows] if name in cut else value

    write_dense(smaller, tensor, model.folder, folder)
    _write_configs(smaller, tokens, new, folder)
    return LanguageModel(folder)


def _write_configs(smaller: Skeleton, tokens: Tokens, new: Mapping[int, int], folder: Path) -> None:
    _write(folder / CONFIGS[0], dict(smaller.values))
    if (folder / CONFIGS[1]).is_file():
        _write(folder / CONFIGS[1], renumbered(json.loads((folder / CONFIGS[1]).read_text()), new))
    _write(folder / TOKENIZER, cut_tokenizer(tokens.values, new))
    for name in OTHERS:
        (folder / name).unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    values = json.loads(config.read_text()) if config.is_file() else {}
    if isinstance(described := values.get("added_tokens_decoder"), dict):
        entries = {str(new[int(old)]): entry for old, entry in described.items() if int(old) in new}
        _write(config, values | {"added_tokens_decoder": entries})


def _write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _of_chats(folder: Path) -> frozenset[int]:
    """What the words of the chat template take, and the names of who speaks."""
    tokenizer = read_tokenizer(folder)
    template = tokenizer.chat_template
    texts = list(template.values()) if isinstance(template, dict) else [template or ""]
    used = tokenizer([*texts, ROLES], add_special_tokens=False)["input_ids"] if template else []
    return frozenset(number for text in used for number in text)
