"""Where examples come from: what is read is what lies there, and data that is damaged is one line that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import images, write_npz

from squeeze.data.base import Dataset
from squeeze.data.sources import DigitsData, FolderData, NpzData
from squeeze.errors import DataError


def png(path: Path, size: tuple[int, int] = (6, 6), mode: str = "RGB", value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_an_npz_gives_its_images_as_the_model_wants_them(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", 5, seed=3)
    batch = NpzData(npz="a.npz").open(tmp_path).batch(np.arange(5))
    expected = torch.from_numpy(images(5, 3).transpose(0, 3, 1, 2) / np.float32(255))
    assert torch.allclose(batch.image, expected)
    assert batch.labels is not None
    assert batch.labels.tolist() == np.random.default_rng(3).integers(0, 4, 5).tolist()


def test_floating_point_images_are_taken_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, 6, 6)).astype(np.float32)
    write_npz(tmp_path / "a.npz", 3, images=pixels)
    assert np.array_equal(NpzData(npz="a.npz").open(tmp_path).example(1).image[0], pixels[1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.array([1, "a", None], dtype=object)}, "not a whole npz file of plain arrays"),
        ({"images": np.zeros((0, 6, 6, 3), np.uint8), "labels": np.zeros(0)}, "holds no examples"),
        ({"images": np.float32(3)}, r"'images' is float32 \[\]; numbers \[n, h, w\]"),
        ({"images": np.zeros((12, 6, 6, 3, 1))}, "numbers"),
        ({"images": np.full((12, 6, 6), "a")}, "numbers"),
        ({"images": np.zeros((12, 6, 6), bool)}, "numbers"),
        ({"labels": np.zeros(11)}, r"'labels' is \[11\] for 12 examples; one label each would do"),
        ({"labels": np.zeros((12, 2))}, r"'labels' is \[12, 2\]"),
        ({"labels": np.full(12, 0.5)}, "no class numbers"),
        ({"labels": np.full(12, np.nan)}, "no class numbers"),
        ({"labels": np.full(12, "cat")}, "no class numbers"),
        ({"labels": np.full(12, -2)}, "no class numbers"),
        ({"images": np.full((12, 6, 6), np.nan)}, "example 0 holds NaN or infinity"),
    ],
)
def test_arrays_that_are_no_data_are_told(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    write_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        NpzData(npz="a.npz").open(tmp_path)


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "npy", "folder", "bytes changed"])
def test_a_damaged_npz_is_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    path = write_npz(tmp_path / "a.npz")
    content = path.read_bytes()
    if kind == "cut":
        cut(path)
    elif kind == "npy":
        np.save(tmp_path / "a.npy", np.zeros(3))
        (tmp_path / "a.npy").replace(path)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "text": b"hello"}.get(kind, content[:200] + bytes(99) + content[299:]))
    with pytest.raises(DataError, match=r"a\.npz: (not a whole npz file|cannot be read \(Is a dir)") as caught:
        NpzData(npz="a.npz").open(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_skip_and_samples_of_one_seed_share_no_example(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", 12)
    first = NpzData(npz="a.npz", samples=5, seed=4).open(tmp_path)
    rest = NpzData(npz="a.npz", skip=5, seed=4).open(tmp_path)
    assert (len(first), len(rest)) == (5, 7)
    assert not set(first.fingerprints) & set(rest.fingerprints)
    other = NpzData(npz="a.npz", samples=5, seed=5).open(tmp_path)
    assert first.fingerprints != other.fingerprints


def test_a_folder_tree_names_its_classes_and_decodes_every_mode(tmp_path: Path) -> None:
    png(tmp_path / "t" / "bee" / "1.png", mode="P")
    png(tmp_path / "t" / "ant" / "1.png", mode="RGBA", value=0)
    png(tmp_path / "t" / "ant" / "2.png", mode="RGB")
    data = FolderData(folder="t").open(tmp_path)
    assert data.classes == ["ant", "bee"]
    assert [data.label(index) for index in range(3)] == [0, 0, 1]
    assert data.batch(np.arange(3)).image.shape == (3, 3, 6, 6)


def test_file_names_may_carry_the_class_number(tmp_path: Path) -> None:
    png(tmp_path / "t" / "0012_dog.png")
    png(tmp_path / "t" / "3.png")
    data = FolderData(folder="t", labels="filename").open(tmp_path)
    assert [data.label(index) for index in range(2)] == [12, 3]
    png(tmp_path / "t" / "dog.png")
    with pytest.raises(DataError, match=r"dog\.png: labels: filename wants names that begin with the class index"):
        FolderData(folder="t", labels="filename").open(tmp_path)


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    png(tmp_path / "t" / "a" / "1.png")
    png(tmp_path / "t" / "2.png")
    with pytest.raises(DataError, match="images lie beside the class folders; labels: filename or none"):
        FolderData(folder="t").open(tmp_path)


def test_a_folder_without_images_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image files here; \.bmp, \.gif"):
        FolderData(folder=".").open(tmp_path)


@pytest.mark.parametrize("kind", ["cut png", "cut jpg", "text", "empty", "folder", "16 bit"])
def test_a_damaged_image_is_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    png(tmp_path / "t" / "a" / "0.png")
    path = tmp_path / "t" / "a" / f"1.{'jpg' if 'jpg' in kind else 'png'}"
    if kind == "folder":
        path.mkdir()
    elif kind == "16 bit":
        Image.fromarray(np.full((6, 6), 60_000, np.uint16)).save(path)
    elif kind.startswith("cut"):
        cut(png(path, (64, 64)))
    else:
        path.write_text("hello" if kind == "text" else "")
    data = FolderData(folder="t", resize=(6, 6)).open(tmp_path)
    with pytest.raises(DataError, match=rf"{path.name}: (not a whole image|pixels of more than 8 bits)") as caught:
        data.batch(np.arange(2))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("change", ["size", "mode"])
def test_images_of_different_shapes_say_what_would_make_them_one(tmp_path: Path, change: str) -> None:
    png(tmp_path / "t" / "a" / "0.png")
    png(tmp_path / "t" / "a" / "1.png", (9, 9) if change == "size" else (6, 6), "L" if change == "mode" else "RGB")
    data = FolderData(folder="t").open(tmp_path)
    with pytest.raises(DataError, match=r"examples of different shapes, .*resize: and channels: would make them one"):
        data.batch(np.arange(2))
    one = FolderData(folder="t", resize=6, channels=3).open(tmp_path)
    assert one.batch(np.arange(2)).image.shape == (2, 3, 6, 6)


def digits(split: str) -> Dataset:
    return DigitsData.model_validate({"builtin": "digits", "split": split}).open(Path())


def test_the_digits_come_in_three_parts_that_share_no_image() -> None:
    parts = [set(digits(split).fingerprints) for split in ("train", "calibrate", "evaluate")]
    assert [len(part) for part in parts] == [1000, 200, 597]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_digits_lie_between_0_and_1() -> None:
    image = digits("evaluate").batch(np.arange(597)).image
    assert (image.shape, image.min(), image.max()) == ((597, 1, 8, 8), 0, 1)
