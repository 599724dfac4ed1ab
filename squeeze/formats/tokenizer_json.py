"""``tokenizer.json`` with some of its tokens: byte-level BPE, SentencePiece's BPE, and Unigram.

Values in, values out; files are the business of others. Merges stay whose parts and result stay; numbers of tokens are
those of the tokens that stay, in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from squeeze.algorithms.vocabulary import merged_parts
from squeeze.errors import ModelError

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
KINDS = ("BPE", "Unigram")
ROLES = ("_token_id", "_token_ids", "_token_index")  # ends of a config's keys
New = Mapping[int, int]  # old number of each token that stays: its new one


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.

    Args:
        texts: Of each token, by number; None: no token has it.
        parts: Of each, the numbers of those that it is merged of.
        required: Without which some text could not be encoded: special and added tokens, bytes, single letters.
    """

    texts: list[str | None]
    parts: list[tuple[int, ...]]
    required: frozenset[int]


def read_vocabulary(values: Mapping[str, Any], where: str) -> Vocabulary:
    """What a tokenizer.json knows; raises ``ModelError`` where it is none, or of another kind."""
    model = values.get("model")
    kind = model.get("type") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or kind not in KINDS or "vocab" not in model:
        raise ModelError(f"{where}: a tokenizer of type {kind}; those of type {' and '.join(KINDS)} can be cut")
    numbers = _numbers(model)
    added = {int(token["id"]): str(token["content"]) for token in values.get("added_tokens") or []}
    every = {number: text for text, number in numbers.items()} | added
    texts = [every.get(number) for number in range(max(every) + 1)]
    required = {*added, *_named(model, numbers), *_single(model, numbers)}
    return Vocabulary(texts, _parts(model, numbers, texts, added), frozenset(required))


def cut_tokenizer(values: Mapping[str, Any], new: New) -> dict[str, Any]:
    """The tokenizer of the tokens that stay."""
    model = dict(values["model"])
    if model["type"] == "BPE":
        model["vocab"] = {text: new[number] for text, number in model["vocab"].items() if number in new}
        model["merges"] = [merge for merge in model["merges"] if _stays(merge, model["vocab"])]
    else:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        model["unk_id"] = new[model["unk_id"]] if model.get("unk_id") is not None else None
    added = [token | {"id": new[token["id"]]} for token in values.get("added_tokens") or []]
    rest = {"added_tokens": added, "post_processor": _processor(values.get("post_processor"), new)}
    padding = values.get("padding")
    rest["padding"] = padding | {"pad_id": new[padding["pad_id"]]} if padding else None
    return {**values, "model": model, **rest}


def renumbered(values: Any, new: New) -> Any:
    """A config with the new numbers of its tokens: ``eos_token_id`` and its like, wherever they stand in it."""
    if isinstance(values, list):
        return [renumbered(value, new) for value in values]
    if not isinstance(values, dict):
        return values
    return {key: _number(value, new) if _is_number(key) else renumbered(value, new) for key, value in values.items()}


def named_tokens(values: Any) -> Iterator[int]:
    """The numbers that a config gives a role: begin, end, padding, an image's place."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _integers(value) if key.endswith(ROLES) else named_tokens(value)


def _integers(value: Any) -> Iterator[int]:
    yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _is_number(key: str) -> bool:
    return key.endswith((*ROLES, "suppress_tokens"))


def _number(value: Any, new: New) -> Any:
    """A token's new number; of a list, those that stay."""
    if isinstance(value, list):
        return [_number(one, new) for one in value if not isinstance(one, int) or one in new]
    return new.get(value) if isinstance(value, int) else value


def _numbers(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if model["type"] == "BPE":
        return dict(vocabulary)
    return {str(entry[0]): number for number, entry in enumerate(vocabulary)}


def _named(model: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[int]:
    """What stands for what is not known."""
    if model.get("unk_id") is not None:
        yield int(model["unk_id"])
    if model.get("unk_token") in numbers:
        yield numbers[model["unk_token"]]


def _single(model: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[int]:
    """Bytes, and letters: with bytes to fall back on, letters beyond ASCII may leave."""
    falls_back = bool(model.get("byte_fallback"))
    for text, number in numbers.items():
        if BYTE.fullmatch(text) or (len(text) == 1 and (not falls_back or text.isascii() or text == "\u2581")):
            yield number


def _parts(
    model: Mapping[str, Any], numbers: Mapping[str, int], texts: list[str | None], added: Mapping[int, str]
) -> list[tuple[int, ...]]:
    if model["type"] != "BPE":
        return [()] * len(texts)
    ranks: dict[tuple[str, str], int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault(_pair(merge), rank)
    parts: list[tuple[int, ...]] = []
    for number, text in enumerate(texts):
        own = merged_parts(text, ranks) if text is not None and number not in added and not BYTE.fullmatch(text) else []
        parts.append(tuple(numbers[part] for part in own) if len(own) == 2 else ())
    return parts


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _stays(merge: Any, vocabulary: Mapping[str, int]) -> bool:
    left, right = _pair(merge)
    return left in vocabulary and right in vocabulary and left + right in vocabulary


def _processor(processor: Any, new: New) -> Any:
    """What puts special tokens around a text, with their new numbers."""
    if not isinstance(processor, dict):
        return processor
    result = dict(processor)
    if "processors" in result:
        result["processors"] = [_processor(one, new) for one in result["processors"]]
    for name in ("sep", "cls"):
        if name in result:
            result[name] = [result[name][0], new[result[name][1]]]
    if "special_tokens" in result:
        specials = result["special_tokens"].items()
        result["special_tokens"] = {k: v | {"ids": [new[number] for number in v["ids"]]} for k, v in specials}
    return result
