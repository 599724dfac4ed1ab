"""The tokenizer that lies in a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from squeeze.errors import DataError, first_line
from squeeze.formats.regular import require_regular_folder
from squeeze.sums import file_sum

TOKENIZER = "tokenizer.json"
FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_IN_USE: WeakValueDictionary[str, Any] = WeakValueDictionary()  # by folder and files: each takes tens of megabytes


def read_tokenizer(model: Path) -> Any:
    """The tokenizer in a model's folder, one for all who use it at a time; code from the folder is never run.

    Raises:
        DataError: there is none.
    """
    require_regular_folder(model, DataError)
    known = json.dumps([str(model.resolve()), tokenizer_digest(model)])
    tokenizer = _IN_USE.get(known)
    if tokenizer is None:
        tokenizer = _IN_USE[known] = _read(model)
    return tokenizer


def _read(model: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        tokenizer("a")  # the config is first read at a call
        return tokenizer
    except Exception as error:  # the tokenizers' own library raises nothing narrower
        raise DataError(f"{model}: no tokenizer can be read here ({first_line(error)})") from None


def tokenizer_digest(model: Path) -> dict[str, str]:
    """sha256 of each file in a model's folder that says how text is cut."""
    return {name: file_sum(model / name) for name in FILES if (model / name).is_file()}
