"""A linear probe on embeddings: fitted once, on the original's; and how far embeddings have turned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from by_threads import printed_by_threads

from squeeze.errors import DataError
from squeeze.evaluate.evidence.embeddings import LinearProbe
from squeeze.evaluate.probe import Cosine, Probe


def clusters(classes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array(classes * 20)
    noise = np.random.default_rng(seed).normal(size=(len(labels), 4))
    return np.eye(4)[labels] * 8 + noise, labels


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2], [1, 3]], ids=["two", "three", "with a gap"])
def test_a_probe_tells_clusters_apart_that_it_has_not_seen(classes: list[int], tmp_path: Path) -> None:
    fitted = Probe().fit(*clusters(classes))
    embeddings, labels = clusters(classes, seed=1)
    right = Probe().per_example(fitted.logits(embeddings), labels, embeddings)
    assert right.mean() > 0.95
    fitted.save(tmp_path)
    assert (LinearProbe.load(tmp_path).logits(embeddings) == fitted.logits(embeddings)).all()


def test_a_heavier_penalty_gives_smaller_weights() -> None:
    light, heavy = (np.abs(Probe(penalty=p).fit(*clusters([0, 1])).weight).sum() for p in (0.01, 10))
    assert heavy < light


@pytest.mark.parametrize("labels", [[0, 0], [-1, 0]], ids=["one class", "no labels"])
def test_one_class_is_nothing_to_fit(labels: list[int]) -> None:
    with pytest.raises(DataError, match=r"probe: data\.train has \d classes; labels of two or more would do"):
        Probe().fit(np.eye(2), np.array(labels))


def test_a_label_that_the_training_data_had_not_is_told() -> None:
    fitted = Probe().fit(*clusters([0, 1]))
    with pytest.raises(DataError, match="probe: label 3 is outside the model's 2 classes"):
        Probe().per_example(fitted.logits(np.eye(4)), np.array([0, 1, 2, 3]), np.eye(4))


def test_cosine_is_of_directions_alone() -> None:
    a, b = np.array([[1.0, 0], [1, 1], [0, 0]]), np.array([[3.0, 0], [0, 2], [1, 0]])
    assert Cosine().per_example(a, None, b) == pytest.approx([1, np.sqrt(0.5), 0])


def test_the_probe_is_the_same_whatever_the_threads() -> None:
    """It decides scores, and scores are the same bytes on every run."""
    code = (
        "import numpy as np; from squeeze.evaluate.probe import Probe; g = np.random.default_rng(0);"
        "x, y = g.normal(size=(3000, 300)), g.integers(0, 3, 3000); p = Probe().fit(x, y);"
        "print(p.weight.tobytes().hex()[:4000], p.logits(x[:50]).tobytes().hex()[:4000])"
    )
    assert len(printed_by_threads(code)) == 1
