"""Reports that every test here may change."""

from __future__ import annotations

from typing import Any

import pytest
from report_world import row, small_report


@pytest.fixture
def report() -> dict[str, Any]:
    return small_report()


@pytest.fixture
def bare_report() -> dict[str, Any]:
    """What is left where there is no data, no budget, no target and no pass has run yet."""
    return {"schema": 1, "name": "bare", "ledger": {"scored_on": None, "rows": [row("original")]}}
