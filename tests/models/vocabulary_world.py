"""Models with real tokenizers of each kind, for cuts of their vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from language_world import write_folder
from tokenizer_world import TOKENIZERS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from squeeze.data.text import TextData
from squeeze.data.token_dataset import TokenDataset
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.prune.prune_vocabulary import PruneVocabulary

WORDS = "once upon a time there were cats"


CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def sentencepiece() -> Tokenizer:
    tokenizer: Tokenizer = TOKENIZERS["sentencepiece"]()
    spaces, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), strip])
    return tokenizer


def unigram() -> Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [
        "▁once",
        "▁upon",
        "▁a",
        "▁time",
        "▁there",
        "▁cat",
        "s",
        "▁",
        "on",
        "ce",
        "happy",
        *"abcdefghijklmnopqrtuvwxyz",
    ]
    scored = [(piece, 0.0) for piece in pieces] + [(word, -1.0 - number / 8) for number, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    spaces = decoders.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), spaces])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE": TOKENIZERS["gpt-2"],
    "SentencePiece's BPE": sentencepiece,
    "Unigram": unigram,
}


def write_world(folder: Path, tokenizer: Tokenizer, **changes: Any) -> LanguageModel:
    """A tiny Llama with that tokenizer, and a few rows that no token has."""
    from transformers import PreTrainedTokenizerFast

    size = tokenizer.get_vocab_size()
    ids = {"bos_token_id": size - 1, "eos_token_id": [2, size - 1], "pad_token_id": size - 1}
    write_folder(folder, vocab_size=size + 4, **{"tie_word_embeddings": True} | ids | changes)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    return LanguageModel(folder)


def tokens_of(folder: Path, text: str, length: int = 8) -> TokenDataset:
    (folder / "words.txt").write_text(text)
    return TextData(text="words.txt", length=length).open(folder, folder)


def cut(model: LanguageModel, text: str = f"{WORDS} " * 8, **options: Any) -> tuple[LanguageModel, Context]:
    lent = Context(calibration_data=tokens_of(model.folder, text))
    return PruneVocabulary(**options).run(model, lent), lent
