"""Ascending numbers in as few bytes as their differences need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze.algorithms.gaps import most_packed_bytes, pack_ascending, unpack_ascending


@given(st.lists(st.lists(st.integers(0, 262_143), max_size=20).map(sorted), max_size=6))
def test_what_is_packed_is_unpacked(lists: list[list[int]]) -> None:
    numbers, lengths = (
        np.array([n for each in lists for n in each], dtype=np.int64),
        np.array([len(each) for each in lists], dtype=np.int64),
    )
    packed = pack_ascending(numbers, lengths)
    assert packed.dtype == np.uint8
    assert unpack_ascending(packed, lengths).tolist() == numbers.tolist()


@given(st.lists(st.integers(0, 262_143), min_size=1, max_size=40).map(sorted))
def test_a_list_takes_no_more_than_its_range_allows(numbers: list[int]) -> None:
    packed = pack_ascending(np.array(numbers), np.array([len(numbers)]))
    assert len(numbers) <= len(packed) <= most_packed_bytes(len(numbers), 262_144)


@pytest.mark.parametrize(("number", "size"), [(127, 1), (128, 2), (16_383, 2), (16_384, 3), (262_143, 3)])
def test_seven_bits_of_a_gap_go_into_each_byte(number: int, size: int) -> None:
    assert len(pack_ascending(np.array([number]), np.array([1]))) == size
    assert len(pack_ascending(np.array([number, number + 1]), np.array([2]))) == size + 1


def test_numbers_that_do_not_ascend_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="ascend"):
        pack_ascending(np.array([5, 3]), np.array([2]))
