"""A language model's predictions of a text, drawn once and kept in the store for every student that learns from it.

On disk: ``lengths.npy`` ``[positions]`` and ``entries.npy`` ``[entries, 3]``, as ``algorithms.sampled_teacher`` packs
them; the last token of a sequence predicts nothing that the text knows. The teacher is walked block by block.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from squeeze.algorithms.sampled_teacher import ENTRY_BYTES, draw, pack, unpack
from squeeze.data.base import Dataset, Subset
from squeeze.errors import DataError
from squeeze.models.base import Batch, Model
from squeeze.models.language.decoder import Decoder, decoder_of
from squeeze.progress import Progress
from squeeze.store import Journal

TOKENS, SHARES = "teacher_tokens", "teacher_shares"  # extra inputs of a batch
PIECE_TOKENS = 1 << 16  # sequences per piece; a killed run resumes after the last whole piece
LOGITS_VALUES = 1 << 24  # logits in memory at once, or those of one sequence: 64 MB


def most_bytes(unique: int) -> int:
    """Of one token on disk, as expected at most."""
    return ENTRY_BYTES * unique + 1


def write_cache(
    folder: Path, teacher: Model, data: Dataset, unique: int, seed: int, journal: Journal | None, progress: Progress
) -> None:
    """Draw all predictions, piece by piece.

    Args:
        unique: Different tokens a position, about.
        journal: Where finished pieces are kept until all are.
    """
    decoder, length = decoder_of(teacher), data.longest()
    assert length is not None, "only texts are learnt from so"
    size = max(1, PIECE_TOKENS // length)
    starts = range(0, len(data), size)
    pieces: list[dict[str, torch.Tensor]] = []
    for number, start in enumerate(progress.track(starts, "distill: the teacher's predictions, once", len(starts))):
        name = f"teacher-{number:05d}"
        piece = journal.get(name) if journal else None
        if piece is None:
            piece = _piece(decoder, data.batch(np.arange(start, min(start + size, len(data)))), unique, (seed, number))
            if journal:
                journal.put(name, piece)
        pieces.append(piece)
    for name in ("lengths", "entries"):
        np.save(folder / f"{name}.npy", np.concatenate([piece[name].numpy() for piece in pieces]))
    (folder / "teacher.json").write_text(json.dumps({"vocabulary": decoder.vocabulary, "length": length}))
    for number in range(len(starts) if journal else 0):
        assert journal is not None
        journal.drop(f"teacher-{number:05d}")


def _piece(decoder: Decoder, batch: Batch, unique: int, seed: tuple[int, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    packed, tokens = [], batch.inputs["input_ids"]
    with torch.inference_mode():
        for _, logits in decoder.logits(tokens, max(1, LOGITS_VALUES // (tokens.shape[1] * decoder.vocabulary))):
            draws = draw(logits[:, :-1].flatten(0, 1), unique, generator)
            packed.append(pack(*draws, decoder.vocabulary))
    lengths, entries = (np.concatenate(parts) for parts in zip(*packed, strict=True))
    return {"lengths": torch.from_numpy(lengths), "entries": torch.from_numpy(entries)}


class CachedTeacher:
    """What :func:`write_cache` wrote; entries are read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "teacher.json").read_text())
        self.vocabulary, self.positions = int(facts["vocabulary"]), int(facts["length"]) - 1
        lengths = np.load(folder / "lengths.npy")
        self.lengths = lengths.reshape(-1, self.positions)
        self.first = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.entries = np.load(folder / "entries.npy", mmap_mode="r")

    @property
    def token_bytes(self) -> float:
        """Of one position on disk."""
        return float((self.entries.nbytes + self.lengths.nbytes) / self.lengths.size)

    def of(self, sequences: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 and their shares float32, ``[n, length - 1, most]``, of the sequences with these numbers."""
        parts = [self._sequence(int(sequence)) for sequence in sequences]
        most = max(tokens.shape[1] for tokens, _ in parts)
        padded = [[np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in pair] for pair in parts]
        tokens, shares = (torch.from_numpy(np.stack([pair[i] for pair in padded])) for i in (0, 1))
        return tokens, shares

    def _sequence(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        lengths, start = self.lengths[number], number * self.positions
        packed = np.asarray(self.entries[self.first[start] : self.first[start + self.positions]])
        tokens, counts = unpack(packed, self.vocabulary)
        place = np.arange(lengths.max()) < lengths[:, None]
        spread = [np.zeros(place.shape, dtype) for dtype in (np.int64, np.float32)]
        spread[0][place], spread[1][place] = tokens, counts
        return spread[0], spread[1] / spread[1].sum(1, keepdims=True)


class Taught(Subset):
    """A text whose batches carry what a teacher predicts of it."""

    def __init__(self, data: Dataset, teacher: CachedTeacher) -> None:
        if teacher.lengths.shape[0] != len(data):
            raise DataError(f"{data.name}: {len(data)} sequences, and the teacher's predictions are of others")
        super().__init__(data, np.arange(len(data)))
        self.teacher = teacher

    def batch(self, indices: np.ndarray) -> Batch:
        inner = self.parent.batch(indices)
        tokens, shares = self.teacher.of(indices)
        return Batch({**inner.inputs, TOKENS: tokens, SHARES: shares}, inner.labels)
