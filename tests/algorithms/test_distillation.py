"""Distillation losses: zero for equal models, gradients that keep their size."""

import pytest
import torch
from torch.nn.functional import kl_div

from squeeze.algorithms.distillation import distillation_loss, feature_loss, soft_target_loss, total_feature_loss

LOGITS = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHER = torch.randn(4, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_that_says_what_the_teacher_says_has_no_loss(temperature):
    assert soft_target_loss(LOGITS, LOGITS, temperature).item() == pytest.approx(0, abs=1e-12)
    assert soft_target_loss(OTHER, LOGITS, temperature).item() > 0


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_rows_worked_out_in_parts_have_the_loss_and_the_gradient_of_the_whole(monkeypatch, rows, temperature):
    monkeypatch.setattr("squeeze.algorithms.distillation.TILE_VALUES", rows * LOGITS.shape[1])
    student, whole = (OTHER.clone().requires_grad_() for _ in range(2))
    loss = soft_target_loss(student, LOGITS, temperature)
    log_p, log_q = ((logits / temperature).log_softmax(1) for logits in (whole, LOGITS))
    expected = kl_div(log_p, log_q, log_target=True, reduction="batchmean") * temperature**2
    torch.testing.assert_close(loss, expected)
    slopes = [torch.autograd.grad(0.3 * value, of)[0] for value, of in ((loss, student), (expected, whole))]
    torch.testing.assert_close(*slopes)


def test_t_squared_keeps_the_gradient_s_size_when_the_temperature_rises():
    def gradient(temperature: float) -> float:
        student = OTHER.clone().requires_grad_()
        (slope,) = torch.autograd.grad(soft_target_loss(student, LOGITS, temperature), student)
        return slope.norm().item()

    assert gradient(100.0) == pytest.approx(gradient(50.0), rel=0.05)


def test_hot_soft_targets_compare_centred_logits():
    """At high T the loss becomes the squared distance of the centred logits over 2 classes: Hinton et al., eq. 4."""
    centred = (OTHER - OTHER.mean(1, keepdim=True)) - (LOGITS - LOGITS.mean(1, keepdim=True))
    expected = centred.square().sum(1).mean() / (2 * 10)
    assert soft_target_loss(OTHER, LOGITS, 1000.0).item() == pytest.approx(expected.item(), rel=1e-2)


def test_alpha_weighs_teacher_against_labels():
    labels = torch.tensor([0, 1, 2, 3])
    teacher_only = distillation_loss(OTHER, LOGITS, None, 2.0, 1.0)
    labels_only = distillation_loss(OTHER, LOGITS, labels, 2.0, 0.0)
    half = distillation_loss(OTHER, LOGITS, labels, 2.0, 0.5)
    assert half.item() == pytest.approx((teacher_only + labels_only).item() / 2)


def test_feature_loss_does_not_depend_on_the_size_of_the_features():
    student, teacher = torch.ones(2, 3), torch.full((2, 3), 2.0)
    assert feature_loss(10 * student, 10 * teacher) == feature_loss(student, teacher)
    assert feature_loss(torch.zeros(2, 3), teacher) == 1
    assert total_feature_loss([(student, student), (torch.zeros(2, 3), teacher)]) == 1
