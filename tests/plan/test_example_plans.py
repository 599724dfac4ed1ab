"""Every plan that ships is right: it checks, and the schema that editors use takes it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from squeeze.api import check, load
from squeeze.plan.schema import plan_schema

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
    faults = check(load(PLANS / name, variables=variables))
    absent = [fault for fault in faults if re.search(r"pip install 'squeeze\[[\w-]+\]'$", fault.message)]
    assert [fault for fault in faults if fault not in absent] == []
    if absent:
        pytest.skip(f"all is right but what is not installed: {absent[0].message}")


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_takes_every_example_plan(name: str) -> None:
    values = yaml.safe_load((PLANS / name).read_text())
    assert list(complaints(values, plan_schema(), plan_schema()["$defs"])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"passes": [{"pass": "export_onx"}]},
        {"passes": [{"pass": "export_onnx", "opsett": 3}]},
        {"passes": [{"pass": "export_onnx", "opset": "twenty"}]},
        {"model": {"hf": "a", "onnx": "b"}},
        {"model": {"hff": "a"}},
        {"metrics": ["top2"]},
        {"seed": -1},
        {"strict": "yes"},
        {"pases": []},
        {"data": {"evaluate": {"folder": "x", "sampels": 3}}},
        {"targets": [{"target": "cup"}]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_reader_refuses(wrong: dict[str, Any]) -> None:
    schema = plan_schema()
    plan = {"model": {"builtin": "digits-cnn"}, "passes": [{"pass": "export_onnx"}]} | wrong
    assert list(complaints(plan, schema, schema["$defs"])) != []


def test_a_plan_without_a_model_is_refused_by_the_schema() -> None:
    schema = plan_schema()
    assert list(complaints({"passes": []}, schema, schema["$defs"])) == ["model is missing"]


TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def complaints(value: Any, schema: Any, definitions: dict[str, Any]) -> list[str]:
    """What a small validator of JSON schema objects to: the keywords that pydantic and we write, and no others."""
    if "$ref" in schema:
        return complaints(value, definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    found = [*_of_value(value, schema)]
    for key, allowed in (("oneOf", (1,)), ("anyOf", range(1, 99))):
        if key in schema and sum(not complaints(value, s, definitions) for s in schema[key]) not in allowed:
            found.append(f"{value!r} is not {key} what is known")
    if isinstance(value, dict):
        found += _of_object(value, schema, definitions)
    if isinstance(value, list):
        found += _of_array(value, schema, definitions)
    return found


def _of_value(value: Any, schema: Any) -> list[str]:
    found = []
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        found.append(f"{value!r} is no {kinds}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{value!r} is none of {schema['enum']}")
    if isinstance(value, int | float) and value < schema.get("minimum", value):
        found.append(f"{value} is too small")
    if isinstance(value, int | float) and value <= schema.get("exclusiveMinimum", value - 1):
        found.append(f"{value} is too small")
    return found


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))


def _of_object(value: dict[str, Any], schema: Any, definitions: dict[str, Any]) -> list[str]:
    known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    found = [f"{name} is missing" for name in schema.get("required", []) if name not in value]
    for name, inner in value.items():
        if name in known:
            found += complaints(inner, known[name], definitions)
        elif rest is False:
            found.append(f"{name} is not known")
        elif isinstance(rest, dict):
            found += complaints(inner, rest, definitions)
    return found


def _of_array(value: list[Any], schema: Any, definitions: dict[str, Any]) -> list[str]:
    places = [*schema.get("prefixItems", [])]
    places += [schema.get("items", {})] * (len(value) - len(places))
    return [
        complaint for inner, s in zip(value, places, strict=False) for complaint in complaints(inner, s, definitions)
    ]
