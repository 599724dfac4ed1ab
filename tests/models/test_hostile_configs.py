"""A model's config is somebody else's text: nothing in it can hang, fill memory or end in a traceback."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from language_world import SIZES, write_folder

from squeeze.errors import ModelError
from squeeze.formats.patterns import pattern
from squeeze.models.config_sizes import require_sizes
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import is_language_folder
from squeeze.models.source import HuggingFaceSource

SECONDS = 20  # a guard against hanging, on a busy machine


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A tiny Llama, and a stopwatch around what is done to it."""
    model = write_folder(tmp_path / "model")
    began = time.perf_counter()
    yield model
    assert time.perf_counter() - began < SECONDS


def rewrite(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000; the checkpoint holds 21 tensors"),
        ({"num_hidden_layers": 300}, "num_hidden_layers is 300; the checkpoint holds 21 tensors"),
        (
            {"max_position_embeddings": 17_000_000_000},
            "max_position_embeddings is 1.7e\\+10; 100,000,000 is the largest",
        ),
        ({"hidden_size": -(10**12)}, "hidden_size is -1e\\+12"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"vocab_size": 10**30}, "a whole number of 31 digits"),
        ({"nested": {"num_experts": 10**7}}, "nested.num_experts is 10000000; the checkpoint holds"),
        ({"eos_token_id": list(range(200_000))}, "eos_token_id has 200,000 entries"),
        ({"num_attention_heads": 0}, "model_type 'llama' cannot be built"),
        ({"model_type": ["llama"]}, "names no model_type"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_size_that_no_model_has_is_one_line_before_anything_is_built(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        LanguageModel(rewrite(folder, **changes))


def test_many_layers_are_no_fault_where_the_checkpoint_holds_them() -> None:
    require_sizes({"num_hidden_layers": 300, "max_position_embeddings": 10_485_760}, "config.json", tensors=2_703)


@pytest.mark.parametrize(
    "text",
    ['{"architectures": 3}', '{"architectures": {"a": 1}}', "[" * 100_000, "[]", "9" * 5000, '"\\ud800"', "\x00", ""],
    ids=lambda value: value[:20],
)
def test_a_config_that_is_none_is_one_line_whoever_reads_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert not is_language_folder(tmp_path)
    with pytest.raises(ModelError, match="config"):
        LanguageModel(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "model.safetensors.index.json"])
def test_a_pipe_among_a_models_files_is_refused_and_nobody_waits_for_it(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match="is a pipe, a socket or a device"):
        LanguageModel(folder)


def test_an_image_classifier_of_a_million_layers_is_refused_before_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "depths": [1000000, 4, 6, 3]}')
    with pytest.raises(ModelError, match=r"depths.0 is 1000000; 10,000 are the most"):
        HuggingFaceSource.read(tmp_path)


@pytest.mark.parametrize("weight_map", ["[]", '{"a": 3}', '{"a": "' + "x" * 300 + '.safetensors"}', '{"a": "../x"}'])
def test_a_shard_index_that_names_no_files_is_one_line(folder: Path, weight_map: str) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ' + weight_map + "}")
    with pytest.raises(ModelError, match="index"):
        LanguageModel(folder)


def test_a_pattern_that_would_keep_python_busy_for_years_matches_at_once() -> None:
    began = time.perf_counter()
    assert not pattern(r"(a+)+$").match("a" * 200 + "b")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(", r"missing \)"),
        (r"(?!x)a", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("(?:a{1000}){1000}", "invalid repetition size"),
        ("a" * 1001, "1,001 letters; 1,000 are the most"),
        ("\ud800", "letters that are none"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_a_pattern_that_needs_backtracking_or_memory_is_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pattern(text)


assert SIZES["num_hidden_layers"] == 2, "the counts of tensors above are of two layers"


def test_a_class_may_be_called_as_a_size_is() -> None:
    """ImageNet has a stage and a block plane among its classes."""
    require_sizes({"num_labels": 1000, "label2id": {"stage": 819, "blocks": 900}}, "config.json", 4)
