"""gptq with activations: int8: Hessians and drifts are of inputs as kernels will round them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import context, write_folder
from torch import Tensor, nn

from squeeze.algorithms.affine import by_token
from squeeze.algorithms.drift import Drift
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.gptq import Gptq

TOKENS = np.random.default_rng(5).integers(0, 128, (96, 24))


def coarse(x: Tensor) -> Tensor:
    """Eight steps a token, so that what kernels round away is more than what weights lose."""
    step = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-9) / 4
    return torch.round(x / step) * step


def test_each_token_has_a_scale_and_a_zero_point_of_its_own() -> None:
    x = torch.randn(50, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 50)[:, None]
    x[3] = x[3].abs()
    x[:, 0] = 0.0
    rounded = by_token(x)
    step = (x.amax(1).clamp_min(0) - x.amin(1).clamp_max(0)) / 255
    assert ((rounded - x).abs() <= 0.51 * step[:, None]).all()
    assert all(len(row.unique()) <= 256 for row in rounded)
    assert not rounded[:, 0].any(), "zero stays zero"
    assert not by_token(torch.zeros(2, 8)).any()


def logits(model: LanguageModel, rounded: bool) -> Tensor:
    """Of a stock model; its blocks' linears round what goes into them as kernels would."""
    whole: Any = model.whole()

    def round_input(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        return (coarse(x.flatten(0, -2)).reshape(x.shape),)

    for name, module in whole.named_modules():
        if rounded and isinstance(module, nn.Linear) and "layers." in name:
            module.register_forward_pre_hook(round_input)
    with torch.no_grad():
        found: Tensor = whole(input_ids=torch.from_numpy(TOKENS[64:]), use_cache=False).logits
    return found


def test_integers_fit_what_a_kernel_gives_for_the_inputs_that_it_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeeze.blocks.hessians.by_token", coarse)
    dense = LanguageModel(write_folder(tmp_path, hidden_size=64, intermediate_size=96, num_hidden_layers=1))
    expected, errors = logits(dense, rounded=False), {}
    for activations in ("float", "int8"):
        lent = context(TOKENS[:64])
        lent = Context(calibration_data=lent.calibration_data, original=lambda: LanguageModel(tmp_path))
        options = {"bits": 4, "group_size": 32, "correction": 1.0, "activations": activations}
        result = Gptq.model_validate(options).run(dense, lent)
        errors[activations] = float((logits(result, rounded=True) - expected).square().mean())
    assert errors["int8"] < 0.95 * errors["float"]


def test_the_drift_of_a_weight_is_the_same_by_its_inputs_and_by_the_stream_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first block both models have one stream, so that only the rounding of the inputs is left."""
    pulls: dict[bool, list[Tensor]] = {True: [], False: []}
    add, add_stream = Drift.add, Drift.add_stream
    seen: list[bool] = []

    def noted_add(drift: Drift, original: Tensor, quantized: Tensor) -> None:
        seen.append(False)
        add(drift, original, quantized)

    def noted_stream(drift: Drift, missing: Tensor, inputs: Tensor) -> None:
        seen.append(True)
        add_stream(drift, missing, inputs)

    monkeypatch.setattr(Drift, "add", noted_add)
    monkeypatch.setattr(Drift, "add_stream", noted_stream)
    monkeypatch.setattr("squeeze.blocks.hessians.by_token", coarse)
    dense = LanguageModel(write_folder(tmp_path, num_hidden_layers=1))
    for by_stream in pulls:
        if not by_stream:
            monkeypatch.setattr("squeeze.blocks.hessians._watched", lambda groups, _: {g[0]: None for g in groups})
        pull = Drift.pull
        monkeypatch.setattr(
            Drift, "pull", lambda self, *each, p=pull, to=pulls[by_stream]: (to.append(p(self, *each)), to[-1])[1]
        )
        lent = Context(calibration_data=context(TOKENS).calibration_data, original=lambda: LanguageModel(tmp_path))
        Gptq(bits=8, group_size=None, activations="int8", true_sequential=False).run(dense, lent)
        assert (True in seen) == by_stream
        seen.clear()
        monkeypatch.setattr(Drift, "pull", pull)
    for one, other in zip(pulls[True], pulls[False], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
