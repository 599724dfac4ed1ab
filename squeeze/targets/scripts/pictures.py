"""Pictures and arrays as a model takes them, prepared as the evaluation data was."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from squeeze.targets.scripts.shared import Fault, Json, one_line


def read_input(path: Path, spec: Json, preprocessing: Json) -> Any:
    """The model's input ``[n, ...]`` from an array file or a picture."""
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_picture(path, spec, preprocessing)
    except (OSError, ValueError) as error:
        raise Fault(f"{path}: cannot be read ({error}); an .npy array or a picture would do") from error
    shape = spec["shape"]
    if array.ndim == len(shape) - 1:
        array = array[None]
    fits = array.ndim == len(shape) and all(
        isinstance(w, str) or w == s for w, s in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise Fault(f"{path}: gives shape {list(array.shape)}; the model takes {shape}")
    return np.ascontiguousarray(array, dtype=spec["dtype"])


def read_arrays(path: Path, specs: list[Json]) -> Json:
    """The model's inputs by their names, from an .npz file; as many examples of each."""
    import numpy as np

    names = [spec["name"] for spec in specs]
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {spec["name"]: np.ascontiguousarray(file[spec["name"]], dtype=spec["dtype"]) for spec in specs}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        cure = f"an .npz file with {', '.join(names)} would do"
        raise Fault(f"{path}: cannot be read ({one_line(error)}); {cure}") from error
    counts = [len(array) if array.ndim else 0 for array in arrays.values()]
    if len(set(counts)) > 1 or counts[0] == 0:
        raise Fault(f"{path}: {', '.join(names)} hold {', '.join(map(str, counts))} examples; as many of each would do")
    return arrays


def read_picture(path: Path, spec: Json, steps: Json) -> Any:
    """``[c, h, w]``: resize, centre crop, scale, normalize, as the evaluation data was prepared."""
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise Fault(
            f"{path}: pictures need Pillow; 'pip install pillow' would give it, an .npy array does without"
        ) from error
    if not steps:
        raise Fault(f"{path}: the package does not say how pictures are prepared; an .npy array would do")
    channels = steps.get("channels") or spec["shape"][1]
    image = Image.open(path).convert("L" if channels == 1 else "RGB")
    interpolation = Image.Resampling[steps.get("interpolation", "bilinear").upper()]
    if steps.get("resize"):
        image = image.resize(resized(image.size, steps["resize"]), interpolation)
    if steps.get("crop"):
        height, width = sides(steps["crop"])
        if image.width < width or image.height < height:
            raise Fault(f"{path}: {image.height} x {image.width} pixels; at least {height} x {width} are needed")
        left, upper = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, upper, left + width, upper + height))
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    result = pixels.astype(np.float32) * np.float32(steps.get("scale", 1 / 255))
    if normalize := steps.get("normalize"):
        mean, std = (np.asarray(normalize[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
        result = (result - mean) / std
    return result


def sides(side: Any) -> tuple[int, int]:
    """Height and width."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def resized(size: tuple[int, int], side: Any) -> tuple[int, int]:
    """Width and height after a resize; one number is the shorter side."""
    if not isinstance(side, int):
        return side[1], side[0]
    short = min(size)
    return round(size[0] * side / short), round(size[1] * side / short)
