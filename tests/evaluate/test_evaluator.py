"""One evaluator for every form, the fit of data and model, and a fair stopwatch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import images, tiny_model, write_npz

from squeeze.data.base import Dataset
from squeeze.data.sources import NpzData
from squeeze.errors import DataError, ModelError
from squeeze.evaluate.evaluator import labels_of, logits_of
from squeeze.evaluate.fit import require_fit


def data(folder: Path, count: int = 12, **arrays: object) -> Dataset:
    write_npz(folder / "a.npz", count, **arrays)
    return NpzData(npz="a.npz").open(folder)


def test_logits_come_in_the_datas_own_order_whatever_the_batches(tmp_path: Path) -> None:
    source, model = data(tmp_path, 150), tiny_model()  # more than two batches
    whole = model.predict(source.batch(np.arange(150))).numpy()
    assert np.allclose(logits_of(model, source), whole, atol=1e-6)


def test_a_model_that_gives_nan_is_told_with_how_often(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.module.get_parameter("4.bias")[0] = float("nan")
    with pytest.raises(ModelError, match="score: the model gives NaN or infinity on 12 of 12 examples"):
        logits_of(model, data(tmp_path))


def test_labels_are_there_for_all_examples_or_for_none(tmp_path: Path) -> None:
    assert labels_of(data(tmp_path)) is not None
    assert labels_of(data(tmp_path, labels=np.full(12, -1))) is None


def test_data_that_fits_is_let_through_with_and_without_labels(tmp_path: Path) -> None:
    require_fit(tiny_model(), "evaluate", data(tmp_path))
    require_fit(tiny_model(), "evaluate", data(tmp_path, labels=np.full(12, -1)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(12)}, r"data\.train: label 11 is outside the model's 4 classes, 0 to 3"),
        ({"labels": np.array([-1] * 5 + [1] * 7)}, r"data\.train: 5 of 12 examples carry no label; all or none would"),
        ({"images": images(12, 0, side=8)}, r"data\.train: an example is 3 x 8 x 8; the model takes 3 x 6 x 6"),
        ({"images": images(12, 0, channels=1)}, r"data\.train: an example is 1 x 6 x 6; the model takes 3 x 6 x 6"),
    ],
)
def test_data_that_does_not_fit_the_model_is_told_before_anything_runs(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        require_fit(tiny_model(), "train", data(tmp_path, **arrays))


def test_no_examples_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.calibrate: .*: no examples"):
        require_fit(tiny_model(), "calibrate", data(tmp_path).subset(np.arange(0)))
