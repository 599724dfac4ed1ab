"""The JSON schema of plan files, made from the very classes that read them."""

from __future__ import annotations

from typing import Any

from squeeze import registry
from squeeze.plan.plan import ROLES

TEXT = {"type": "string"}
PLAIN: dict[str, Any] = {
    "memory": {"type": "string", "description": "Peak memory of the run, as in 4GB."},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    "threads": {"type": "integer", "minimum": 1, "maximum": 1024},
    "strict": {"type": "boolean", "description": "A budget line that is not proven counts as broken."},
    "vars": {"type": "object", "additionalProperties": TEXT},
    "budget": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
    "primary": {
        "type": ["string", "array"],
        "items": TEXT,
        "description": "The metric whose changes are judged, over all rows together; the first that can be.",
    },
    "equivalence": {
        "type": "object",
        "additionalProperties": TEXT,
        "description": "By metric, the change that is as good as none: 0.5 points of a share, else 2 %.",
    },
}
MODEL: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "hf": TEXT | {"description": "Folder with config.json and safetensors."},
        "module": TEXT | {"description": "package.module:factory"},
        "builtin": TEXT,
        "onnx": TEXT | {"description": "A .onnx file."},
        "weights": TEXT | {"description": "safetensors or a torch state dict."},
        "input": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "arguments": {"type": "object"},
    },
    "oneOf": [{"required": [kind]} for kind in ("hf", "module", "builtin", "onnx")],
}
MEASURED: dict[str, Any] = {  # a branch that ends in no target
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
}


def plan_schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12; plug-ins that are installed are in it."""
    definitions: dict[str, Any] = {}
    passes = {"type": "array", "items": {"oneOf": _named("passes", "pass", definitions, {})}}
    source = {"oneOf": [_options(registry.load("data", name), definitions) for name in registry.entries("data")]}
    targets = _named("targets", "target", definitions, {"name": TEXT, "passes": passes})
    targets.append(MEASURED | {"properties": {"name": TEXT, "passes": passes}})
    properties = PLAIN | {
        "model": MODEL,
        "data": {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(ROLES, source)},
        "metrics": {"type": "array", "items": {"anyOf": _metrics(definitions, source)}},
        "passes": passes,
        "targets": {"type": "array", "items": {"oneOf": targets}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Squeeze plan",
        "type": "object",
        "additionalProperties": False,
        "required": ["model"],
        "properties": properties,
        "$defs": definitions,
    }


def _named(kind: registry.Kind, key: str, definitions: dict[str, Any], more: dict[str, Any]) -> list[dict[str, Any]]:
    """One schema per registered class: its options, and the key that names it."""
    found = []
    for name in registry.entries(kind):
        schema = _options(registry.load(kind, name), definitions)
        schema["properties"] = {key: {"const": name}} | schema.get("properties", {}) | more
        schema["required"] = [key, *schema.get("required", [])]
        found.append(schema)
    return found


def _metrics(definitions: dict[str, Any], source: dict[str, Any]) -> list[dict[str, Any]]:
    options = {name: _options(registry.load("metrics", name), definitions) for name in registry.entries("metrics")}
    for schema in options.values():
        if "data" in schema.get("properties", {}):
            schema["properties"]["data"] = source
    alone = [name for name, schema in options.items() if not schema.get("required")]
    configured = [
        {"type": "object", "properties": {name: schema}, "required": [name]} for name, schema in options.items()
    ]
    return [{"enum": [*alone, "size"]}, *configured]


def _options(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = cls.model_json_schema()
    definitions |= schema.pop("$defs", {})
    return schema
