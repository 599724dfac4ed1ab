"""Rotations: orthogonal at every size a model may have, and invisible from outside."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze.algorithms.hadamard import hadamard
from squeeze.algorithms.rotate import fold_norm, random_rotation, rotate_reader, rotate_writer
from squeeze.algorithms.rtn import round_to_nearest
from squeeze.errors import ShapeError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("order", [1, 2, 4, 12, 16, 20, 24, 28, 36, 40, 44, 56, 60, 256, 320, 768])
def test_hadamard_matrices_hold_ones_and_their_rows_are_at_right_angles(order):
    H = hadamard(order)
    assert torch.equal(H.abs(), torch.ones(order, order))
    assert torch.equal(H @ H.T, order * torch.eye(order))


@pytest.mark.parametrize("order", [3, 6, 10, 22, 92, 172])
def test_where_no_construction_is_known_none_is_invented(order):
    assert hadamard(order) is None


@settings(max_examples=40, deadline=None)
@given(hidden=st.sampled_from([1, 3, 8, 12, 64, 86, 172, 192, 224, 320]), seed=st.integers(0, 9))
def test_every_size_has_a_rotation(hidden, seed):
    rotation = random_rotation(hidden, seed)
    R = rotation.matrix()
    torch.testing.assert_close(R @ R.T, torch.eye(hidden), rtol=0, atol=1e-5)
    x = normal(5, hidden, seed=seed)
    torch.testing.assert_close(rotation.turn(x), x @ R, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(random_rotation(hidden, seed).matrix(), R)


def test_large_sizes_are_turned_in_small_factors():
    assert [len(factor) for factor in random_rotation(4096).factors] == [64, 64, 1]
    assert [len(factor) for factor in random_rotation(3584).factors] == [64, 2, 28]


def test_heads_are_turned_each_on_its_own_and_a_misfit_is_refused():
    rotation = random_rotation(8)
    x = normal(3, 24)
    torch.testing.assert_close(rotation.turn(x)[:, 8:16], rotation.turn(x[:, 8:16].contiguous()))
    with pytest.raises(ShapeError, match="a rotation of 8 channels does not divide 12"):
        rotation.turn(normal(2, 12))


def rms_norm(x: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    return x * x.square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt() * weight


def network(tokens, w):
    """Two residual blocks: x += down(silu(gate norm x) * (up norm x)); then a norm and a head."""
    x = w["embed"][tokens]
    for i in range(2):
        normed = rms_norm(x, w[f"norm{i}"])
        inner = torch.nn.functional.silu(normed @ w[f"gate{i}"].T) * (normed @ w[f"up{i}"].T)
        x = x + inner @ w[f"down{i}"].T + w[f"bias{i}"]
    return rms_norm(x, w["norm"]) @ w["head"].T


def weights(hidden: int, inner: int) -> dict[str, torch.Tensor]:
    shapes = {"embed": (50, hidden), "head": (50, hidden), "norm": (hidden,)}
    for i in range(2):
        shapes |= {f"gate{i}": (inner, hidden), f"up{i}": (inner, hidden), f"down{i}": (hidden, inner)}
        shapes |= {f"norm{i}": (hidden,), f"bias{i}": (hidden,)}
    return {name: normal(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}


def rotated(w, rotation):
    new = {"embed": rotate_reader(w["embed"], rotation), "norm": 1.0}
    new["head"] = rotate_reader(fold_norm(w["norm"], w["head"]), rotation)
    for i in range(2):
        for name in (f"gate{i}", f"up{i}"):
            new[name] = rotate_reader(fold_norm(w[f"norm{i}"], w[name]), rotation)
        new |= {f"norm{i}": 1.0, f"down{i}": rotate_writer(w[f"down{i}"], rotation)}
        new[f"bias{i}"] = rotate_writer(w[f"bias{i}"], rotation)
    return new


@pytest.mark.parametrize("hidden", [32, 24, 172], ids=["power of two", "12 x 2", "random orthogonal"])
def test_a_network_with_a_rotated_residual_stream_gives_the_same_outputs(hidden):
    w, tokens = weights(hidden, 40), torch.arange(50)
    before, after = network(tokens, w), network(tokens, rotated(w, random_rotation(hidden, seed=3)))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def test_an_outlier_channel_is_spread_so_that_rounding_costs_less():
    weight = normal(64, 128)
    weight[:, 7] *= 30
    turned_weight = rotate_reader(weight, random_rotation(128))

    def error(w):
        return float((round_to_nearest(w, 4).dequantize() - w).square().mean())

    assert error(turned_weight) < error(weight) / 3
