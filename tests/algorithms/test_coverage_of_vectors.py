"""A few that stand for all: each cluster is seen before any is seen twice."""

from __future__ import annotations

import numpy as np
import pytest

from squeeze.algorithms.coverage import spread_out

SIZES = (90, 6, 3, 1)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Four clusters far apart, of very different sizes."""
    random = np.random.default_rng(0)
    centres = np.repeat(100 * np.eye(4, dtype=np.float32), SIZES, axis=0)
    return centres + random.normal(0, 0.1, centres.shape).astype(np.float32)


def per_cluster(chosen: np.ndarray) -> list[int]:
    return np.bincount(np.repeat(np.arange(4), SIZES)[chosen], minlength=4).tolist()


def test_one_of_each_cluster_however_large(vectors: np.ndarray) -> None:
    assert per_cluster(spread_out(vectors, 4, seed=0)) == [1, 1, 1, 1]


def test_chance_would_see_the_largest_alone(vectors: np.ndarray) -> None:
    """The reason why it exists."""
    chance = np.random.default_rng(0).permutation(len(vectors))[:4]
    assert per_cluster(chance) != [1, 1, 1, 1]


def test_the_same_seed_chooses_the_same(vectors: np.ndarray) -> None:
    one, again = (spread_out(vectors, 20, seed=3) for _ in range(2))
    assert one.tolist() == again.tolist() == sorted(set(one.tolist()))
    assert len(one) == 20


def test_more_than_there_are_is_all_of_them(vectors: np.ndarray) -> None:
    assert spread_out(vectors, 200, seed=0).tolist() == list(range(100))


def test_vectors_that_are_all_alike_are_enough(recwarn: pytest.WarningsRecorder) -> None:
    assert len(spread_out(np.ones((30, 4), np.float32), 7, seed=0)) == 7
    assert not recwarn.list
