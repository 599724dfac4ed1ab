"""Examples by number: the same ones in the same order, known by their content, and seen in one role only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import images, write_npz

from squeeze.data.base import Dataset
from squeeze.data.overlap import refuse_overlap, shared_examples
from squeeze.data.sources import NpzData
from squeeze.errors import DataError


def data(folder: Path, seed: int = 0, **options: object) -> Dataset:
    write_npz(folder / f"{seed}.npz", seed=seed)
    return NpzData.model_validate({"npz": f"{seed}.npz"} | options).open(folder)


def test_batches_hold_every_example_once_in_order(tmp_path: Path) -> None:
    batches = list(data(tmp_path).batches(5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat([batch.image for batch in batches]), data(tmp_path).batch(np.arange(12)).image)


def test_the_seed_decides_the_order_of_a_shuffle(tmp_path: Path) -> None:
    source = data(tmp_path)
    one, again, other = (next(source.shuffled(12, seed)).image for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert sorted(one.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(other.sum((1, 2, 3)).tolist()))


def test_the_digest_knows_pixels_order_and_preprocessing(tmp_path: Path) -> None:
    digests = [
        data(tmp_path).digest,
        data(tmp_path, seed=1).digest,
        data(tmp_path, resize=4).digest,
        data(tmp_path, samples=6).digest,
        data(tmp_path).subset(np.arange(12)[::-1]).digest,
    ]
    assert len(set(digests)) == 5
    assert data(tmp_path).digest == digests[0]


def test_one_shared_picture_is_enough_to_refuse_a_score(tmp_path: Path) -> None:
    both = np.concatenate([images(3, 7), images(2, 8)])
    write_npz(tmp_path / "a.npz", 5, images=both)
    write_npz(tmp_path / "b.npz", 2, images=images(2, 8))
    evaluate, calibrate = (NpzData(npz=name).open(tmp_path) for name in ("a.npz", "b.npz"))
    assert shared_examples(calibrate, evaluate) == 2
    with pytest.raises(DataError, match=r"2 of 5 examples are also in data\.calibrate; .* split with skip / samples"):
        refuse_overlap(evaluate, {"calibrate": calibrate})
    refuse_overlap(evaluate.subset(np.arange(3)), {"calibrate": calibrate})


def test_overlap_is_found_through_different_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"12 of 12 examples are also in data\.train"):
        refuse_overlap(data(tmp_path), {"train": data(tmp_path, resize=4)})


def test_a_batch_without_labels_says_so(tmp_path: Path) -> None:
    unlabelled = data(tmp_path, labels=None)
    assert unlabelled.batch(np.arange(3)).labels is None
    with pytest.raises(DataError, match="carry no labels"):
        unlabelled.require_labels()
    with pytest.raises(DataError, match="no examples"):
        data(tmp_path).subset(np.arange(0)).require_labels()
