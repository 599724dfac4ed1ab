"""Other packages' quantizers fill our grid exactly, or the run fails by name.

The plumbing is tested with a process of our own; the packages themselves where they are installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from language_world import context, in_shards, write_folder, write_tokenizer
from torch import Tensor

from squeeze.algorithms.rtn import round_to_nearest
from squeeze.api import check, load
from squeeze.errors import EffectError, MissingExtra, SqueezeError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.quantize.backends.auto_round import AutoRound
from squeeze.passes.quantize.backends.backend import Backend, read_answer
from squeeze.passes.quantize.backends.gptqmodel import Gptqmodel
from squeeze.passes.quantize.backends.job import Answer
from squeeze.passes.quantize.backends.neural_compressor import NeuralCompressor
from squeeze.passes.quantize.backends.torchao import Torchao
from squeeze.passes.quantize.rtn import Rtn
from squeeze.passes.quantize.scheme import Override, Scheme
from squeeze.plan.plan import Plan

TESTS = Path(__file__).parent.parent
SCHEME = Scheme(4, 16, True)


class Rounding(Backend):
    """A backend whose package is numpy, so that it is there, and whose process rounds to nearest."""

    name: ClassVar[str] = "rounding"
    extra: ClassVar[str | None] = "rounding"
    package: ClassVar[str] = "numpy"
    process: ClassVar[str] = "backend_process"
    environment: ClassVar[dict[str, str]] = {}

    wrong: str = ""

    def settings(self) -> dict[str, Any]:
        return {"wrong": self.wrong}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    monkeypatch.setenv("PYTHONPATH", os.fspath(TESTS))
    return LanguageModel(write_folder(tmp_path / "tiny"))


def test_what_a_process_rounds_is_what_we_round(tiny: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"group_size": 16, "exclude": "*.k_proj", "overrides": {"*.up_proj": {"bits": 8}}}
    lent = context()
    theirs, ours = Rounding(**options).run(tiny, lent), in_shards(Rtn(**options).run(tiny, context()))
    assert theirs.grid == ours.grid
    for name in theirs.skeleton.names():
        assert torch.equal(theirs.tensor(name), ours.tensor(name))
    assert lent.facts["backend"] == f"numpy {np.__version__}"
    assert capfd.readouterr() == ("", "")  # the package's talk is in its log


def test_a_process_that_fails_is_one_line_with_its_last(tiny: LanguageModel) -> None:
    message = r"rounding: numpy ended with code 1: ValueError: no such luck \(all: .*log\.txt\)$"
    with pytest.raises(SqueezeError, match=message):
        Rounding(group_size=16, wrong="fails").run(tiny, context())


def test_weights_that_a_package_left_are_named(tiny: LanguageModel) -> None:
    with pytest.raises(EffectError, match=r"numpy left model\.layers\.0\.self_attn\.q_proj unquantized"):
        Rounding(group_size=16, wrong="leaves one").run(tiny, context())


def test_a_package_that_computes_with_other_weights_is_found_out(tiny: LanguageModel) -> None:
    with pytest.raises(EffectError, match=r"q_proj: what was read back is not what the backend computes with, by up"):
        Rounding(group_size=16, wrong="computes with others").run(tiny, context())


def test_a_package_that_is_not_there_names_the_extra(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rounding, "package", "no-such-package")
    with pytest.raises(MissingExtra, match=r"rounding needs no-such-package: pip install 'squeeze\[rounding\]'"):
        Rounding(group_size=16).run(tiny, context())


def test_experts_in_one_tensor_are_refused(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path, "Mixtral", num_local_experts=2, num_experts_per_tok=1))
    (fault,) = Rounding(group_size=16).faults(model)
    assert "4 weights hold their experts in one tensor" in fault
    assert fault.endswith("which numpy is not given; exclude them, or let gptq take them")


def test_what_a_checkpoint_of_gptqmodel_cannot_hold_is_refused(tiny: LanguageModel) -> None:
    (fault,) = Gptqmodel(group_size=8).faults(tiny)
    assert "readers of GPTQ checkpoints know no group_size 8" in fault


def answer(**changes: Any) -> Answer:
    grid = round_to_nearest(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)), 4, 16)
    parts: dict[str, Tensor] = {"q": grid.q, "scale": grid.scale, "zero_point": grid.zero_point}
    return Answer(**(parts | {"real": grid.dequantize()} | changes))


def test_scales_finer_than_float16_are_rounded_after_the_comparison() -> None:
    fine = answer().scale * 1.0001
    real = answer().q.float() * fine.repeat_interleave(16, dim=1)
    grid = read_answer(answer(scale=fine, real=real), SCHEME, (8, 32), "x")
    assert torch.equal(grid.scale, fine.half().float())
    assert not torch.equal(grid.scale, fine)


def test_a_negative_scale_stays_negative() -> None:
    grid = read_answer(answer(scale=-answer().scale, real=-answer().real), SCHEME, (8, 32), "x")
    assert (grid.scale < 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(8, 16, dtype=torch.int8)}, r"x came back as \[8, 16\], not \[8, 32\]"),
        (
            {"q": torch.full((8, 32), 9, dtype=torch.int8)},
            "x came back with integers from 9 to 9, which are not 4 bits",
        ),
        ({"zero_point": torch.ones(8, 2, dtype=torch.int32)}, "x came back with zero points, though symmetric was"),
        ({"real": torch.full((8, 32), torch.nan)}, "x: what was read back is not what the backend computes with"),
        (
            {"scale": torch.full((8, 2), 1e9), "real": answer().q.float() * 1e9},
            r"x: scales from 1e\+09 to 1e\+09 do not fit float16",
        ),
    ],
    ids=["shape", "range", "zero points", "not a number", "scale"],
)
def test_what_comes_back_wrong_is_refused(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(EffectError, match=message):
        read_answer(answer(**changes), SCHEME, (8, 32), "x")


def test_a_plan_names_the_extra_of_a_package_that_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeeze.plan.extras.find_spec", lambda name: None)
    faults = "\n".join(fault.message for fault in check(plan(tmp_path)))
    assert "gptqmodel needs gptqmodel, optimum: pip install 'squeeze[gptq]'" in faults
    assert "auto_round needs neural_compressor, auto_round: pip install 'squeeze[inc]'" in faults


def test_checking_a_plan_imports_no_backend(tmp_path: Path) -> None:
    """They take seconds to import; a check takes none."""
    file = plan(tmp_path).file
    code = (
        f"import sys, json; from squeeze.api import check, load; check(load({file!r}))\n"
        "backends = ('gptqmodel', 'optimum', 'neural_compressor', 'auto_round')\n"
        "print(json.dumps([name for name in backends if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def plan(tmp_path: Path) -> Plan:
    folder = write_folder(tmp_path / "model")
    write_tokenizer(folder)
    (tmp_path / "text.txt").write_text("a b c d e f g " * 200)
    values = {
        "model": {"hf": os.fspath(folder)},
        "data": {role: {"text": "text.txt", "length": 16} for role in ("calibrate", "evaluate")},
        "metrics": ["perplexity"],
        "targets": [
            {"name": "a", "passes": [{"pass": "gptqmodel", "group_size": 16}]},
            {"name": "b", "passes": [{"pass": "auto_round", "group_size": 16}]},
        ],
    }
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(values))
    return load(file)


@pytest.mark.parametrize(
    ("backend", "module"),
    [
        (Gptqmodel(bits=4, group_size=32), "gptqmodel"),
        (Gptqmodel(bits=3, group_size=32, act_order=True, asymmetric_calibration=0.25), "gptqmodel"),
        (Gptqmodel(bits=4, group_size=32, symmetric=False, overrides={"*.up_proj": Override(bits=8)}), "gptqmodel"),
        (NeuralCompressor(bits=3, group_size=32, order="act_order"), "neural_compressor"),
        (NeuralCompressor(bits=4, group_size=None, symmetric=False, mse=True), "neural_compressor"),
        (AutoRound(bits=2, group_size=32, iterations=2), "auto_round"),
        (AutoRound(bits=4, group_size=32, iterations=2, symmetric=False, exclude="*.k_proj"), "auto_round"),
        (Torchao(bits=4, group_size=32), "torchao"),
        (Torchao(bits=8, group_size=None, algorithm="hqq_scale_only", exclude="*.k_proj"), "torchao"),
    ],
    ids=lambda value: value.name if isinstance(value, Backend) else "",
)
def test_a_package_fills_the_grid_that_it_computes_with(tmp_path: Path, backend: Backend, module: str) -> None:
    """Inside the pass what was read back is held against the package's own weights, bit for bit."""
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install 'squeeze[{backend.extra}]'")
    folder = write_folder(tmp_path)
    write_tokenizer(folder)
    model = LanguageModel(folder)
    assert list(backend.faults(model)) == []
    result = backend.run(model, context())
    assert set(result.grid) == set(backend.schemes(model))
    for name, scheme in backend.schemes(model).items():
        assert (result.grid[name].bits, result.grid[name].group_size) == (scheme.bits, scheme.group_size)
        was = model.tensor(name)
        assert (result.tensor(name) - was).norm() < 0.6 * was.norm()


def test_torchao_has_no_zero_points_of_weights(tiny: LanguageModel) -> None:
    (fault,) = Torchao(group_size=16, overrides={"*.up_proj": Override(symmetric=False)}).faults(tiny)
    assert fault.endswith("up_proj.weight: its configuration has no zero points; symmetric: true would do")


def test_what_torchao_rounds_is_what_xnnpack_keeps(tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed: pip install 'squeeze[mobile]'")
    folder = write_folder(tmp_path)
    write_tokenizer(folder)
    result = Torchao(bits=4, group_size=32).run(LanguageModel(folder), context())
    assert {kind.scales for kind in result.grid.values()} == {"bfloat16"}
