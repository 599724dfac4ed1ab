"""MinHash: the estimate is the resemblance, copies are found wherever they stand, different texts are left alone."""

from __future__ import annotations

import numpy as np

from squeeze.algorithms.minhash import HASHES, first_alike, signature


def runs(seed: int, count: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def changed(of: np.ndarray, share: float) -> np.ndarray:
    """The same with some of them exchanged."""
    other = of.copy()
    other[: round(share * len(of))] = runs(99, round(share * len(of)))
    return other


def test_as_many_hashes_agree_as_the_sets_resemble() -> None:
    """Half exchanged: 200 of 600 different runs are in both. Within four standard errors."""
    one = runs(0)
    agreeing = (signature(one) == signature(changed(one, 0.5))).mean()
    assert abs(agreeing - 1 / 3) < 4 * np.sqrt(1 / 3 * 2 / 3 / HASHES)


def test_a_set_of_more_runs_than_are_hashed_at_once_has_one_signature() -> None:
    many = runs(0, 10_000)
    assert (signature(many) == signature(many[::-1])).all()


def test_copies_with_a_few_runs_changed_are_those_of_the_first() -> None:
    one, other = runs(0), runs(1)
    texts = [one, other, changed(one, 0.05), runs(2), changed(other, 0.05), one]
    alike = first_alike(np.stack([signature(text) for text in texts]), 0.8)
    assert alike.tolist() == [0, 1, 0, 3, 1, 0]


def test_what_is_asked_for_decides() -> None:
    signatures = np.stack([signature(runs(0)), signature(changed(runs(0), 0.05))])  # they resemble by 0.90
    assert first_alike(signatures, 0.8).tolist() == [0, 0]
    assert first_alike(signatures, 1.0).tolist() == [0, 1]
