"""Images in tables: what the ``datasets`` library reads from local files, and what it says where it is absent."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import images

from squeeze.data.tables import DatasetsData
from squeeze.errors import DataError, MissingExtra

pytest.importorskip("datasets", reason="the extra 'datasets' is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library writes what it read to a cache: not to the user's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def parquet(path: Path, cells: list[Any], labels: list[Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": cells, "label": labels}), path)
    return path


def rows(path: Path, cells: list[Any], labels: list[Any]) -> Path:
    pairs = zip(cells, labels, strict=True)
    path.write_text("\n".join(json.dumps({"image": cell, "label": label}) for cell, label in pairs))
    return path


@pytest.mark.parametrize("kind", ["encoded bytes", "numbers"])
def test_a_table_gives_images_and_labels(tmp_path: Path, kind: str) -> None:
    pixels = images(3, 0)
    if kind == "numbers":
        name = rows(tmp_path / "a.jsonl", [image.tolist() for image in pixels], [2, 0, 1]).name
    else:
        name = parquet(tmp_path / "a.parquet", [encoded(image) for image in pixels], [2, 0, 1]).name
    data = DatasetsData(datasets=name).open(tmp_path)
    assert [data.label(index) for index in range(3)] == [2, 0, 1]
    assert np.allclose(data.example(1).image, pixels[1].transpose(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "imag"}, "no column 'imag'; did you mean 'image'"),
        ({"label": "lable"}, "no column 'lable'; did you mean 'label'"),
        ({"datasets": "b.txt"}, "files of one kind among .parquet, .csv"),
        ({"datasets": "cut.parquet"}, r"cut\.parquet: cannot be read"),
        ({"datasets": "text.jsonl"}, r"text\.jsonl: cannot be read"),
        ({"datasets": "ragged.jsonl"}, "an image cell is list"),
        ({"datasets": "words.jsonl"}, "an image cell is str; an image or"),
        ({"datasets": "names.jsonl"}, "column 'label' holds no class numbers"),
        ({"datasets": "damaged.parquet"}, "an image cell is not a whole image"),
    ],
)
def test_a_table_that_cannot_serve_is_one_line(tmp_path: Path, options: dict[str, str], message: str) -> None:
    whole = parquet(tmp_path / "a.parquet", [encoded(image) for image in images(3, 0)], [0, 1, 2])
    (tmp_path / "b.txt").write_text("hello")
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:100])
    (tmp_path / "text.jsonl").write_text("{hello")
    rows(tmp_path / "ragged.jsonl", [[[1, 2], [3]]], [0])
    rows(tmp_path / "words.jsonl", ["cat.png"], [0])
    rows(tmp_path / "names.jsonl", [[[1, 2], [3, 4]]], ["cat"])
    parquet(tmp_path / "damaged.parquet", [encoded(images(1, 0)[0])[:60]], [0])
    with pytest.raises(DataError, match=message) as caught:
        DatasetsData.model_validate({"datasets": "a.parquet"} | options).open(tmp_path).example(0)
    assert len(str(caught.value).splitlines()) == 1


def test_without_the_library_the_extra_is_named_before_and_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path / "a.parquet", [encoded(images(1, 0)[0])], [0])
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = DatasetsData(datasets="a.parquet")
    expected = r"needs the extra 'datasets': pip install 'squeeze\[datasets\]'"
    assert [message.endswith("pip install 'squeeze[datasets]'") for message in source.faults(tmp_path)] == [True]
    with pytest.raises(MissingExtra, match=expected):
        source.open(tmp_path)
