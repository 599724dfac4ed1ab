"""What a runtime's config inside a package may say: a list of what is allowed, since runtimes do whatever theirs says.

ONNX Runtime GenAI loads a shared library that ``custom_ops_library`` names and writes a profile where
``enable_profiling`` says; transformers imports code that ``auto_map`` names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from squeeze.errors import VerifyError, printable

GENAI = "genai_config.json"
RUNS_CODE = ("auto_map", "custom_generate", "attn_implementation", "_attn_implementation")

Count = Annotated[int, Ge(1), Le(1 << 24)]
Token = Annotated[int, Ge(0), Le(1 << 24)]
Name = Annotated[str, Len(1, 200)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SessionOptions(_Closed):
    """Of ONNX Runtime, as our exports say them: nothing that loads or writes a file."""

    log_id: Name = "onnxruntime-genai"
    provider_options: Annotated[list[Any], Len(0, 0)] = []
    intra_op_num_threads: Annotated[int, Ge(1), Le(1024)] | None = None


class GenaiDecoder(_Closed):
    """The graph, its shape and the names of its inputs and outputs."""

    session_options: SessionOptions
    filename: Name
    head_size: Count
    num_key_value_heads: Count
    num_attention_heads: Count
    hidden_size: Count
    num_hidden_layers: Count
    inputs: Annotated[dict[Name, Name], Len(1, 16)]
    outputs: Annotated[dict[Name, Name], Len(1, 16)]


class GenaiModel(_Closed):
    """The model section: decoder graph and token ids."""

    type: Literal["decoder"]
    vocab_size: Count
    context_length: Count
    decoder: GenaiDecoder
    bos_token_id: Token | None = None
    eos_token_id: Token | Annotated[list[Token], Len(1, 64)]
    pad_token_id: Token


class GenaiSearch(_Closed):
    """The search section: length and sampling."""

    do_sample: bool = False
    max_length: Count
    past_present_share_buffer: bool = True


class GenaiConfig(_Closed):
    """``genai_config.json``, whole."""

    model: GenaiModel
    search: GenaiSearch = Field(...)


def check_genai(values: Any, where: str) -> None:
    """Refuse a GenAI config that says more than our own exports do.

    Raises:
        VerifyError: the first field that is not allowed, or its value.
    """
    try:
        GenaiConfig.model_validate(values)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise VerifyError(f"{where}: is nested too deeply; refused") from None
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "content"
        if first["type"] == "extra_forbidden":
            raise VerifyError(f"{where}: {place}: is not among what a package may tell the runtime; refused") from None
        raise VerifyError(f"{where}: {place}: {first['msg']}; refused") from None


def check_json(values: Any, where: str) -> None:
    """Raise ``VerifyError`` where a config of transformers names code to run."""
    keys = [key for key in RUNS_CODE if isinstance(values, dict) and values.get(key) is not None]
    if keys:
        raise VerifyError(f"{where}: {keys[0]}: names code to run; a package holds data only, refused")


def genai_bytes(config: Any) -> bytes:
    """The one spelling of a GenAI config: what we have read is then what GenAI's own parser reads."""
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two equal keys, other parsers act on both."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return values


def check_config(file: Path, where: str) -> None:
    """Look at one JSON file of a package that a runtime may read.

    Raises:
        VerifyError: it is no JSON, or says what a package may not.
    """
    data = file.read_bytes()
    try:
        values = json.loads(data, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise VerifyError(f"{where}: is not JSON ({printable(str(error)[:100])}); make the package again") from None
    if file.name == GENAI:
        check_genai(values, where)
        if data != genai_bytes(values):
            raise VerifyError(
                f"{where}: is not written as our exports write it, so GenAI may read it otherwise; refused"
            )
    else:
        check_json(values, where)
