"""Pictures that look the same: saved again as JPEG, in another size, type or range of values, mirrored, or retouched.

Two tests, each of the picture and of its mirror image:

look       grey thumbnails of 16 x 16, mean 0 and length 1, correlate closely: whatever the type and the range
parts      two of four grids of every second pixel hold the same order of values: all but one or two pixels are equal

How closely thumbnails of *different* pictures correlate depends on what is on them: .95 at most among photographs,
.995 among handwritten digits. So the bound lies halfway between the closest 1 % of the evaluation data's own pictures
and equality, within .975 to .995; ``benchmarks/overlap.py`` prints how often it errs. Drawings of few pixels are missed
in half their size, and digits of 8 x 8 behind a strong JPEG: no bound parts these from another digit.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from PIL import Image

SIDE = 16  # side of a thumbnail, in pixels
LOOSEST, STRICTEST = 0.975, 0.995  # correlations of thumbnails
COMPARED = 1000  # pictures that the bound is taken from
LOW = 5  # lowest frequencies each way that the search tree holds: their distance is never above the whole one
EQUAL_PARTS, MOST_HOLDERS = 2, 8  # a digest shared by more pictures is of a drawing's empty part
PARTS_UP_TO = 64 * 64  # pixels: larger pictures have the same thumbnail after a retouched pixel
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # luma weights of ITU-R 601, as Pillow's "L"


@dataclass(frozen=True)
class Sketch:
    """What similar pictures are compared by.

    Args:
        look: ``[16, 16]`` float32 of mean 0 and length 1; all 0 where the picture is of one colour.
        parts: 64-bit digests of the four grids of pixels; none where they are of one colour or the picture is large.
        mirrored: The same of the mirror image.
    """

    look: np.ndarray
    parts: tuple[int, ...]
    mirrored: tuple[int, ...]


def sketch(pixels: np.ndarray) -> Sketch:
    """Of ``[h, w]`` or ``[h, w, c]``, any type."""
    grey = _grey(pixels)
    resampling = Image.Resampling.BOX if min(grey.shape) >= SIDE else Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), resampling))
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    look = small / length if length > 1e-6 * max(1.0, float(np.abs(grey).max())) else np.zeros_like(small)
    return Sketch(look, _parts(grey), _parts(grey[:, ::-1]))


def _grey(pixels: np.ndarray) -> np.ndarray:
    grey: np.ndarray = pixels.astype(np.float32)
    if grey.ndim == 3:
        grey = grey @ LUMA if grey.shape[2] == len(LUMA) else grey.mean(2)
    return grey


def _parts(grey: np.ndarray) -> tuple[int, ...]:
    """Ranks instead of values, each grid by itself: they survive any change of type or range."""
    if grey.size > PARTS_UP_TO:
        return ()
    return tuple(_digest(grey[row::2, column::2], 2 * row + column) for row in (0, 1) for column in (0, 1))


def _digest(part: np.ndarray, place: int) -> int:
    """0 where all pixels are equal."""
    ranks = np.unique(np.round(part, 3), return_inverse=True)[1].astype(np.int16)
    content = repr((place, part.shape)).encode() + ranks.tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) if ranks.any() else 0


def similar_images(mine: Sequence[Sketch], theirs: Sequence[Sketch] | None = None) -> np.ndarray:
    """``[n]``: for each of mine, the number of one of theirs that looks the same, or -1.

    Args:
        theirs: None: earlier ones of mine.
    """
    others = mine if theirs is None else theirs
    twins = _same_look(_looks(mine), _looks(others), bound_of(mine), earlier=theirs is None)
    holders = _holders(others)
    for number in np.nonzero(twins < 0)[0].tolist():
        limit = number if theirs is None else len(others)
        candidates = [_same_parts(parts, holders, limit) for parts in (mine[number].parts, mine[number].mirrored)]
        twins[number] = max(candidates)
    return twins


def _holders(pictures: Sequence[Sketch]) -> dict[int, list[int]]:
    """By a part's digest, the pictures that hold it, the first few."""
    known: dict[int, list[int]] = {}
    for number, picture in enumerate(pictures):
        for part in filter(None, picture.parts):
            holders = known.setdefault(part, [])
            if len(holders) < MOST_HOLDERS:
                holders.append(number)
    return known


def _same_parts(parts: tuple[int, ...], holders: dict[int, list[int]], limit: int) -> int:
    """The picture below ``limit`` that holds two of the parts, or -1."""
    counts = Counter(number for part in parts for number in holders.get(part, ()) if number < limit)
    return next((number for number, count in counts.most_common(1) if count >= EQUAL_PARTS), -1)


def bound_of(pictures: Sequence[Sketch]) -> float:
    """The correlation from which on two thumbnails are of one picture."""
    step = -(-len(pictures) // COMPARED) or 1
    looks = _looks(pictures[::step]).reshape(-1, SIDE * SIDE)
    if len(looks) < 2:
        return STRICTEST
    between = looks @ looks.T
    np.fill_diagonal(between, -1)
    closest = float(np.quantile(between.max(1), 0.99))
    return min(max((1 + closest) / 2, LOOSEST), STRICTEST)


def _looks(pictures: Sequence[Sketch]) -> np.ndarray:
    return np.array([picture.look for picture in pictures], np.float32).reshape(-1, SIDE, SIDE)


def _same_look(mine: np.ndarray, theirs: np.ndarray, bound: float, earlier: bool) -> np.ndarray:
    twins = np.full(len(mine), -1)
    if not len(mine) or not len(theirs):
        return twins
    tree, flat = scipy.spatial.KDTree(_low(theirs)), theirs.reshape(len(theirs), -1)
    for looks in (mine, mine[:, :, ::-1]):
        near = tree.query_ball_point(_low(looks), float(np.sqrt(2 * (1 - bound))))
        for number in np.nonzero(twins < 0)[0]:
            candidates = np.array([other for other in near[number] if other < number or not earlier], dtype=np.int64)
            like = flat[candidates] @ looks[number].ravel()
            if len(like) and like.max() >= bound:
                twins[number] = candidates[like.argmax()]
    return twins


def _low(looks: np.ndarray) -> np.ndarray:
    low: np.ndarray = scipy.fft.dctn(looks, axes=(1, 2), norm="ortho")[:, :LOW, :LOW]
    return low.reshape(len(looks), -1)
