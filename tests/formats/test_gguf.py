"""GGUF's blocks stand for the same weights as the grid, by the gguf package's own reader; broken files are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from grids import grids, random_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError
from squeeze.formats.gguf_blocks import fits_two_bits, from_blocks, holds, narrowest, to_blocks
from squeeze.formats.gguf_file import Entry, PackageReader, write
from squeeze.formats.gguf_types import dequantize
from squeeze.formats.grid_kind import GridKind

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")


def as_read(grid: QuantizedTensor, name: str) -> torch.Tensor:
    """What the gguf package makes of the blocks."""
    kind = gguf.GGMLQuantizationType[name]
    return torch.from_numpy(gguf.quants.dequantize(to_blocks(grid, name).numpy(), kind))


@settings(max_examples=80, deadline=None)
@given(grid=grids([32, 64, 96, None], [1, 5, 32], ordered=False))
def test_the_package_reads_the_very_weights_of_the_grid(grid: QuantizedTensor) -> None:
    if holds(GridKind.of(grid)):
        assert grid.bits == 8
        assert not grid.symmetric
        return
    name = narrowest(grid)
    assert torch.equal(as_read(grid, name), grid.dequantize())
    if name != "Q4_1":
        assert torch.equal(from_blocks(to_blocks(grid, name), name).dequantize(), grid.dequantize())


@settings(max_examples=30, deadline=None)
@given(grid=grids([32], [4], ordered=False, bits=4, symmetric=False), shift=st.integers(-8, 4))
def test_q4_1_is_taken_where_its_least_weight_is_exact(grid: QuantizedTensor, shift: int) -> None:
    grid.scale.copy_(torch.tensor(2.0) ** shift)
    assert narrowest(grid) in ("Q4_0", "Q4_1")
    assert torch.equal(as_read(grid, "Q4_1"), grid.dequantize())


def test_each_width_takes_the_narrowest_type_that_is_exact() -> None:
    def name(bits: int, symmetric: bool) -> str:
        return narrowest(random_grid(16, 64, bits, 32, symmetric))

    assert [name(bits, True) for bits in (2, 3, 4, 8)] == ["Q4_0", "Q4_0", "Q4_0", "Q8_0"]
    assert [name(bits, False) for bits in (2, 3, 4)] == ["Q4_0", "Q4_0", "Q5_0"]


def test_q2_0_is_taken_where_it_is_asked_for_and_fits() -> None:
    def name(bits: int, size: int | None, symmetric: bool = True, columns: int = 128) -> str:
        return narrowest(random_grid(16, columns, bits, size, symmetric), two_bits=True)

    assert [name(2, 64), name(2, 128), name(2, None)] == ["Q2_0"] * 3
    assert [name(3, 64), name(2, 32), name(2, 64, symmetric=False), name(2, None, columns=96)] == ["Q4_0"] * 4


@settings(max_examples=30, deadline=None)
@given(grid=grids([64, 128, None], [1, 5, 32], ordered=False, bits=2, symmetric=True), sign=st.sampled_from([1, -1]))
def test_q2_0_holds_the_very_weights_of_a_grid_of_two_bits(grid: QuantizedTensor, sign: int) -> None:
    grid.scale.mul_(sign)
    if fits_two_bits(GridKind.of(grid)):
        blocks = to_blocks(grid, "Q2_0")
        assert blocks.numel() * 64 == grid.q.numel() * 18
        assert torch.equal(from_blocks(blocks, "Q2_0").dequantize(), grid.dequantize())
        assert torch.equal(torch.from_numpy(dequantize(blocks.numpy(), "Q2_0")), grid.dequantize())


UNHELD = {
    "act-order": (GridKind(8, 64, 4, 32, True, ordered=True), "GGUF knows no groups in act_order"),
    "odd inputs": (GridKind(8, 172, 4, None, True), "172 inputs do not fill GGUF's blocks of 32"),
    "small group": (GridKind(8, 64, 4, 16, True), "group_size 16 is no multiple of GGUF's blocks of 32; 32 would be"),
    "wide asymmetric": (GridKind(8, 64, 8, 32, False), "no asymmetric grid of 8 bits; symmetric: true would do"),
}


@pytest.mark.parametrize(("kind", "line"), list(UNHELD.values()), ids=list(UNHELD))
def test_what_gguf_cannot_hold_is_said(kind: GridKind, line: str) -> None:
    assert holds(GridKind(8, 64, 4, 64, True)) is None
    assert re.search(line, holds(kind) or "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two tensors: a quantized one and a float one."""
    grid = random_grid(4, 64, 4, 32, True)
    entries = [Entry("a.weight", (4, 64), "Q4_0"), Entry("b.weight", (3,), "F32")]
    path = tmp_path / "tiny.gguf"
    write(path, gguf.GGUFWriter(None, "llama"), entries, iter([to_blocks(grid, "Q4_0"), torch.arange(3.0)]))
    return path


def test_a_file_is_read_back_by_the_package(file: Path) -> None:
    reader = PackageReader(file)
    assert torch.equal(reader.dense("a.weight"), random_grid(4, 64, 4, 32, True).dequantize())
    assert torch.equal(reader.dense("b.weight"), torch.arange(3.0))
    with pytest.raises(ModelError, match=r"holds no tensor 'c\.weight'"):
        reader.dense("c.weight")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, where a length in a broken header overflows
def test_broken_files_are_refused_in_one_line(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    place = whole.index(b"a.weight") + 8 + 4 + 16  # behind the name, the number of sizes, two sizes
    broken = {
        "cut short": whole[:-40],
        "cut in the header": whole[:60],
        "empty": b"",
        "another magic": b"GGML" + whole[4:],
        "unknown type": whole[:place] + (99).to_bytes(4, "little") + whole[place + 4 :],
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name}\.gguf: not a whole \.gguf file \(.+\)$"):
            PackageReader(path)
    with pytest.raises(ModelError, match="no such file"):
        PackageReader(tmp_path / "absent.gguf")


def test_a_type_without_a_grid_is_named() -> None:
    with pytest.raises(ModelError, match=r"type Q4_1 is not read into the grid; Q2_0, Q4_0, Q5_0, Q8_0 are"):
        from_blocks(torch.zeros(1, 20, dtype=torch.uint8), "Q4_1")
