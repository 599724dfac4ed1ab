"""``tokenizer.json`` from a file's metadata: byte-level BPE (llama.cpp's ``gpt2``) or SentencePiece's (its ``llama``).

Byte-level BPE splits a text by a pattern that the file only names; the names are llama.cpp's, the patterns those of
the tokenizers that they stand for. SentencePiece's BPE merges by score, ``tokenizer.json`` by rank: every way to make a
token of two others is a merge, ranked by the token's score.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from squeeze.errors import ModelError
from squeeze.models.language.from_gguf.metadata import Metadata
from squeeze.models.language.from_gguf.patterns import BEGINS_TEXT, WHOLE_WORDS, before_merging, normalizer

Values = dict[str, Any]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's kinds of tokens
SPACE = "▁"
LONGEST_PIECE = 512  # characters of a token of SentencePiece; all its halves are tried
SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}


def tokenizer_files(metadata: Metadata) -> dict[str, Values]:
    """``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        ModelError: a kind of tokenizer, or a pattern, that is not known; tokens, kinds, merges and scores that do not
            fit each other.
    """
    tokens = metadata.array("tokenizer.ggml.tokens", str)
    kinds = metadata.array("tokenizer.ggml.token_type", int, [NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise ModelError(
            f"{metadata.path}: {len(tokens):,} tokens and {len(kinds):,} token types; one for each would do"
        )
    vocabulary = _vocabulary(metadata, tokens, kinds)
    model = metadata.text("tokenizer.ggml.model")
    if model == "gpt2":
        values = _byte_level(metadata, vocabulary)
    elif model == "llama":
        values = _sentencepiece(metadata, tokens, kinds, vocabulary)
    else:
        raise ModelError(f"{metadata.path}: a tokenizer '{model[:40]}' is not read from GGUF; gpt2 and llama are")
    added = [_added(place, tokens[place], kind) for place, kind in enumerate(kinds) if _is_added(kind)]
    values |= {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    values["post_processor"] = _ends(metadata, tokens)
    return {"tokenizer.json": values, "tokenizer_config.json": _settings(metadata, tokens)}


def _vocabulary(metadata: Metadata, tokens: list[str], kinds: list[int]) -> dict[str, int]:
    """Every token's place; rows that were only filled up have none."""
    vocabulary: dict[str, int] = {}
    for place, (text, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == UNUSED and text == f"[PAD{place}]":
            continue
        if text in vocabulary:
            raise ModelError(f"{metadata.path}: token {place} is {text!r:.40}, as token {vocabulary[text]} is")
        vocabulary[text] = place
    return vocabulary


def _byte_level(metadata: Metadata, vocabulary: dict[str, int]) -> Values:
    merges = [_halves(metadata, merge, vocabulary) for merge in metadata.array("tokenizer.ggml.merges", str)]
    pattern = metadata.text("tokenizer.ggml.pre", "default")
    model: Values = {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False, "fuse_unk": False}
    model |= {"ignore_merges": pattern in WHOLE_WORDS, "vocab": vocabulary, "merges": merges}
    return {
        "model": model,
        "normalizer": normalizer(pattern),
        "pre_tokenizer": before_merging(pattern, metadata.path),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def _halves(metadata: Metadata, merge: str, vocabulary: dict[str, int]) -> list[str]:
    left, _, right = merge.partition(" ")
    if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
        raise ModelError(f"{metadata.path}: the merge {merge!r:.60} names what is no token")
    return [left, right]


def _sentencepiece(metadata: Metadata, tokens: list[str], kinds: list[int], vocabulary: dict[str, int]) -> Values:
    scores = metadata.array("tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise ModelError(f"{metadata.path}: {len(tokens):,} tokens and {len(scores):,} scores; one for each would do")
    merges = sorted(_merges(metadata, kinds, scores, vocabulary), reverse=True)
    unknown = next((tokens[place] for place, kind in enumerate(kinds) if kind == UNKNOWN), None)
    model: Values = {"type": "BPE", "dropout": None, "unk_token": unknown, "byte_fallback": True, "fuse_unk": True}
    model |= {"ignore_merges": False, "vocab": vocabulary, "merges": [list(pair) for _, _, _, *pair in merges]}
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    first = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    back = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "model": model,
        "normalizer": {"type": "Sequence", "normalizers": [*first, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*back, {"type": "Fuse"}, *strip]},
    }


def _merges(
    metadata: Metadata, kinds: list[int], scores: list[float], vocabulary: dict[str, int]
) -> Iterator[tuple[float, int, int, str, str]]:
    """Every way to make a token of two others: the token's score, the lengths of the two, the two."""
    pieces = {text for text, place in vocabulary.items() if kinds[place] in (NORMAL, UNUSED)}
    for text in pieces:
        if len(text) > LONGEST_PIECE:
            raise ModelError(
                f"{metadata.path}: token {vocabulary[text]} has {len(text):,} letters; {LONGEST_PIECE} would do"
            )
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in pieces and right in pieces:
                yield scores[vocabulary[text]], len(left), len(right), left, right


def _is_added(kind: int) -> bool:
    return kind in (UNKNOWN, CONTROL, USER_DEFINED)


def _added(place: int, text: str, kind: int) -> Values:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": place, "content": text, **plain, "special": kind != USER_DEFINED}


def _ends(metadata: Metadata, tokens: list[str]) -> Values | None:
    """What the tokenizer puts before and behind a text."""
    begins = metadata.flag("tokenizer.ggml.add_bos_token", _begins_by_default(metadata))
    ends = metadata.flag("tokenizer.ggml.add_eos_token", False)
    chosen = {name: _special(metadata, name, tokens) for name, present in (("bos", begins), ("eos", ends)) if present}
    texts = {name: text for name, text in chosen.items() if text is not None}
    if not texts:
        return None
    text, first, last = {"Sequence": {"id": "A", "type_id": 0}}, _part(texts.get("bos")), _part(texts.get("eos"))
    known = {text: {"id": text, "ids": [tokens.index(text)], "tokens": [text]} for text in texts.values()}
    pair = [*first, text, *last, *first, {"Sequence": {"id": "B", "type_id": 1}}, *last]
    return {"type": "TemplateProcessing", "single": [*first, text, *last], "pair": pair, "special_tokens": known}


def _begins_by_default(metadata: Metadata) -> bool:
    model = metadata.text("tokenizer.ggml.model")
    return model == "llama" or metadata.text("tokenizer.ggml.pre", "default") in BEGINS_TEXT


def _part(text: str | None) -> list[Values]:
    return [] if text is None else [{"SpecialToken": {"id": text, "type_id": 0}}]


def _special(metadata: Metadata, name: str, tokens: list[str]) -> str | None:
    key = f"tokenizer.ggml.{SPECIAL[name]}_token_id"
    if metadata.get(key) is None:
        return None
    place = metadata.integer(key)
    if place >= len(tokens):
        raise ModelError(f"{metadata.path}: {key} {place} is none of the {len(tokens):,} tokens")
    return tokens[place]


def _settings(metadata: Metadata, tokens: list[str]) -> Values:
    special = {f"{name}_token": _special(metadata, name, tokens) for name in SPECIAL}
    values: Values = {name: text for name, text in special.items() if text is not None}
    values |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    values["model_max_length"] = metadata.integer("context_length")
    if metadata.get("tokenizer.chat_template") is not None:
        values["chat_template"] = metadata.text("tokenizer.chat_template")
    return values
