"""A linear map in place of removed blocks, from sums over tokens."""

from __future__ import annotations

import pytest
import torch

from squeeze.algorithms.linear_replacement import Gap

WIDTH = 8


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_what_is_linear_in_the_gap_is_found() -> None:
    added, beside, map_ = normal(200, WIDTH), normal(200, WIDTH, seed=1), normal(WIDTH, WIDTH, seed=2)
    gap = Gap(WIDTH)
    for part in torch.arange(200).split(64):
        gap.add(added[part], beside[part] + added[part], beside[part] + added[part] @ map_.T)
    torch.testing.assert_close(gap.map(1e-9), map_, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("damping", "share"), [(1.0, 0.7), (1e9, 1e-6)])
def test_damping_draws_the_map_to_none(damping: float, share: float) -> None:
    added, target = normal(500, WIDTH), normal(500, WIDTH, seed=1)
    gap = Gap(WIDTH)
    gap.add(added, added, added + 2 * added + 0.1 * target)
    away, whole = gap.map(damping) - torch.eye(WIDTH), gap.map(1e-9) - torch.eye(WIDTH)
    assert away.norm() < share * whole.norm()


def test_tokens_of_a_large_stream_count_no_more_than_others() -> None:
    added = normal(400, WIDTH)
    behind = added.clone()
    behind[:200] *= 2  # half of the tokens say: twice as much
    scale = torch.ones(400, 1)
    scale[200:] = 100  # and those that say: as it is, are in a stream a hundred times as large
    gap = Gap(WIDTH)
    gap.add(scale * added, scale * added, scale * behind)
    diagonal = gap.map(1e-6).diagonal()
    assert 1.1 < diagonal.min() <= diagonal.max() < 1.4  # unweighed it would be 1; a doubled token counts a quarter


def test_channels_that_nothing_is_added_to_are_left_alone() -> None:
    added = normal(50, WIDTH)
    added[:, 3:] = 0
    gap = Gap(WIDTH)
    gap.add(added, added, normal(50, WIDTH, seed=1))
    assert torch.equal(gap.map(0.01)[:, 3:], torch.eye(WIDTH)[:, 3:])
    empty = Gap(WIDTH)
    empty.add(torch.zeros(5, WIDTH), torch.zeros(5, WIDTH), torch.zeros(5, WIDTH))
    assert torch.equal(empty.map(0.01), torch.eye(WIDTH))
