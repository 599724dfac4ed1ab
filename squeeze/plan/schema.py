"""The JSON schema of plan files, made from the very model that reads them."""

from __future__ import annotations

from typing import Any

from squeeze.plan.file import PlanFile
from squeeze.plan.parts import ANY_PASS, ANY_SOURCE


def plan_schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12; plug-ins that are installed are in it."""
    shared: dict[str, Any] = {}
    schema: dict[str, Any] = _with_references(PlanFile.model_json_schema(), shared)
    schema["$defs"] |= shared
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema | {"title": "Squeeze plan"}


def _with_references(node: Any, shared: dict[str, Any]) -> Any:
    """Passes and sources of data, which stand in many places, printed once in ``$defs``."""
    if isinstance(node, list):
        return [_with_references(item, shared) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("title") in (ANY_PASS, ANY_SOURCE):
        title = node["title"]
        if title not in shared:
            shared[title] = {"oneOf": _with_references(node["oneOf"], shared)}
        about_the_field = {key: value for key, value in node.items() if key not in ("title", "oneOf")}
        return {"$ref": f"#/$defs/{title}", **about_the_field}
    return {key: _with_references(value, shared) for key, value in node.items()}
