"""Sentences as a model takes them: token numbers and their mask, by the tokenizer that lies beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze.targets.scripts.shared import Fault, Json


def read_sentences(path: Path, folder: Path, steps: Json) -> Json:
    """``input_ids`` and ``attention_mask``, int64 ``[lines, length]``, of a text with a sentence in each line."""
    import numpy as np

    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise Fault(f"{path}: sentences need tokenizers; 'pip install tokenizers' would give it") from error
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise Fault(f"{path}: cannot be read ({error}); a text with a sentence in each line would do") from error
    if not lines:
        raise Fault(f"{path}: holds no sentence; one in each line would do")
    tokenizer: Any = Tokenizer.from_file(str(folder / steps["tokenizer"]))
    tokenizer.enable_truncation(steps["length"])
    tokenizer.no_padding()
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(lines)]
    ids = np.full((len(tokens), max(map(len, tokens))), steps["fill"], np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(tokens):
        ids[row, : len(sentence)], mask[row, : len(sentence)] = sentence, 1
    return {"input_ids": ids, "attention_mask": mask}
