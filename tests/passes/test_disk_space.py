"""Hessians and factors on disk: the same results, part by part, and no more of them in memory than a part."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from language_world import write_folder
from test_gptq_target import context

from squeeze.algorithms.drift import Drift, moved
from squeeze.algorithms.factor import factorize
from squeeze.algorithms.gptq import solve
from squeeze.algorithms.hessian import Hessian, hessian_loss
from squeeze.algorithms.quantease import quantease
from squeeze.algorithms.space import MEMORY, Space
from squeeze.blocks import mapped
from squeeze.blocks.mapped import DiskSpace
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.gptq_parts import on_disk, part_values, square_bytes

CHANNELS = 160


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "PART", 48)  # the last part is shorter


X = normal(600, CHANNELS, seed=1) @ normal(CHANNELS, CHANNELS, seed=2) / CHANNELS**0.5


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("order", ["given", "group_aware", "act_order"])
@pytest.mark.parametrize("rows", [24, 200], ids=["fewer rows than columns", "more"])
def test_what_is_worked_out_part_by_part_is_the_same(tmp_path: Path, order: str, rows: int) -> None:
    W = normal(rows, CHANNELS)
    results = []
    for space in (MEMORY, DiskSpace(tmp_path)):
        H, drift = gathered(W, space)
        factor = factorize(H, 0.01, order, 16, space)  # type: ignore[arg-type]
        target = moved(W, drift.pull(), factor)
        solved = solve(target, factor, 4, 16, clip="mse")
        refined = quantease(target, solved.grid(), H, 2, factor.added, space=space)
        losses = hessian_loss(refined.grid.dequantize() - target, H, space)
        results.append((H.clone(), factor.lower.tril(), target, losses.sum()))
    *exact, total = zip(*results, strict=True)
    for one, other in exact:
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)
    assert float(total[1]) == pytest.approx(float(total[0]), rel=0.03)  # one integer that ties moves those behind it


def gathered(W: torch.Tensor, space: Space) -> tuple[torch.Tensor, Drift]:
    hessian, drift = Hessian(CHANNELS, space), Drift([W[:10], W[10:]], space=space)
    for part in (X[:250], X[250:]):
        hessian.add(part)
        drift.add(1.1 * part + 0.1, part)
    return hessian.matrix(), drift


def test_a_file_is_gone_with_its_tensor_and_has_no_name_before(tmp_path: Path) -> None:
    space = DiskSpace(tmp_path)
    one = space.zeros(8, 8)
    one[3] = 2.0
    other = space.zeros(8, 8)
    space.release()
    assert not list(tmp_path.iterdir())
    assert one.sum() == 16
    assert not other.any()
    del one
    space.release()  # of the other alone
    assert len(space.zeros(2, 3)) == 2


def test_what_was_released_is_not_in_memory(tmp_path: Path) -> None:
    space, before = DiskSpace(tmp_path), resident_megabytes()
    matrix = space.zeros(4096, 4096)
    matrix.fill_(1.0)
    assert resident_megabytes() > before + 50
    space.release()
    assert resident_megabytes() < before + 20
    assert float(matrix[4000, 17]) == 1.0


def resident_megabytes() -> float:
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1000


@pytest.mark.usefixtures("small_parts")
def test_gptq_gives_the_same_model_where_its_hessians_lie_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(write_folder(tmp_path, hidden_size=64, intermediate_size=192))
    written: list[tuple[int, int]] = []
    losses = []
    zeros = DiskSpace.zeros

    def noted(space: DiskSpace, rows: int, columns: int) -> torch.Tensor:
        written.append((rows, columns))
        return zeros(space, rows, columns)

    monkeypatch.setattr(DiskSpace, "zeros", noted)
    for limit in (None, 1 << 16):  # of which no Hessian may take more than a sixteenth
        lent = context(memory_bytes=limit)
        Gptq(bits=4, group_size=16).run(model, lent)
        losses.append(sum(layer["loss"] for layer in lent.facts["layers"].values()))
        assert bool(written) == (limit is not None)
    assert on_disk(64, 1 << 16)
    assert {(64, 64), (192, 192)} <= set(written)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_small_plan_is_told_to_take_little(tmp_path: Path) -> None:
    """Widths of an 8B model: the Hessian of its widest weights takes 822 MB."""
    widest = 14336
    assert on_disk(widest, None)
    assert not on_disk(4096, None)
    assert not on_disk(4096, 2 * 10**9)
    assert square_bytes(widest, None) == square_bytes(widest, 2 * 10**9) < 0.1 * 4 * widest**2
    assert square_bytes(4096, None) == 4 * 4096**2
    assert 36 * part_values(2 * 10**9) <= 2 * 10**9 / 16 < 36 * part_values(None)
    sizes = {"hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 1}
    model = LanguageModel(write_folder(tmp_path, **sizes))
    unbound, bound = (Gptq().memory_bytes(model, 4096, limit) for limit in (None, 10**8))
    assert unbound is not None
    assert bound is not None
    assert bound < unbound
