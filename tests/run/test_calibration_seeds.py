"""A calibrated quantizer repeated with other samples: the row tells how far scores spread, the first one goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from language_world import write_folder, write_tokenizer
from tiny import faults

from squeeze.api import compress, load
from squeeze.data.text import TextData
from squeeze.passes.quantize.gptq import Gptq
from squeeze.report.facts import fact_lines
from squeeze.report.shape import as_report
from squeeze.run.reporting import report_of

PLAN = """\
model: {hf: ./model}
data:
  calibrate: {text: calibrate.txt, length: 16, samples: 4}
  evaluate: {text: evaluate.txt, length: 16}
metrics: [perplexity, size]
passes: [{pass: gptq, bits: 2, group_size: 16, calibration_seeds: 3}]
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_tokenizer(write_folder(tmp_path / "model"))
    random = np.random.default_rng(0)
    for name in ("calibrate", "evaluate"):
        (tmp_path / f"{name}.txt").write_text("".join(random.choice(list("abcdefgh "), 400)))
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def run(world: Path, seeds: int) -> tuple[list[float], float]:
    """Perplexities of the repetitions, and of the row itself."""
    plan = load(world / "plan.yaml", [f"passes.0.calibration_seeds={seeds}"])
    row = compress(plan, store=world / "store").ledger.rows[1]
    own = row.scores["perplexity"].value
    assert own is not None
    return row.spread.get("perplexity", []), own


def test_the_row_is_the_first_and_the_others_differ(world: Path) -> None:
    spread, own = run(world, 3)
    assert spread[0] == own
    assert len(set(spread)) == 3


def test_what_was_repeated_is_not_done_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    pass_ = Gptq.run

    def counted(self: Gptq, *arguments: object) -> object:
        done.append(1)
        return pass_(self, *arguments)  # type: ignore[type-var]

    monkeypatch.setattr(Gptq, "run", counted)
    nothing, once = run(world, 1)
    two, _ = run(world, 2)
    three, _ = run(world, 3)
    assert len(done) == 3
    assert nothing == []
    assert three[:2] == two
    assert two[0] == once


def test_another_number_takes_other_samples_of_the_same_text(world: Path) -> None:
    plan = load(world / "plan.yaml")
    first, second = plan.open_data("calibrate"), plan.open_data("calibrate", 1)
    assert first.digest != second.digest
    assert (
        second.digest
        == TextData(text="calibrate.txt", length=16, samples=4, seed=1).open(world, world / "model").digest
    )


def test_the_report_words_the_spread(world: Path) -> None:
    plan = load(world / "plan.yaml")
    row = as_report(report_of(compress(plan, store=world / "store"), world)).rows[1]
    lines = dict(fact_lines(row))
    low, high = (f"{end:,.3f}" for end in (min(row.spread["perplexity"]), max(row.spread["perplexity"])))
    assert lines["perplexity spread"].startswith(f"{low} to {high}, median ")
    assert "size spread" not in lines


def test_samples_must_leave_something_to_choose(world: Path) -> None:
    (world / "plan.yaml").write_text(PLAN.replace(", samples: 4", ""))
    assert any(
        "calibration_seeds 3 would take the same text each time; samples:" in f for f in faults(world / "plan.yaml")
    )
    data = load(world / "plan.yaml").open_data("calibrate")
    with pytest.raises(Exception, match=r"calibration_seeds 3 wants data\.calibrate named in the plan"):
        compress(load(world / "plan.yaml"), data={"calibrate": data}, store=world / "store")


def test_another_choice_that_overlaps_is_refused_too(world: Path) -> None:
    text = (world / "calibrate.txt").read_text()
    (world / "evaluate.txt").write_text(text)
    plan = PLAN.replace("samples: 4}", "samples: 4, seed: 3}").replace(
        "length: 16}", "length: 16, samples: 4, skip: 4, seed: 3}"
    )
    (world / "plan.yaml").write_text(plan)
    with pytest.raises(Exception, match=r"data\.evaluate: \d of 4 examples are also in data\.calibrate"):
        compress(load(world / "plan.yaml"), store=world / "store")


def test_rounding_knows_no_seeds(world: Path) -> None:
    (world / "plan.yaml").write_text(PLAN.replace("gptq", "rtn"))
    assert any("rtn: unknown option 'calibration_seeds'" in fault for fault in faults(world / "plan.yaml"))
