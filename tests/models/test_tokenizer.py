"""A folder's tokenizer is read once for all who use it at a time."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizer_world import TOKENIZERS

from squeeze.models.tokenizer import read_tokenizer


def test_those_who_use_it_at_a_time_share_one(tmp_path: Path) -> None:
    TOKENIZERS["gpt-2"]().save(str(tmp_path / "tokenizer.json"))
    first = read_tokenizer(tmp_path)
    assert read_tokenizer(tmp_path) is first


def test_a_folder_whose_files_changed_is_read_anew(tmp_path: Path) -> None:
    TOKENIZERS["gpt-2"]().save(str(tmp_path / "tokenizer.json"))
    first = read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    second = read_tokenizer(tmp_path)
    assert second is not first
    assert second.model_max_length == 77
