"""Several crops of a picture: each is scored, all of one picture count as one unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import write_npz

from squeeze.algorithms.proportions import paired_shares
from squeeze.data.base import Dataset
from squeeze.data.overlap import refuse_overlap, repetition_warnings
from squeeze.data.sources import NpzData
from squeeze.errors import DataError

CENTRE, UPPER_LEFT, UPPER_RIGHT, LOWER_LEFT, LOWER_RIGHT = range(5)


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3)).astype(np.uint8)


def opened(folder: Path, views: int, **options: object) -> Dataset:
    write_npz(folder / "a.npz", 12, images=PIXELS)
    return NpzData.model_validate({"npz": "a.npz", "crop": 4, "views": views, **options}).open(folder)


def test_a_picture_gives_its_centre_and_corners_and_these_mirrored(tmp_path: Path) -> None:
    data, pixels = opened(tmp_path, 10), PIXELS.transpose(0, 3, 1, 2) / np.float32(255)
    assert len(data) == 120
    places = {CENTRE: (1, 1), UPPER_LEFT: (0, 0), UPPER_RIGHT: (0, 2), LOWER_LEFT: (2, 0), LOWER_RIGHT: (2, 2)}
    for view, (top, left) in places.items():
        cut = pixels[3, :, top : top + 4, left : left + 4]
        assert np.allclose(data.example(30 + view).image, cut)
        assert np.allclose(data.example(35 + view).image, cut[:, :, ::-1])
    assert data.example_name(37) == "example 3 (upper right, mirrored)"


def test_the_first_view_is_what_one_view_sees(tmp_path: Path) -> None:
    one, five = opened(tmp_path, 1), opened(tmp_path, 5)
    for picture in range(12):
        assert np.array_equal(one.example(picture).image, five.example(5 * picture).image)
        assert [five.label(5 * picture + view) for view in range(5)] == [one.label(picture)] * 5
    assert one.preprocessing() == five.preprocessing(), "packages cut the centre"
    assert len({one.digest, five.digest, opened(tmp_path, 10).digest}) == 3, "scores of one are not the other's"


def test_views_of_a_picture_are_one_unit_and_no_copies(tmp_path: Path) -> None:
    data = opened(tmp_path, 5)
    assert data.units.tolist() == np.repeat(np.arange(12), 5).tolist()
    assert data.subset(np.array([0, 3, 5, 59])).units.tolist() == [0, 0, 1, 2]
    assert len(set(data.fingerprints)) == 60
    assert data.fingerprints == [data.fingerprint(index) for index in range(60)]
    assert list(repetition_warnings(data)) == []


def test_pictures_calibrated_on_are_found_among_views(tmp_path: Path) -> None:
    five = opened(tmp_path, 5, skip=2)
    refuse_overlap(five, {"calibrate": opened(tmp_path, 10, samples=2)})
    with pytest.raises(DataError, match=r"data.evaluate: 10 of 10 examples are also in data.calibrate"):
        refuse_overlap(five, {"calibrate": opened(tmp_path, 1)})


def test_equal_answers_in_every_view_are_worth_one_answer() -> None:
    """Ten copies of one decision prove no more than one does; ten decisions prove more."""
    rng, units = np.random.default_rng(0), np.repeat(np.arange(200), 10)
    old, new = rng.random(200) < 0.6, rng.random(200) < 0.6
    copied = paired_shares(new.repeat(10), old.repeat(10), units).interval()
    apart = paired_shares(rng.permutation(new.repeat(10)), rng.permutation(old.repeat(10)), units).interval()
    single = paired_shares(new, old).interval()
    assert copied.high - copied.low == pytest.approx(single.high - single.low, rel=0.05)
    assert apart.high - apart.low < 0.6 * (single.high - single.low)


def test_views_of_whole_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.npz: views: 5 are crops, and nothing is cropped; crop: would say how"):
        opened(tmp_path, 5, crop=None)
