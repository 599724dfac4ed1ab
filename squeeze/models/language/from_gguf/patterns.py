"""How byte-level BPE splits a text before merging, by the names that llama.cpp has for it.

https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp lists the names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze.errors import ModelError, did_you_mean

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
)
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
TEKKEN = CASED + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {LLAMA3: "llama-bpe", QWEN2: "qwen2", TEKKEN: "tekken"}  # llama.cpp's name by a tokenizer.json's pattern

SPLIT = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "dbrx", "smaug-bpe"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), QWEN2),
    "tekken": TEKKEN,
}
GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de"})
DIGITS_APART = frozenset({"smollm", "command-r", "starcoder", "refact", "codeshell", "exaone"})
COMPOSED = frozenset({"qwen2", "deepseek-r1-qwen"})  # tokenizers that compose letters and accents first
WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken"})  # known words: unmerged
BEGINS_TEXT = WHOLE_WORDS  # with a token of its own, unless the file says otherwise

Values = dict[str, Any]
LEVELS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def before_merging(name: str, path: Path) -> Values:
    """The pre-tokenizer of a ``tokenizer.json``.

    Raises:
        ModelError: a name that is not known.
    """
    if name in GPT2:
        return LEVELS | {"use_regex": True}
    if name in DIGITS_APART:
        steps = [{"type": "Digits", "individual_digits": True}, LEVELS | {"use_regex": True}]
        return {"type": "Sequence", "pretokenizers": steps}
    if name not in SPLIT:
        known = sorted({*GPT2, *DIGITS_APART, *SPLIT})
        near = did_you_mean(name, known)
        raise ModelError(f"{path}: tokenizer.ggml.pre '{name[:40]}' is not known{near}; {', '.join(known)} are")
    split = {"type": "Split", "pattern": {"Regex": SPLIT[name]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, LEVELS | {"use_regex": False}]}


def normalizer(name: str) -> Values | None:
    """What is done to a text before all else."""
    return {"type": "NFC"} if name in COMPOSED else None
