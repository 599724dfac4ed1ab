"""Packed tensors hold the grid bit for bit, are what compressed-tensors' own code reads and writes, and are checked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from grids import grids, random_grid, same
from hypothesis import given, settings

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.compressed_tensors import from_tensors, holds, to_tensors
from squeeze.formats.compressed_tensors_config import config_of, read_config
from squeeze.formats.grid_kind import GridKind


@settings(max_examples=80, deadline=None)
@given(grid=grids([4, 32, 43, None], [1, 7, 64], ordered=False))
def test_a_grid_comes_back_bit_for_bit(grid: QuantizedTensor) -> None:
    assert same(from_tensors(to_tensors(grid), grid.bits, grid.group_size), grid)


@settings(max_examples=40, deadline=None)
@given(grid=grids([4, 32, 43, None], [1, 7, 64], ordered=False))
def test_its_own_reader_gives_the_same_weight(grid: QuantizedTensor) -> None:
    reader: Any = pytest.importorskip("compressed_tensors.compressors.pack_quantized")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    written = config_of({"a": GridKind.of(grid)}, [])["config_groups"]["group_0"]
    scheme = quantization.QuantizationScheme(**written)
    read = reader.PackedQuantizationCompressor.decompress(to_tensors(grid), scheme)["weight"]
    assert torch.equal(read, grid.dequantize().half())


def test_groups_in_act_order_are_refused_and_read() -> None:
    grid = random_grid(8, 64, 4, 32, True, ordered=True)
    assert "act_order: false or a GPTQ checkpoint" in (holds(GridKind.of(grid)) or "")
    assert grid.g_idx is not None
    assert same(from_tensors(to_tensors(grid) | {"weight_g_idx": grid.g_idx}, 4, 32), grid)


def test_broken_tensors_are_refused_in_one_line() -> None:
    good = to_tensors(random_grid(8, 64, 4, 32, False))
    packed = good["weight_packed"][:, 1:]
    broken = {
        r"weight_packed is \[8, 7\], and \[8, 8\] belongs to a weight \[8, 64\] of 4 bits": {"weight_packed": packed},
        r"weight_scale is \[8, 1\], and \[8, 2\]": {"weight_scale": good["weight_scale"][:, :1]},
        r"weight_zero_point is \[1, 1\]": {"weight_zero_point": good["weight_zero_point"][:, :1]},
        "no weight_packed is stored": {"weight_packed": None},
        "g_idx names groups 5 to 5": {"weight_g_idx": torch.full((64,), 5)},
    }
    for line, change in broken.items():
        parts = {name: value for name, value in (good | change).items() if value is not None}
        with pytest.raises(ModelError, match=line):
            from_tensors(parts, 4, 32)
    with pytest.raises(ModelError, match="group_size 48 does not divide 64 input channels"):
        from_tensors(good, 4, 48)


def test_modules_that_differ_are_grouped_by_pattern_and_found_again() -> None:
    four, eight = GridKind(8, 64, 4, 32, True), GridKind(8, 64, 8, None, True)
    kinds = {f"m.layers.{i}.{name}": four for i in range(2) for name in ("q", "k")}
    kinds |= {f"m.layers.{i}.down": eight for i in range(2)} | {"m.layers.1.k": eight}
    written = config_of(kinds, ["head"])
    targets = [group["targets"] for group in written["config_groups"].values()]
    assert targets == [[r"re:^m\.layers\.\d+\.q$", "m.layers.0.k"], ["m.layers.1.k", r"re:^m\.layers\.\d+\.down$"]]
    again = read_config(written)
    assert [again.of(name) for name in ("m.layers.1.q", "m.layers.0.k", "m.layers.1.k")] == [
        (4, 32),
        (4, 32),
        (8, None),
    ]
    assert config_of({"a": four}, ["head"])["config_groups"]["group_0"]["targets"] == ["Linear"]
    with pytest.raises(ModelError, match="no group of quantization_config names other"):
        again.of("other")


WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
UNKNOWN: dict[str, dict[str, Any]] = {
    "has no config_groups": {},
    "format 'nvfp4-pack-quantized' cannot be read; pack-quantized can": {"format": "nvfp4-pack-quantized"},
    "group_0: targets 3 is no list of names and patterns": {"targets": 3},
    r"group_0: targets: '\(' is no pattern": {"targets": ["re:("]},
    "group_0: weights of float4 cannot be read": {"weights": WEIGHTS | {"type": "float"}},
    "group_0: weights by block, or with activations, cannot be read": {"weights": WEIGHTS | {"strategy": "block"}},
}


@pytest.mark.parametrize(("line", "change"), list(UNKNOWN.items()), ids=list(UNKNOWN))
def test_an_unknown_config_is_refused_in_one_line(line: str, change: dict[str, Any]) -> None:
    group = {"targets": ["Linear"], "weights": WEIGHTS, "format": "pack-quantized"} | change
    with pytest.raises(ModelError, match=line):
        read_config({"config_groups": {"group_0": group} if change else {}})
