"""Copies in disguise are named, with two examples; different texts and pictures are not. A warning is no error."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from squeeze.data.documents import Documents
from squeeze.data.images import ArrayPixels, ImageDataset
from squeeze.data.overlap import overlap_warnings, refuse_overlap, repetition_warnings
from squeeze.data.preprocess import Preprocess
from squeeze.errors import DataError

Disguise = Callable[[np.ndarray], np.ndarray]


def pictures(*images: np.ndarray) -> ImageDataset:
    array = np.stack(images)
    return ImageDataset(
        "npz:x", ArrayPixels(array, np.zeros(len(array), np.int64)), np.arange(len(array)), Preprocess()
    )


@lru_cache
def scenes(count: int = 12, side: int = 48) -> np.ndarray:
    """Smooth coloured pictures, each different, ``[n, side, side, 3]`` uint8."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])


@lru_cache
def digits() -> np.ndarray:
    return np.asarray(load_digits().images[:300] * 15, dtype=np.uint8)


def jpeg(quality: int) -> Disguise:
    def saved(pixels: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return saved


def one_pixel(pixels: np.ndarray) -> np.ndarray:
    changed = pixels.copy()
    changed[3, 4] = 255 - changed[3, 4]
    return changed


def mirrored(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, ::-1]


def in_floats(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float64) / 127.5 - 1


def in_16_bits(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint16) * 257


def smaller(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((32, 32)))


DISGUISES: dict[str, Disguise] = {
    "JPEG of quality 75": jpeg(75),
    "one pixel": one_pixel,
    "mirrored": mirrored,
    "floats": in_floats,
    "16 bits": in_16_bits,
    "mirrored, floats, one pixel": lambda pixels: in_floats(mirrored(one_pixel(pixels))),
}


@pytest.mark.parametrize("kind", [scenes, digits], ids=["scenes", "digits"])
@pytest.mark.parametrize("name", DISGUISES)
def test_a_picture_is_known_again_in_every_disguise(name: str, kind: Callable[[], np.ndarray]) -> None:
    original, disguise = kind(), DISGUISES[name]
    half = len(original) // 2
    calibrate = pictures(*(disguise(image) for image in [*original[half:], original[2], original[0]]))
    evaluate = pictures(*original[:half])
    refuse_overlap(evaluate, {"calibrate": calibrate})
    (line,) = overlap_warnings(evaluate, {"calibrate": calibrate})
    twins = f"(example 0 like example {len(calibrate) - 1}; example 2 like example {len(calibrate) - 2})"
    assert line.startswith(f"data.evaluate: 2 of {half} examples {twins} look the same as images of data.calibrate")


def test_a_picture_in_another_size_and_at_a_low_quality_is_known_again() -> None:
    for disguise in (smaller, jpeg(30)):
        (line,) = overlap_warnings(pictures(*scenes()), {"train": pictures(*map(disguise, scenes()[:3]))})
        assert line.startswith(
            "data.evaluate: 3 of 12 examples (example 0 like example 0; example 1 like example 1; ...)"
        )


def test_different_pictures_are_not_taken_for_each_other() -> None:
    """Digits share low frequencies and strokes; pictures of one colour have nothing to compare."""
    for images in (scenes(), digits()):
        half = len(images) // 2
        assert not list(overlap_warnings(pictures(*images[:half]), {"train": pictures(*images[half:])}))
        assert not list(repetition_warnings(pictures(*images)))
    plain = [np.full((8, 8), value, np.uint8) for value in (0, 7, 255)]
    assert not list(overlap_warnings(pictures(*plain), {"train": pictures(np.full((8, 8), 9, np.uint8))}))
    assert not list(overlap_warnings(pictures(*digits()[:1]), {"train": pictures(*digits()[1:2])}))


def test_pictures_that_stand_in_the_evaluation_data_again_are_named() -> None:
    images = list(scenes())
    equal, alike = repetition_warnings(pictures(*images, images[4], mirrored(images[1])))
    assert (
        equal
        == "data.evaluate: 1 of 14 examples (example 12 of example 4) are copies of earlier ones; copies count once"
    )
    assert alike.startswith("data.evaluate: 1 of 14 examples (example 13 like example 1) look the same as earlier ones")


WORDS = np.array([f"word{number}" for number in range(600)])


def prose(seed: int, words: int = 300) -> list[str]:
    """As often as in prose: few words make up most of a text."""
    return list(WORDS[np.random.default_rng(seed).zipf(1.3, words) % len(WORDS)])


def documents(*texts: list[str]) -> Documents:
    return Documents("text", [[" ".join(text)] for text in texts])


@pytest.mark.parametrize("words", [24, 300])
def test_a_text_with_every_fourth_word_replaced_is_known_again(words: int) -> None:
    texts = [prose(seed, words) for seed in range(4)]
    copy = [word if place % 4 else f"other{place}" for place, word in enumerate(texts[2], 1)]
    evaluate, calibrate = documents(*texts), documents(*map(prose, range(10, 14)), copy)
    refuse_overlap(evaluate, {"calibrate": calibrate})
    (line,) = overlap_warnings(evaluate, {"calibrate": calibrate}, "choice:x")
    begins = " ".join(texts[2])[:40]
    assert line == (
        f"choice:x: 1 of 4 examples (example 2 {begins!r}) read like text of data.calibrate with words changed; "
        "a score on copies proves little"
    )


def test_different_texts_of_the_same_words_are_not_taken_for_copies() -> None:
    assert not list(
        overlap_warnings(documents(*map(prose, range(20))), {"train": documents(*map(prose, range(20, 40)))})
    )
    assert not list(overlap_warnings(documents([], ["one"]), {"train": documents(prose(0), [])}))


def test_documents_of_another_tool_are_held_against_calibration_text_like_our_own() -> None:
    text = prose(0)
    with pytest.raises(DataError, match=r"lm_eval:x: 1 of 2 examples are also in data\.calibrate"):
        refuse_overlap(documents(prose(1), text[20:40]), {"calibrate": documents(text)}, "lm_eval:x")
