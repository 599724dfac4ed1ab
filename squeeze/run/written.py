"""Text that the original writes: batch after batch, each from a seed of its own, until there is enough of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from squeeze.data.cut import encoded
from squeeze.data.synthesize import SynthesizeData
from squeeze.errors import DataError
from squeeze.models.language.continued import TOGETHER, Sampling, continued, writer_of
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.tokenizer import read_tokenizer
from squeeze.progress import Progress
from squeeze.store import Journal

MOST_BATCHES = 20  # times as many as would be enough if no text ended early
END = -1  # behind the tokens of a shorter text, in the journal


def write_texts(
    file: Path, model: LanguageModel, source: SynthesizeData, root: Path, journal: Journal, progress: Progress
) -> None:
    """A ``.jsonl`` with as many texts as fill the sequences that the source asks for.

    Args:
        journal: Keeps finished batches: a killed run goes on behind the last of them.

    Raises:
        DataError: no prompt, or texts that end so early that they fill nothing.
    """
    tokenizer = read_tokenizer(model.folder)
    prompts = source.read_prompts(root, tokenizer)
    needed, filled = source.synthesize * source.length, 0
    batches = -(-needed // (TOGETHER * source.length))
    with file.open("w") as stream:
        for tokens in progress.track(_batches(model, source, prompts, tokenizer, journal), source.kind, batches):
            texts = [text for text in tokenizer.batch_decode(tokens, skip_special_tokens=True) if text.strip()]
            stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)
            cut = encoded(tokenizer, texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
            filled += sum(map(len, cut))
            if filled >= needed:
                return
    what = f"{filled} of {needed} tokens, so early does the model end its texts"
    raise DataError(f"synthesize: {MOST_BATCHES * batches * TOGETHER} texts fill {what}; prompts: or fewer would do")


def _batches(
    model: LanguageModel, source: SynthesizeData, prompts: list[list[int]], tokenizer: Any, journal: Journal
) -> Iterator[list[list[int]]]:
    """Tokens of texts, at most a limited number of batches."""
    most = min(source.length, model.context or source.length)
    ends = tuple(token for token in (tokenizer.eos_token_id, tokenizer.bos_token_id) if token is not None)
    sampling = Sampling(source.temperature, source.top_p, ends)
    turn, module = cycle(prompts), None
    for number in range(MOST_BATCHES * -(-source.synthesize // TOGETHER)):
        name, batch = f"written-{number:05d}", list(islice(turn, TOGETHER))
        piece = journal.get(name)
        if piece is None:
            module = module or writer_of(model)
            seed = int(np.random.SeedSequence((source.seed, number)).generate_state(1)[0])
            piece = {"tokens": _padded(continued(module, batch, most, sampling, seed))}
            journal.put(name, piece)
        yield [[token for token in row if token != END] for row in piece["tokens"].tolist()]


def _padded(texts: list[list[int]]) -> torch.Tensor:
    """int64 ``[n, longest]``."""
    rows = [torch.tensor(text, dtype=torch.int64) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=END)
