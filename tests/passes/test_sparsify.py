"""Zeros in the weights of decoders and of networks in memory: as many as the goal says, and no claim about speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from grid_world import context as images
from grid_world import logits as image_logits
from grid_world import torch_model
from language_world import context, in_shards, logits, write_folder
from tiny import PLAN, Killed, faults, write_plan, write_world

from squeeze.errors import DataError, ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.torch_model import TorchModel
from squeeze.passes.prune.sparse_walks import channels_first, channels_last
from squeeze.passes.prune.sparsify import Sparsify
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.rtn import Rtn
from squeeze.store import Journal

PASS = '  - pass: "tiny:Scale"\n    factor: 2.0\n'
METHODS: list[Any] = ["sparsegpt", "wanda", "magnitude"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("dense"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("goal", [{"ratio": 0.5}, {"pattern": "2:4"}], ids=["half", "2:4"])
def test_a_decoder_reaches_the_goal_and_its_row_says_that_a_cpu_gains_nothing(
    folder: Path, method: Any, goal: dict[str, Any]
) -> None:
    dense, pass_ = LanguageModel(folder), Sparsify(method=method, **goal)
    sparse = in_shards(pass_.run(dense, run_context := context()))
    values = [sparse.value(name) for name in dense.matrices()]
    for value in values:
        assert int((value == 0).sum()) == value.numel() // 2
        if "pattern" in goal:
            assert ((value == 0).reshape(-1, 4).sum(1) == 2).all()
    assert run_context.facts["sparsity"]["share"] == 0.5
    assert run_context.facts["gain_in_a_runtime"].startswith("none on a CPU: files and times are the dense ones")
    assert pass_.check_effect(dense, sparse, run_context.facts) == []
    assert sparse.nbytes() >= dense.nbytes()  # zeros are stored like any number; the headers of shards differ


def test_weights_that_stayed_dense_fail_the_run_by_name(folder: Path) -> None:
    dense = LanguageModel(folder)
    broken = Sparsify(ratio=0.5).check_effect(dense, dense, {})
    assert broken[0].startswith("left model.layers.0.self_attn.q_proj.weight with 0 zeros of ")
    assert broken[0].endswith(" weights; the goal is ratio 0.5")


def test_sparsegpt_is_nearer_to_the_dense_decoder_than_wanda(folder: Path) -> None:
    dense = logits(LanguageModel(folder))
    distances = [
        float((logits(in_shards(Sparsify(method=m, ratio=0.5).run(LanguageModel(folder), context()))) - dense).norm())
        for m in METHODS[:2]
    ]
    assert distances[0] < distances[1] < float(dense.norm())


def test_convolutions_of_a_network_in_memory_are_sparse_along_input_channels(tmp_path: Path) -> None:
    pass_ = Sparsify(pattern="2:4", include=("grouped", "fc"))
    sparse = pass_.run(torch_model(), run_context := images())
    weight = sparse.module.get_parameter("grouped.weight")  # [16, 8, 3, 3]: 8 channels of each of two groups
    assert ((weight == 0).unflatten(1, (2, 4)).sum(2) == 2).all()
    assert pass_.check_effect(torch_model(), sparse, run_context.facts) == []
    sparse.save(tmp_path)
    assert torch.equal(image_logits(TorchModel.load(tmp_path)), image_logits(sparse))


def test_correcting_the_remaining_weights_helps_a_network_in_memory() -> None:
    dense = image_logits(torch_model())
    distances = [
        float((image_logits(Sparsify(method=m, ratio=0.5).run(torch_model(), images())) - dense).norm())
        for m in METHODS[::2]
    ]
    assert distances[0] < distances[1]


def test_the_channels_of_a_kernel_place_are_adjacent_and_the_inverse_restores_them() -> None:
    weight = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert channels_last(weight)[0, :3].tolist() == weight[0, :, 0, 0].tolist()
    assert torch.equal(channels_first(channels_last(weight), weight), weight)


@pytest.mark.parametrize("kind", ["decoder", "in memory"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, folder: Path, kind: str) -> None:
    world: Any = (lambda: LanguageModel(folder), context) if kind == "decoder" else (torch_model, images)
    open_, lend = world
    whole = Sparsify(ratio=0.5).run(open_(), expected := lend())
    run_context = lend()
    run_context.journal, run_context.progress = Journal(tmp_path), Killed(1)
    with pytest.raises(KeyboardInterrupt):
        Sparsify(ratio=0.5).run(open_(), run_context)
    again = lend()
    again.journal = Journal(tmp_path)
    resumed = Sparsify(ratio=0.5).run(open_(), again)
    assert all(torch.equal(resumed.value(name), whole.value(name)) for name in whole.matrices())
    assert again.facts == expected.facts


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("ratio: 0", "greater than 0"),
        ("ratio: 1", "less than 1"),
        ("ratio: 1.5", "less than 1"),
        ("method: wanda", 'name one of ratio and pattern: ratio: 0.5, or pattern: "2:4"'),
        ('pattern: "3:4"', "2:4"),
        ('pattern: "2:4"', "pattern 2:4 does not divide the 3 input channels of 0; exclude them, or ratio: 0.5"),
        ('ratio: 0.5\n    include: "9"', 'include "9" matches no layer'),
        ('ratio: 0.5\n    exclude: "*"', "include and exclude together leave no weight; a wider include would do"),
        ("ratio: 0.5\n    method: wanda\n    damping: 0.1", "damping goes with method: sparsegpt; method is wanda"),
    ],
)
def test_options_that_do_not_fit_are_one_line_of_the_plan(tmp_path: Path, options: str, line: str) -> None:
    lines = faults(write_plan(write_world(tmp_path), PLAN, (PASS, f"  - pass: sparsify\n    {options}\n")))
    assert len(lines) == 1
    assert line in lines[0]


def test_magnitude_needs_no_data_and_the_others_do(tmp_path: Path) -> None:
    bare = (PASS, "  - pass: sparsify\n    ratio: 0.5\n"), ("  calibrate: {npz: calibrate.npz}\n", "")
    (line,) = faults(write_plan(write_world(tmp_path), PLAN, *bare))
    assert "sparsify needs data.calibrate, which the plan does not name" in line
    assert not faults(write_plan(tmp_path, PLAN, (PASS, bare[0][1] + "    method: magnitude\n"), bare[1]))
    with pytest.raises(DataError, match="sparsify: noise: no calibration examples"):
        Sparsify(ratio=0.5).run(torch_model(), images(0))


def test_after_a_quantizer_it_is_refused_and_a_quantizer_may_follow(tmp_path: Path, folder: Path) -> None:
    plan = "  - pass: gptq\n    group_size: null\n  - pass: sparsify\n    ratio: 0.5\n"
    (line,) = faults(write_plan(write_world(tmp_path), PLAN, (PASS, plan)))
    assert line == "9: sparsify must come before gptq (line 7), which leaves the weights quantized"
    quantized = Gptq(bits=8, group_size=None).run(torch_model(), images(24))
    with pytest.raises(ModelError, match="4 weights are quantized already; sparsify before that"):
        Sparsify(ratio=0.5).run(quantized, images(24))
    sparse = Sparsify(ratio=0.5, method="magnitude").run(LanguageModel(folder), context())
    rounded = Rtn(group_size=32).run(sparse, context())  # zero is on a symmetric grid
    assert all(bool((rounded.value(name)[sparse.value(name) == 0] == 0).all()) for name in sparse.matrices())


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = torch_model()
    with torch.no_grad():
        broken.module.get_parameter("fc.weight")[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"fc\.weight holds values that are not finite; weights cannot be ranked"):
        Sparsify(ratio=0.5, method="magnitude").run(broken, images())
