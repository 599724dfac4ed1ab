"""The JSON schema of plan files, made from the very model that reads them."""

from __future__ import annotations

from typing import Any

from squeeze.plan.file import PlanFile


def plan_schema() -> dict[str, Any]:
    """JSON schema, draft 2020-12; plug-ins that are installed are in it."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | PlanFile.model_json_schema() | {"title": "Squeeze plan"}
