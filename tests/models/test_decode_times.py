"""A decoder's time for one token by the sizes of its blocks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from families import write_family
from language_world import write_folder

from squeeze.measure.decode import (
    BlockSize,
    BytesRead,
    DecodeTable,
    block_sizes,
    cheapest_block,
    head_size,
    token_cost,
)
from squeeze.measure.decode_blocks import measure_block, measure_head
from squeeze.models.language.language_model import LanguageModel

SMALL = BlockSize(((64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96)), (4, 2, 16))


def test_a_block_s_products_and_heads_are_read_from_the_model(tmp_path: Path) -> None:
    skeleton = LanguageModel(write_folder(tmp_path)).skeleton
    assert block_sizes(skeleton) == Counter({SMALL: 2})
    assert head_size(skeleton) == (128, 64)


def test_experts_count_as_often_as_a_token_is_sent_to_some(tmp_path: Path) -> None:
    skeleton = LanguageModel(write_family("mixtral", tmp_path)).skeleton
    used = skeleton.config.num_experts_per_tok
    (size,) = block_sizes(skeleton)
    hidden, inner = skeleton.config.hidden_size, skeleton.config.intermediate_size
    assert size.products.count((hidden, inner)) == used < skeleton.config.num_local_experts


def test_a_wider_block_takes_longer_and_reads_more() -> None:
    wide = BlockSize(((2048, 2048), (8192, 2048), (2048, 8192)), (32, 8, 64))
    narrow = BlockSize(((2048, 2048), (1024, 2048), (2048, 1024)), (32, 8, 64))
    assert measure_block(wide, 3) > 1.5 * measure_block(narrow, 3)
    assert wide.nbytes > 2 * narrow.nbytes


def test_a_product_whose_inputs_fill_no_whole_group_is_timed_too() -> None:
    """Not too small: a few microseconds more are lost in a host's own noise."""
    assert measure_block(BlockSize(((984, 808), (808, 984)), None), 4) > 0
    assert measure_head((4000, 808)) > 0


def test_what_is_known_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skeleton = LanguageModel(write_folder(tmp_path)).skeleton
    table = DecodeTable()
    first = token_cost(skeleton, table)
    assert first == pytest.approx(2 * cheapest_block(skeleton, table) + table.head((128, 64)))

    def never(*_: object) -> float:
        raise AssertionError("it was measured before")

    monkeypatch.setattr("squeeze.measure.decode_blocks.measure_block", never)
    monkeypatch.setattr("squeeze.measure.decode_blocks.measure_head", never)
    assert token_cost(skeleton, DecodeTable(table.seconds)) == first


def test_bytes_stand_in_for_times_that_were_not_measured(tmp_path: Path) -> None:
    skeleton = LanguageModel(write_folder(tmp_path)).skeleton
    costs = BytesRead()
    assert token_cost(skeleton, costs) == 2 * SMALL.nbytes + costs.head((128, 64))
