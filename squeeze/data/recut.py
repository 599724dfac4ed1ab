"""Token sequences of the original's tokenizer for a model whose tokenizer knows fewer tokens: the same text, cut anew.

A character that the end of a sequence splits counts as the replacement character, before and after.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from squeeze.data.choices import CutEnding
from squeeze.data.cut import decoder
from squeeze.data.token_dataset import TokenDataset
from squeeze.data.windows import WindowDataset, Windows
from squeeze.errors import DataError
from squeeze.models.language.decoder import Decoder
from squeeze.models.tokenizer import read_tokenizer

Row = np.ndarray


def recut(data: TokenDataset, original: Decoder, model: Decoder) -> TokenDataset:
    """Sequences as long as before, each from the same place of the text: what a pass looks at.

    Args:
        original: Whose tokens the data has.
        model: Whose tokens the result has.

    Raises:
        DataError: no sequence is long enough in the new tokens.
    """
    old, new = read_tokenizer(original.folder), read_tokenizer(model.folder)
    length = data.tokens.shape[1]
    cut = [_encoded(new, text) for text in _texts(old, data.tokens)]
    long_enough = np.array([len(tokens) >= length for tokens in cut])
    if not long_enough.any():
        raise DataError(f"{data.name}: no sequence has {length} tokens of the smaller vocabulary")
    tokens = np.stack([np.array(row[:length], np.int64) for row in cut if len(row) >= length])
    documents = None if data.documents is None else data.documents[long_enough]
    result = TokenDataset(data.name, tokens, documents, decoder(new), None, data.file)
    result.selection = data.selection
    return result


def same_text(data: TokenDataset, original: Decoder, model: Decoder) -> WindowDataset:
    """The same text sequence by sequence, in the model's tokens: what is scored is what was scored before.

    Each sequence's first token is context alone; all others are scored, and divided by the same bytes.

    Raises:
        DataError: the model cannot read so many tokens.
    """
    old, new = read_tokenizer(original.folder), read_tokenizer(model.folder)
    whole, before = _texts(old, data.tokens), _texts(old, data.tokens[:, :1])
    documents = np.arange(len(data)) if data.documents is None else data.documents
    windows = []
    for number, (text, context) in enumerate(zip(whole, before, strict=True)):
        ending = _behind(new, context, text)
        if model.context is not None and len(ending.tokens) > model.context:
            raise DataError(f"{data.name}: {len(ending.tokens)} tokens are more than the {model.context} that are read")
        size = None if data.size_bytes is None else int(data.size_bytes[number])
        windows.append(Windows((ending,), int(documents[number]), None, size))
    return WindowDataset(data.name, windows, decoder(new))


def _texts(tokenizer: Any, tokens: np.ndarray) -> list[str]:
    """What tokens stand for, special ones by their names."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return list(tokenizer.batch_decode(tokens, **options))


def _encoded(tokenizer: Any, text: str) -> list[int]:
    numbers: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return numbers


def _behind(tokenizer: Any, context: str, text: str) -> CutEnding:
    """The text in tokens, of which those of ``context`` are not scored."""
    whole, before = _encoded(tokenizer, text), _encoded(tokenizer, context)
    if whole[: len(before)] != before or len(whole) == len(before):
        whole = before + _encoded(tokenizer, text.removeprefix(context))
    return CutEnding(np.array(whole, np.int64), len(before), 1)
