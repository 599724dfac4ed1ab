"""Every plan that ships is right: it checks, and the schema that editors use takes it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from squeeze import registry
from squeeze.api import check, load
from squeeze.errors import PlanError
from squeeze.plan.model_kinds import KINDS
from squeeze.plan.schema import plan_schema

jsonschema = pytest.importorskip("jsonschema", reason="pip install 'squeeze[dev]' brings it")

PLANS = Path(__file__).parent.parent.parent / "plans"
NAMES = sorted(path.name for path in PLANS.glob("*.yaml"))


def test_there_are_plans() -> None:
    assert "digits.yaml" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_example_plan_checks(name: str, request: pytest.FixtureRequest) -> None:
    needs_files = "${real}" in (PLANS / name).read_text()
    variables = {"real": os.fspath(request.getfixturevalue("real").resolve())} if needs_files else {}
    if "${minilm}" in (PLANS / name).read_text():
        variables["minilm"] = os.fspath(request.getfixturevalue("minilm"))
    if "${smollm2}" in (PLANS / name).read_text():
        variables["smollm2"] = os.fspath(request.getfixturevalue("smollm2").parent)
    faults = check(load(PLANS / name, variables=variables))
    absent = [fault for fault in faults if re.search(r"pip install 'squeeze\[[\w-]+\]'$", fault.message)]
    assert [fault for fault in faults if fault not in absent] == []
    if absent:
        pytest.skip(f"all is right but what is not installed: {absent[0].message}")


@pytest.fixture(scope="module")
def schema() -> Any:
    """A validator of the published schema, by the library that editors use."""
    validator = jsonschema.Draft202012Validator
    validator.check_schema(plan_schema())
    return validator(plan_schema())


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_takes_every_example_plan(name: str, schema: Any) -> None:
    values = yaml.safe_load((PLANS / name).read_text())
    assert values["version"] == 1
    assert list(schema.iter_errors(values)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"version": "1"},
        {"passes": [{"pass": "export_onx"}]},
        {"passes": [{"pass": "export_onnx", "opsett": 3}]},
        {"passes": [{"pass": "export_onnx", "opset": "twenty"}]},
        {"model": {"hf": "a", "onnx": "b"}},
        {"model": {"hff": "a"}},
        {"model": {"module": "a:b"}},
        {"model": {"hf": "a", "arguments": {}}},
        {"metrics": ["top2"]},
        {"metrics": [{"latency": {}, "top1": {}}]},
        {"seed": -1},
        {"strict": "yes"},
        {"primary": []},
        {"budget": {"size": []}},
        {"pases": []},
        {"data": {"evaluate": {"folder": "x", "sampels": 3}}},
        {"data": {"evalaute": {"folder": "x"}}},
        {"targets": [{"target": "cup"}]},
        {"targets": [{"name": "measured", "passes": [{"pass": "export_onx"}]}]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_reader_refuses(wrong: dict[str, Any], tmp_path: Path, schema: Any) -> None:
    plan = {"model": {"builtin": "digits-cnn"}, "passes": [{"pass": "export_onnx"}]}
    assert schema.is_valid(plan)
    assert not schema.is_valid(plan | wrong)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | wrong))
    with pytest.raises(PlanError):
        load(tmp_path / "plan.yaml")


def test_a_plan_without_a_model_is_refused_by_the_schema(schema: Any) -> None:
    assert [error.message for error in schema.iter_errors({"passes": []})] == ["'model' is a required property"]


def test_every_key_of_a_plan_explains_itself_to_editors(schema: Any) -> None:
    parts = [
        schema.schema,
        *(schema.schema["$defs"][name] for name in ("Roles", *(c.__name__ for c in KINDS.values()))),
    ]
    assert [key for part in parts for key, value in part["properties"].items() if not value.get("description")] == []


def test_the_schema_describes_each_pass_and_source_once() -> None:
    text = json.dumps(plan_schema(), indent=2)
    assert len(text) < 200_000
    names = list(registry.entries("passes"))
    assert [name for name in names if text.count(f'"const": "{name}"') != 1] == []
