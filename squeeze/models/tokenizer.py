"""The tokenizer that lies in a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze.errors import DataError, first_line
from squeeze.formats.regular import require_regular_folder
from squeeze.sums import file_sum

TOKENIZER = "tokenizer.json"
FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt")


def read_tokenizer(model: Path) -> Any:
    """The tokenizer in a model's folder; code from the folder is never run.

    Raises:
        DataError: there is none.
    """
    from transformers import AutoTokenizer

    require_regular_folder(model, DataError)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        tokenizer("a")  # the config is first read at a call
        return tokenizer
    except Exception as error:  # the tokenizers' own library raises nothing narrower
        raise DataError(f"{model}: no tokenizer can be read here ({first_line(error)})") from None


def tokenizer_digest(model: Path) -> dict[str, str]:
    """sha256 of each file in a model's folder that says how text is cut."""
    return {name: file_sum(model / name) for name in FILES if (model / name).is_file()}
