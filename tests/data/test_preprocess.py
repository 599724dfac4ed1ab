"""From pixels to a model's input: the steps by hand, and a Hugging Face image processor as transformers runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import images

from squeeze.data.preprocess import Normalize, Preprocess
from squeeze.errors import DataError

PIXELS = images(1, 0, side=12)[0]


def test_nothing_asked_is_only_scaled_and_laid_out() -> None:
    assert np.allclose(Preprocess()(PIXELS), PIXELS.transpose(2, 0, 1) / 255)
    assert Preprocess()(PIXELS[..., 0]).shape == (1, 12, 12)


def test_one_number_resizes_the_shorter_side_and_two_both() -> None:
    assert Preprocess(resize=6)(PIXELS[:, :8]).shape == (3, 9, 6)
    assert Preprocess(resize=(6, 10))(PIXELS).shape == (3, 6, 10)


def test_a_crop_is_taken_from_the_centre() -> None:
    assert np.allclose(Preprocess(crop=(4, 6))(PIXELS), PIXELS[4:8, 3:9].transpose(2, 0, 1) / 255)


def test_normalize_is_per_channel_after_scaling() -> None:
    steps = Preprocess(normalize=Normalize(mean=(0.1, 0.2, 0.3), std=(1, 2, 4)))
    expected = (PIXELS / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    assert np.allclose(steps(PIXELS), expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "pixels", "message"),
    [
        (Preprocess(crop=20), PIXELS, "crop 20 x 20 is larger than an image of 12 x 12; resize first"),
        (Preprocess(resize=6), PIXELS.astype(np.float32), "need uint8 pixels; these are float32"),
        (Preprocess(resize=6), np.zeros((12, 12, 2), np.uint8), r"this is \[12, 12, 2\]"),
        (
            Preprocess(normalize=Normalize(mean=(0, 0), std=(1, 1))),
            PIXELS,
            "normalize has 2 channels; the images have 3",
        ),
    ],
)
def test_steps_that_do_not_fit_the_pixels_are_told(steps: Preprocess, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        steps(pixels)


PROCESSOR = {
    "image_processor_type": "MobileNetV1ImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 10},
    "resample": 2,
    "do_center_crop": True,
    "crop_size": {"height": 8, "width": 8},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}


def processor(folder: Path, config: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
def test_an_image_processor_is_read_as_transformers_runs_it(tmp_path: Path, resample: int) -> None:
    from PIL import Image
    from transformers import MobileNetV1ImageProcessor

    steps = Preprocess.from_processor(processor(tmp_path, PROCESSOR | {"resample": resample}))
    theirs = MobileNetV1ImageProcessor.from_pretrained(tmp_path)(Image.fromarray(PIXELS), return_tensors="np")
    assert np.abs(steps(PIXELS) - theirs["pixel_values"][0]).max() < 0.02


@pytest.mark.parametrize("off", ["do_resize", "do_center_crop", "do_rescale", "do_normalize"])
def test_a_step_that_is_switched_off_is_left_out(tmp_path: Path, off: str) -> None:
    whole = Preprocess.from_processor(processor(tmp_path, PROCESSOR))
    less = Preprocess.from_processor(processor(tmp_path, PROCESSOR | {off: False}))
    assert whole != less


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"size": {"foo": 3}},
        {"size": "big"},
        {"resample": 9},
        {"image_mean": 3},
        {"image_mean": [1], "image_std": [0]},
    ],
)
def test_a_processor_that_cannot_be_read_is_one_line(tmp_path: Path, config: Any) -> None:
    with pytest.raises(DataError, match=r"config\.json: not an image processor that can be read") as caught:
        Preprocess.from_processor(processor(tmp_path, config))
    assert len(str(caught.value).splitlines()) == 1


def test_a_processor_that_is_absent_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image processor here"):
        Preprocess.from_processor(tmp_path)
