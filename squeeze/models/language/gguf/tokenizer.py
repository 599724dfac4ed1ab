"""``tokenizer.json`` in llama.cpp's terms: byte-level BPE (its ``gpt2``) or SentencePiece's BPE (its ``llama``).

Byte-level BPE splits a text by a pattern before merging; llama.cpp knows such patterns by name, so one that is not in
the list below is refused. SentencePiece's BPE merges by score, where ``tokenizer.json`` keeps merges by rank; a token's
score is the rank of the first merge that makes it, less than zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError
from squeeze.models.language.from_gguf.patterns import PATTERNS
from squeeze.models.language.from_gguf.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

FILE = "tokenizer.json"


def add_tokenizer(writer: Any, folder: Path, vocabulary: int) -> None:
    """Write the tokenizer of a folder into a GGUFWriter.

    Args:
        vocabulary: Rows of the embedding; tokens that the tokenizer does not know are filled up.

    Raises:
        ModelError: no tokenizer.json, or one that llama.cpp has no counterpart of.
    """
    values = _read(folder)
    model = values["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"{folder / FILE}: a {model.get('type')} tokenizer; llama.cpp is given BPE ones only")
    tokens, kinds = _tokens(values, vocabulary, folder)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, model["merges"]))
        writer.add_add_space_prefix(_puts_space_first(values))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pattern_name(values, folder))
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_special(writer, folder, values)


def _read(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        assert isinstance(values["model"], dict)
    except (OSError, ValueError, KeyError, AssertionError, TypeError) as error:
        raise ModelError(f"{folder / FILE}: no tokenizer can be read here ({type(error).__name__}: {error})") from None
    return values


def _tokens(values: Mapping[str, Any], vocabulary: int, folder: Path) -> tuple[list[str], list[int]]:
    """Every token's text and kind, by id."""
    added = {token["id"]: token for token in values.get("added_tokens") or []}
    text_of = {place: text for text, place in values["model"]["vocab"].items()}
    text_of |= {place: token["content"] for place, token in added.items()}
    if text_of and max(text_of) >= vocabulary:
        raise ModelError(f"{folder / FILE}: token {max(text_of)} is none of the {vocabulary} that the model knows")
    fallback = bool(values["model"].get("byte_fallback"))
    unknown = values["model"].get("unk_token")
    tokens, kinds = [], []
    for place in range(vocabulary):
        text = text_of.get(place)
        tokens.append(f"[PAD{place}]" if text is None else text)
        if text is None:
            kinds.append(UNUSED)
        elif fallback and text == unknown:
            kinds.append(UNKNOWN)
        elif place in added:
            kinds.append(CONTROL if added[place]["special"] else USER_DEFINED)
        else:
            kinds.append(BYTE if fallback and _is_byte(text) else NORMAL)
    return tokens, kinds


def _scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """Higher is merged first: less than zero by the rank of the first merge that makes a token."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        rank.setdefault("".join(parts), number)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _pattern_name(values: Mapping[str, Any], folder: Path) -> str:
    """llama.cpp's name for how a text is split before merging."""
    before = values.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    kinds = [step.get("type") for step in steps]
    if values.get("normalizer") and values["normalizer"].get("type") != "NFC":
        raise ModelError(f"{folder / FILE}: its normalizer {values['normalizer'].get('type')} has none in llama.cpp")
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "command-r"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = steps[0].get("pattern", {}).get("Regex", "")
        if pattern in PATTERNS:
            return PATTERNS[pattern]
        raise ModelError(f"{folder / FILE}: llama.cpp has no name for its pattern {pattern[:60]!r}...")
    raise ModelError(f"{folder / FILE}: llama.cpp has no name for its pre-tokenizer {' + '.join(map(str, kinds))}")


def _puts_space_first(values: Mapping[str, Any]) -> bool:
    before = values.get("pre_tokenizer") or {}
    if before.get("type") == "Metaspace":
        return str(before.get("prepend_scheme", "always")) != "never"
    normalizer = values.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("type") == "Prepend" for step in steps)


def _add_special(writer: Any, folder: Path, values: Mapping[str, Any]) -> None:
    """Tokens that begin and end a text, and the template of a chat."""
    config = _json(folder / "tokenizer_config.json")
    generation = _json(folder / "config.json") | _json(folder / "generation_config.json")
    ids = {token["content"]: token["id"] for token in values.get("added_tokens") or []}
    places: dict[str, int] = {}
    for name in ("bos", "eos", "pad"):
        text = config.get(f"{name}_token")
        place = ids.get(text.get("content") if isinstance(text, dict) else text, generation.get(f"{name}_token_id"))
        place = place[0] if isinstance(place, list) else place
        if isinstance(place, int):
            places[name] = place
            getattr(writer, f"add_{name}_token_id")(place)
    first, last = _template(values)
    writer.add_add_bos_token(places.get("bos") is not None and first == places["bos"])
    writer.add_add_eos_token(places.get("eos") is not None and last == places["eos"])
    template = folder / "chat_template.jinja"
    chat = template.read_text() if template.is_file() else config.get("chat_template")
    if isinstance(chat, str):
        writer.add_chat_template(chat)


def _template(values: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The special tokens that the tokenizer itself puts before and behind a text."""
    processor = values.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    for step in steps:
        if step.get("type") == "TemplateProcessing" and (single := step.get("single")):
            special = step.get("special_tokens", {})
            ends = [special.get(part.get("SpecialToken", {}).get("id"), {}).get("ids", [None]) for part in single]
            return ends[0][0], ends[-1][0]
    return None, None


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")
