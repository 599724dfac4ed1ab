"""GPTQ checkpoints hold the grid bit for bit, are what gptqmodel reads, and broken ones are refused in one line."""

from __future__ import annotations

import re

import pytest
import torch
from grids import BITS, grids, random_grid, same
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.gptq_checkpoint import from_tensors, holds, shape_fault, to_tensors
from squeeze.formats.gptq_config import config_of, read_config
from squeeze.formats.grid_kind import GridKind


@settings(max_examples=80, deadline=None)
@given(grid=grids([16, 32, 64, None], [32, 96], lowest_zero=1), version=st.sampled_from([1, 2]))
def test_a_grid_comes_back_bit_for_bit(grid: QuantizedTensor, version: int) -> None:
    assume(holds(GridKind.of(grid), 2) is None)  # 48 inputs of 3 bits end within a word
    assert same(from_tensors(to_tensors(grid, version), grid.bits, grid.group_size, version), grid)


@settings(max_examples=20, deadline=None)
@given(grid=grids([32], [32], symmetric=False, lowest_zero=0))
def test_version_2_holds_the_lowest_zero_point_and_version_1_says_that_it_cannot(grid: QuantizedTensor) -> None:
    assert same(from_tensors(to_tensors(grid, 2), grid.bits, 32, 2), grid)
    grid.zero_point[0, 0] = -(2 ** (grid.bits - 1))
    with pytest.raises(ModelError, match="lowest integer cannot be stored less one; version: 2 would do"):
        to_tensors(grid, 1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("ordered", [False, True], ids=["in-order", "act-order"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_gptqmodel_reads_the_same_weight(bits: int, ordered: bool, symmetric: bool) -> None:
    """Its own packed linear, which multiplies in float16; both versions of the file."""
    pytest.importorskip("gptqmodel", reason="gptqmodel is not installed: pip install 'squeeze[gptq]'")
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    grid = random_grid(64, 96, bits, 32, symmetric, ordered, lowest_zero=1)
    for version in (1, 2):
        linear = TorchLinear(bits, 32, symmetric, ordered, 96, 64)
        linear.load_state_dict(to_tensors(grid, version), strict=False)
        if version == 1:
            convert_gptq_v1_to_v2_format_module(linear, bits, torch.int32)
        linear.post_init()
        assert torch.equal(linear.eval().dequantize_weight().T, grid.dequantize().half())


KIND = GridKind(64, 128, 4, 32, True)
UNHELD = {
    "asymmetric in version 1": (GridKind(64, 128, 4, 32, False), 1, "version: 2 would do"),
    "odd group": (GridKind(64, 129, 4, 43, True), 2, "know no group_size 43; 16, 32, .* or null would do"),
    "inputs": (GridKind(64, 172, 4, None, True), 2, "172 inputs of 4 bits do not fill whole 32-bit words"),
    "outputs": (GridKind(30, 128, 4, 32, True), 2, "30 outputs of 4 bits do not fill whole 32-bit words"),
}


@pytest.mark.parametrize(("kind", "version", "line"), list(UNHELD.values()), ids=list(UNHELD))
def test_what_a_checkpoint_cannot_hold_is_said(kind: GridKind, version: int, line: str) -> None:
    assert holds(KIND, version) is None
    assert re.search(line, holds(kind, version) or "")


def test_broken_tensors_are_refused_in_one_line() -> None:
    good = to_tensors(random_grid(32, 64, 4, 32, True), 2)
    broken = {
        "no qzeros of two dimensions is stored": {"qzeros": None},
        r"qzeros is \[2, 4\], and \[1, 4\] belongs to qweight \[4, 32\]": {"qweight": good["qweight"][:4]},
        r"g_idx is \[63\], and \[64\] belongs": {"g_idx": good["g_idx"][:63]},
        "g_idx names groups 0 to 2, and there are groups 0 to 1": {"g_idx": good["g_idx"] * 2},
        "scales holds torch.float32 numbers that are not exact": {"scales": good["scales"].float() + 1e-6},
        "scales holds numbers that are not finite": {"scales": good["scales"] * torch.nan},
        r"qweight is torch\.float32; torch\.int32 would do": {"qweight": good["qweight"].float()},
        r"qzeros is torch\.int16; torch\.int32 would do": {"qzeros": good["qzeros"].short()},
        r"scales is torch\.int32; a float type would do": {"scales": good["scales"].int()},
    }
    for line, change in broken.items():
        parts = {name: value for name, value in (good | change).items() if value is not None}
        with pytest.raises(ModelError, match=line):
            from_tensors(parts, 4, 32, 2)
    with pytest.raises(ModelError, match="group_size 48 does not divide 64 input channels"):
        from_tensors(good, 4, 48, 2)
    full = good | {"qzeros": torch.full_like(good["qzeros"], -1)}
    with pytest.raises(ModelError, match="qzeros holds 15 less one, a zero point that version 1 cannot store"):
        from_tensors(full, 4, 32, 1)


def test_configs_of_every_age_are_understood() -> None:
    """auto-gptq's said no format, or marlin or not; gptqmodel's names it, and modules that differ."""
    old = {"bits": 4, "group_size": -1, "desc_act": False, "damp_percent": 0.01, "is_marlin_format": False}
    assert (read_config(old).version, read_config(old).group_size) == (1, None)
    assert read_config(old | {"model_file_base_name": "gptq_model-4bit"}).base_name == "gptq_model-4bit"
    kinds = {"a.b": KIND, "a.c": KIND, "a.d": GridKind(64, 128, 8, None, True)}
    written = config_of(kinds, ["a.e"], 2, "squeeze:0")
    again = read_config(written)
    assert (again.version, again.of("a.b"), again.of("a.d"), again.of("a.dd")) == (2, (4, 32), (8, None), (4, 32))
    assert written["dynamic"] == {r"-:^a\.e$": {}, r"+:^a\.d$": {"bits": 8, "group_size": -1, "sym": True}}


UNKNOWN = {
    "checkpoint_format 'marlin' cannot be read; gptq and gptq_v2 can": {"is_marlin_format": True},
    "checkpoint_format 'awq' cannot be read": {"checkpoint_format": "awq"},
    "bits 5 cannot be read; 2, 3, 4 and 8 can": {"bits": 5},
    "group_size 'many' is no number of input channels": {"group_size": "many"},
    r"dynamic '\+:x': {'bits': 7} cannot be read": {"dynamic": {"+:x": {"bits": 7}}},
    r"dynamic '\+:x': group_size 'a' is no number": {"dynamic": {"+:x": {"group_size": "a"}}},
    r"dynamic: '\(' is no pattern": {"dynamic": {"+:(": {}}},
    "dynamic is no mapping": {"dynamic": ["x"]},
    "bits 4.0 cannot be read": {"bits": 4.0},
    "group_size True is no number": {"group_size": True},
    "group_size -5 is no number": {"group_size": -5},
    "is no pattern that can be matched in linear time": {"dynamic": {r"+:(a+)\1": {}}},
}


@pytest.mark.parametrize(("line", "change"), list(UNKNOWN.items()), ids=list(UNKNOWN))
def test_an_unknown_config_is_refused_in_one_line(line: str, change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=line):
        read_config({"bits": 4, "group_size": 32} | change)


def test_a_linear_without_weights_is_no_division_by_zero() -> None:
    shapes = {"qweight": (0, 8), "qzeros": (0, 1), "scales": (0, 8)}
    assert "holds no weights" in str(shape_fault(shapes, 4, None))
