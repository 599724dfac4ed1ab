"""The house is a ladder: each file imports only from its own rung or from lower ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "squeeze"
LADDER = [
    "errors",
    "refused",
    "progress",
    "versions",
    "sums",
    "work",
    "algorithms",
    "formats",
    "blocks",
    "references",
    "registry",
    "models",
    "runtimes",
    "writers",
    "data",
    "store",
    "evaluate",
    "comparison",
    "scores",
    "ledger",
    "budget",
    "report",
    "training",
    "passes",
    "targets",
    "plan",
    "run",
    "api",
    "cli",
]


def rung(module: str) -> int | None:
    """``squeeze.models.base`` stands on the rung of ``models``; the package itself on none."""
    parts = module.split(".")
    return LADDER.index(parts[1]) if len(parts) > 1 and parts[0] == "squeeze" else None


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def at_run_time(tree: ast.Module) -> list[ast.AST]:
    """Every node outside ``if TYPE_CHECKING:``, where only names for annotations are imported."""
    found: list[ast.AST] = []
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        found.append(node)
        queue.extend(ast.iter_child_nodes(node))
    return found


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_only_go_down(path: Path) -> None:
    own = LADDER.index(path.relative_to(ROOT).parts[0].removesuffix(".py"))
    for node in at_run_time(ast.parse(path.read_text())):
        for module in imported(node):
            other = rung(module)
            assert other is None or other <= own, f"{path.name} stands below {module}"


def test_every_room_has_a_rung() -> None:
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if not path.name.startswith("_")}
    assert rooms - {"py.typed"} == set(LADDER)
