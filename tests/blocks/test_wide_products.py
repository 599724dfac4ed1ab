"""Half-precision products in float32: the same numbers, whatever the shapes, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from squeeze.blocks import wide_products as wide
from squeeze.blocks.watch import InputWatch, Weight

HALVES = [torch.bfloat16, torch.float16]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a CPU without units; gives the shapes of what is computed in float32."""
    shapes: list[tuple[int, ...]] = []
    real = wide.wide_product

    def noted(factor: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        shapes.append((*factor.shape, right.shape[1]))
        return real(factor, right, bias)

    monkeypatch.setattr(wide, "multiplies", lambda _: False)
    monkeypatch.setattr(wide, "wide_product", noted)
    monkeypatch.setattr(wide, "ROWS_VALUES", 3 * 24)  # parts of three rows, the last one shorter
    return shapes


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("lead", [(70,), (2, 40)], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_layer_gives_the_product_of_wide_factors_rounded_once(computed, dtype, lead, bias):
    layer = nn.Linear(24, 10, bias=bias, dtype=dtype)
    X = normal(*lead, 24, dtype=dtype)
    with torch.no_grad(), wide.wide_products(dtype):
        output = layer(X)
    exact = X.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    assert computed == [(X.numel() // 24, 24, 10)]
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(("tokens", "dtype"), [(5, torch.bfloat16), (80, torch.float32)], ids=["few tokens", "wide"])
def test_what_is_fast_already_goes_the_usual_way(computed, tokens, dtype):
    with torch.no_grad(), wide.wide_products(dtype):
        nn.Linear(24, 10, dtype=dtype)(normal(tokens, 24, dtype=dtype))
    with torch.no_grad():
        nn.Linear(24, 10, dtype=torch.bfloat16)(normal(80, 24))  # outside
    assert not computed


def test_a_cpu_that_multiplies_bf16_keeps_to_it(computed, monkeypatch):
    monkeypatch.setattr(wide, "multiplies", lambda dtype: dtype == torch.bfloat16)
    with torch.no_grad(), wide.wide_products(torch.bfloat16):
        nn.Linear(24, 10, dtype=torch.bfloat16)(normal(80, 24))
    assert not computed


def test_who_watches_a_block_sees_its_own_weights(computed):
    block = nn.Sequential(nn.Linear(24, 10, bias=False, dtype=torch.bfloat16))
    calls: list[tuple[int, ...]] = []
    watch = InputWatch(block, [Weight("0.weight")], lambda _, X: calls.append(tuple(X.shape)))
    with torch.no_grad(), watch, wide.wide_products(torch.bfloat16):
        block(normal(80, 24))
    assert calls == [(80, 24)]
    assert computed == [(80, 24, 10)]


def test_a_weight_laid_out_once_per_text_is_widened_once(computed):
    """torch does so where only the last token of each text meets the head; as float32 that was gigabytes."""
    head, last = nn.Linear(24, 10, bias=False, dtype=torch.bfloat16), normal(7, 3, 24, dtype=torch.float32)[:, -1:]
    with torch.no_grad(), wide.wide_products(torch.bfloat16, mixed=True):
        output = head(last)
        texts = torch.bmm(last, head.weight.t().expand(7, 24, 10))
    assert computed == [(7, 24, 10)] * 2
    torch.testing.assert_close(output, last @ head.weight.float().T)
    assert torch.equal(texts, output)
