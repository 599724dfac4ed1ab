"""Chosen sequences in a folder, and back: whoever goes on from there need not read the text they are from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from squeeze.data.cut import decoder
from squeeze.data.token_dataset import TokenDataset
from squeeze.models.tokenizer import read_tokenizer

ARRAYS, RECORD = "sequences.npz", "selection.json"


def write_sequences(folder: Path, data: TokenDataset) -> None:
    """Tokens, documents, bytes of text, and how they were chosen."""
    assert data.documents is not None, "whatever is cut from a text knows its documents"
    arrays = {"tokens": data.tokens, "documents": data.documents}
    if data.size_bytes is not None:
        arrays["size_bytes"] = data.size_bytes
    np.savez_compressed(folder / ARRAYS, allow_pickle=False, **arrays)
    (folder / RECORD).write_text(json.dumps({"name": data.name, "selection": dict(data.selection)}))


def read_sequences(folder: Path, model: Path) -> TokenDataset:
    """What :func:`write_sequences` wrote; ``model`` is the folder of the tokenizer that cut them."""
    record = json.loads((folder / RECORD).read_text())
    with np.load(folder / ARRAYS) as arrays:
        sizes = arrays.get("size_bytes")
        data = TokenDataset(
            record["name"], arrays["tokens"], arrays["documents"], decoder(read_tokenizer(model)), sizes
        )
    data.selection = record["selection"]
    return data
