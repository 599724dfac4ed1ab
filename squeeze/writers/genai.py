"""A folder of ONNX Runtime GenAI: the decoder's own graph and weights, linked, and what GenAI asks to be told of them.

Any family goes this way, since nothing in the file depends on one: GenAI's kind ``decoder`` is the plain loop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError
from squeeze.runtimes.genai import CONFIG
from squeeze.runtimes.onnx_decoder import FILE_NAME, MASK, POSITIONS, TOKENS, OnnxDecoder
from squeeze.writers.base import Writer

KIND = "decoder"
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _config(decoder: OnnxDecoder) -> dict[str, Any]:
    session, values = decoder.session, _config_values(decoder.folder)
    if session.context is None:
        raise ModelError(f"{decoder.main}: says not how long texts may be, which GenAI must know; state context")
    caches = {session.past_shape(name, 1, 0) for name in session.past}
    if len(caches) > 1:
        raise ModelError(f"{decoder.main}: layers with caches of different sizes; GenAI knows one for all")
    (_, heads, _, channels) = caches.pop()
    names = {"input_ids": TOKENS, "attention_mask": MASK, "position_ids": POSITIONS}
    model: dict[str, Any] = {
        "type": KIND,
        "vocab_size": decoder.vocabulary,
        "context_length": session.context,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": FILE_NAME,
            "head_size": channels,
            "num_key_value_heads": heads,
            "num_attention_heads": values.get("num_attention_heads", heads),
            "hidden_size": values.get("hidden_size", heads * channels),
            "num_hidden_layers": len(session.past) // 2,
            "inputs": {name: own for name, own in names.items() if own in session.inputs}
            | {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    }
    model |= {name: token for name in ENDS if (token := _valid_token(values.get(name), decoder.vocabulary)) is not None}
    model.setdefault("eos_token_id", model.get("pad_token_id", 0))
    last = model["eos_token_id"]
    model.setdefault("pad_token_id", last[0] if isinstance(last, list) else last)
    search = {"do_sample": False, "max_length": session.context, "past_present_share_buffer": True}
    return {"model": model, "search": search}


def _valid_token(token: Any, vocabulary: int) -> Any:
    """A token id, or several, as far as the model can say them; GenAI refuses a config with others."""
    if isinstance(token, list):
        return [one for one in token if 0 <= one < vocabulary] or None
    return token if token is not None and 0 <= token < vocabulary else None


def _config_values(folder: Path) -> dict[str, Any]:
    """Values of the model's configs; generation_config.json overrides config.json."""
    merged: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        if file.is_file():
            values = json.loads(file.read_text())
            merged |= values.get("text_config") or {}
            merged |= {key: value for key, value in values.items() if value is not None}
    return merged


class GenaiWriter(Writer[OnnxDecoder]):
    """The decoder's own graph and weights, and what GenAI asks to be told of them."""

    name = "genai"
    timed_as = "onnx"
    extra = "genai"

    def write(self, model: OnnxDecoder, folder: Path) -> Path:
        """Weights are linked where the file system can, copied where it cannot.

        Raises:
            ModelError: layers with caches of different sizes, or a text without end.
        """
        config = json.dumps(_config(model), indent=2, sort_keys=True) + "\n"
        model.close()  # it was opened to be asked for its inputs, and holds all weights
        folder.mkdir(parents=True, exist_ok=True)
        model.write_file(folder)
        (folder / CONFIG).write_text(config)
        return folder / CONFIG
