"""Options explain themselves in ``squeeze passes NAME`` and in the schema; renamed ones are accepted once more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from language_world import write_folder
from pydantic import ValidationError
from tiny import squeeze

from squeeze import registry
from squeeze.passes.quantize.gptq import Gptq
from squeeze.plan.schema import plan_schema

KINDS: tuple[registry.Kind, ...] = ("passes", "targets", "metrics", "data")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in registry.entries(kind)])
def test_every_option_explains_itself(kind: registry.Kind, name: str) -> None:
    fields = registry.load(kind, name).model_fields
    assert not [option for option, field in fields.items() if not field.description]


def test_a_users_terminal_shows_what_an_option_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("passes", "gptq") == 0
    text = capsys.readouterr().out
    assert "refinements: " in text
    assert "Rounds of coordinate descent on scales and integers after rounding" in text


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (("metrics", "latency"), "What times torch models: ONNX Runtime"),
        (("data", "folder"), "One number: pixels of the shorter side"),
        (("targets", "checkpoint"), "Of gptq: 1 as auto-gptq wrote it"),
    ],
    ids=["metric", "data", "target"],
)
def test_so_do_those_of_metrics_data_and_targets(
    words: tuple[str, str], meaning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert squeeze(*words) == 0
    assert meaning in capsys.readouterr().out


def test_the_schema_shows_it_too() -> None:
    schema = plan_schema()
    text = schema["properties"]["targets"]["items"]["oneOf"]
    checkpoint = next(s["properties"] for s in text if s["properties"].get("target", {}).get("const") == "checkpoint")
    assert checkpoint["version"]["description"].startswith("Of gptq")
    source = schema["$defs"]["AnySource"]["oneOf"][0]["properties"]
    assert source["skip"]["description"].startswith("Examples left")
    passes = schema["$defs"]["AnyPass"]["oneOf"]
    gptq = next(schema["properties"] for schema in passes if schema["properties"]["pass"]["const"] == "gptq")
    assert gptq["damping"]["description"].startswith("Share of the mean diagonal")


def test_an_old_name_is_accepted_with_a_line_that_says_the_new_one() -> None:
    with pytest.warns(
        FutureWarning, match="gptq: option 'sweeps' is now 'refinements'; the old name ends with the next"
    ):
        assert Gptq.model_validate({"sweeps": 1}).refinements == 1
    with pytest.raises(ValidationError, match="sweep"):
        Gptq.model_validate({"sweep": 1})


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    write_folder(tmp_path / "model")
    plan = tmp_path / "plan.yaml"
    plan.write_text("model: {hf: ./model}\nmetrics: [size]\npasses: [{pass: gptq, sweeps: 1, group_size: 32}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "squeeze.cli", "check", plan], capture_output=True, text=True, check=False
    )
    (note,) = [line for line in done.stderr.splitlines() if "sweeps" in line]
    assert note == "note: gptq: option 'sweeps' is now 'refinements'; the old name ends with the next version"
