"""A tokenizer of every kind that llama.cpp knows, with a few hundred tokens, and a text that tells them apart."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from squeeze.models.language.from_gguf.patterns import PATTERNS

TEXT = "Once upon a time, there were 1234 cats!\n\n  They weren't happy: it's 10.5..\tÜber café, naïve. 你好 \U0001f600"


def byte_level(before: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A byte-level BPE tokenizer with a few hundred merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """A BPE tokenizer as converted from SentencePiece: spaces are letters, unknown characters are bytes."""
    letters = Tokenizer(models.BPE(unk_token="<unk>"))
    letters.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=130, special_tokens=["<unk>", "<s>", "</s>"])
    letters.train_from_iterator(["Once upon a time, there were cats! They were happy."] * 3, trainer)
    values = json.loads(letters.to_str())
    known = values["model"]["vocab"]
    for byte in range(256):
        known[f"<0x{byte:02X}>"] = len(known)
    values["model"] |= {"byte_fallback": True, "fuse_unk": True}
    tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(values))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    from tokenizers import Regex

    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), levels])


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
TOKENIZERS = {
    "gpt-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "command-r": lambda: byte_level(DIGITS),
    "sentencepiece": sentencepiece,
} | {name: lambda pattern=pattern: byte_level(split(pattern)) for pattern, name in PATTERNS.items()}
