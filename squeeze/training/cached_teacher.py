"""A language model's predictions of a text, drawn once and kept in the store for every student that learns from it.

On disk: ``counts.npy`` ``[positions, 2]`` and ``values.npy``, as ``algorithms.sampled_teacher`` gives them, and its
tokens as gaps in ``tokens.npy``, of each sequence as many bytes as ``sizes.npy`` says. The last token of a sequence
predicts nothing that the text knows. The teacher is walked block by block.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from squeeze.algorithms.gaps import most_packed_bytes, pack_ascending, unpack_ascending
from squeeze.algorithms.sampled_teacher import draw, shares
from squeeze.data.base import Dataset, Subset
from squeeze.errors import DataError
from squeeze.models.base import Batch, Model
from squeeze.models.language.decoder import Decoder, decoder_of
from squeeze.progress import Progress
from squeeze.store import Journal

TOKENS, SHARES = "teacher_tokens", "teacher_shares"  # extra inputs of a batch
PIECE_TOKENS = 1 << 16  # sequences per piece; a killed run resumes after the last whole piece
LOGITS_VALUES = 1 << 24  # logits in memory at once, or those of one sequence: 64 MB
FILES = {"counts": np.uint16, "tokens": np.uint8, "values": np.uint16, "sizes": np.int64}
KEPT = 1 / 4  # of all entries have a probability beside them; of prose6M's 12 % to 31 %


def expected_bytes(unique: int, vocabulary: int) -> int:
    """Of one token on disk, about: counts, tokens as one list of gaps, and probabilities."""
    unique = min(unique, vocabulary)
    return round(4 + most_packed_bytes(unique, vocabulary) + 2 * KEPT * unique)


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
    for name, dtype in FILES.items():
        np.save(folder / f"{name}.npy", np.concatenate([piece[name].numpy() for piece in pieces]).astype(dtype))
    (folder / "teacher.json").write_text(json.dumps({"vocabulary": decoder.vocabulary, "length": length}))
    for number in range(len(starts) if journal else 0):
        assert journal is not None
        journal.drop(f"teacher-{number:05d}")


def _piece(decoder: Decoder, batch: Batch, unique: int, seed: tuple[int, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in FILES}
    tokens = batch.inputs["input_ids"]
    with torch.inference_mode():
        for _, logits in decoder.logits(tokens, max(1, LOGITS_VALUES // (tokens.shape[1] * decoder.vocabulary))):
            counts, drawn, values = draw(logits[:, :-1].flatten(0, 1), unique, generator)
            lengths = counts.reshape(len(logits), -1)
            ends = np.cumsum(lengths.sum(1))[:-1]
            packed = [pack_ascending(*lists) for lists in zip(np.split(drawn, ends), lengths, strict=True)]
            sizes = np.array([len(sequence) for sequence in packed])
            for name, array in zip(FILES, (counts, np.concatenate(packed), values, sizes), strict=True):
                parts[name].append(array.astype(FILES[name]))
    return {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in parts.items()}


class CachedTeacher:
    """What :func:`write_cache` wrote; entries are read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "teacher.json").read_text())
        self.vocabulary, positions = int(facts["vocabulary"]), int(facts["length"]) - 1
        counts, sizes = (np.load(folder / f"{name}.npy") for name in ("counts", "sizes"))
        self.tokens, self.values = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "values"))
        self.counts = counts.reshape(-1, positions, 2)
        kept = self.counts[:, :, 0].sum(1, dtype=np.int64)
        self.ends = {"tokens": np.append(0, np.cumsum(sizes)), "values": np.append(0, np.cumsum(kept))}
        nbytes = counts.nbytes + sizes.nbytes + self.tokens.nbytes + self.values.nbytes
        self.token_bytes = nbytes / (len(counts) or 1)
        """Of one position on disk."""

    def of(self, sequences: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 and their shares float32, ``[n, length - 1, most]``, of the sequences with these numbers."""
        parts = [self._sequence(int(sequence)) for sequence in sequences]
        most = max(tokens.shape[1] for tokens, _ in parts)
        padded = [[np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in pair] for pair in parts]
        tokens, target = (torch.from_numpy(np.stack([pair[i] for pair in padded])) for i in (0, 1))
        return tokens, target

    def _sequence(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        counts = self.counts[number].astype(np.int64)
        packed, values = (
            np.asarray(array[self.ends[name][number] : self.ends[name][number + 1]])
            for name, array in (("tokens", self.tokens), ("values", self.values))
        )
        place, target = shares(counts, values)
        tokens = np.zeros(place.shape, np.int64)
        tokens[place] = unpack_ascending(packed, counts.flatten())
        return tokens, target


class Taught(Subset):
    """A text whose batches carry what a teacher predicts of it."""

    def __init__(self, data: Dataset, teacher: CachedTeacher) -> None:
        if len(teacher.counts) != len(data):
            raise DataError(f"{data.name}: {len(data)} sequences, and the teacher's predictions are of others")
        super().__init__(data, np.arange(len(data)))
        self.teacher = teacher

    def batch(self, indices: np.ndarray) -> Batch:
        inner = self.parent.batch(indices)
        tokens, shares = self.teacher.of(indices)
        return Batch({**inner.inputs, TOKENS: tokens, SHARES: shares}, inner.labels)
