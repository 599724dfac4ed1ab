"""Features of another width are compared through the linear map that takes one nearest to the other."""

from __future__ import annotations

import pytest
import torch

from squeeze.algorithms.distillation import feature_loss
from squeeze.errors import SqueezeError
from squeeze.training.projection import Projection, differing_axis, rows


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def test_features_that_hold_all_of_the_teachers_cost_nothing() -> None:
    matrix, projection = torch.linspace(-1, 1, 12 * 20).view(12, 20) + torch.eye(12, 20), Projection(12, 20)
    for seed in range(5):
        X = features(64, seed)
        projection.add(X, X @ matrix)
    assert float(feature_loss(projection.of(X), X @ matrix)) < 1e-4
    assert float(feature_loss(X @ matrix * 0, X @ matrix)) == pytest.approx(1)


def test_the_map_is_of_the_last_batches() -> None:
    projection = Projection(12, 12)
    for seed in range(200):
        projection.add(features(64, seed), features(64, seed) * (1 if seed < 100 else -1))
    X = features(64, 0)
    torch.testing.assert_close(projection.of(X), -X, atol=0.01, rtol=0.01)


def test_a_student_is_drawn_towards_what_the_map_cannot_make_up_for() -> None:
    """The gradient at the best map is that of the loss with the map refitted, which finite differences show."""
    X = features(200, 0).double()
    Y = torch.tanh(X @ torch.ones(12, 3, dtype=X.dtype))

    def loss(student: torch.Tensor) -> torch.Tensor:
        projection = Projection(12, 3)
        projection.gram, projection.cross = projection.gram.double(), projection.cross.double()
        projection.add(student.detach(), Y)
        return feature_loss(projection.of(student), Y)

    step = torch.zeros_like(X)
    step[3, 5] = 1e-4
    slope = float(loss(X + step) - loss(X - step)) / 2e-4
    (gradient,) = torch.autograd.grad(loss(X.requires_grad_()), X)
    assert float(gradient[3, 5]) == pytest.approx(slope, rel=0.02)


def test_a_process_that_sees_its_rows_in_parts_is_refused() -> None:
    class InParts:
        at_once = False

    with pytest.raises(SqueezeError, match="a smaller batch_size, shorter sequences or one process would do"):
        Projection(12, 3).add(features(8, 0), features(8, 0)[:, :3], InParts())


@pytest.mark.parametrize(("teacher", "axis"), [((2, 16, 5, 5), 1), ((2, 8, 5, 5), None), ((2, 8, 5, 7), 3)])
def test_the_axis_in_which_shapes_differ(teacher: tuple[int, ...], axis: int | None) -> None:
    assert differing_axis((2, 8, 5, 5), teacher) == axis


@pytest.mark.parametrize("teacher", [(2, 8, 5), (2, 16, 5, 4)])
def test_shapes_that_differ_otherwise(teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):  # nothing to say: who calls knows the layer
        differing_axis((2, 8, 5, 5), teacher)


def test_rows_of_pixels_and_of_tokens() -> None:
    assert rows(torch.zeros(2, 8, 5, 4), 1).shape == (40, 8)
    assert rows(torch.zeros(2, 7, 8), 2).shape == (14, 8)
