"""Augmentation moves pixels and makes none up; schedules rise and fall."""

import pytest
import torch

from squeeze.algorithms import schedules
from squeeze.algorithms.augment import crop, flip

IMAGES = torch.randn(16, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_some_images_and_leaves_the_others():
    out = flip(IMAGES, seeded())
    same = [torch.equal(a, b) for a, b in zip(out, IMAGES, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, IMAGES, strict=True)]
    assert any(same)
    assert any(mirrored)
    assert all(one != other for one, other in zip(same, mirrored, strict=True))


def test_crop_moves_an_image_by_at_most_an_eighth():
    padded = torch.nn.functional.pad(IMAGES[0], (3, 3, 2, 2))
    moves = [padded[:, y : y + 16, x : x + 24] for y in range(5) for x in range(7)]
    moved = crop(IMAGES[:1].expand(16, -1, -1, -1), seeded())
    assert all(any(torch.equal(image, move) for move in moves) for image in moved)
    assert len({image.numpy().tobytes() for image in moved}) > 4


@pytest.mark.parametrize("augment", [flip, crop])
def test_the_seed_decides(augment):
    assert torch.equal(augment(IMAGES, seeded(3)), augment(IMAGES, seeded(3)))
    assert not torch.equal(augment(IMAGES, seeded(3)), augment(IMAGES, seeded(4)))


@pytest.mark.parametrize("schedule", [schedules.cosine, schedules.one_cycle])
def test_a_schedule_rises_to_its_peak_and_falls_to_nearly_nothing(schedule):
    factors = [schedule(step / 100, 0.2) for step in range(101)]
    assert max(factors) == pytest.approx(factors[20]) == pytest.approx(1)
    assert factors[:21] == sorted(factors[:21])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] < 1e-3


def test_constant_stays_where_it_is():
    assert [schedules.constant(p, 0.5) for p in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]
