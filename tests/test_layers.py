"""The house is a ladder: each file imports only from its own rung or from lower ones, inside the big rooms too.

What a model is, the files of ``models/`` alone may ask: all others ask what it can do.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "squeeze"
LADDER = [
    "errors",
    "refused",
    "progress",
    "versions",
    "sums",
    "peak",
    "work",
    "algorithms",
    "formats",
    "blocks",
    "references",
    "registry",
    "models",
    "surgery",
    "runtimes",
    "writers",
    "data",
    "store",
    "evaluate",
    "measure",
    "comparison",
    "scores",
    "recovered",
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
    "__main__",
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
    nodes: list[ast.AST] = []
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        nodes.append(node)
        queue.extend(ast.iter_child_nodes(node))
    return nodes


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_only_go_down(path: Path) -> None:
    own = LADDER.index(path.relative_to(ROOT).parts[0].removesuffix(".py"))
    for node in at_run_time(tree(path)):
        for module in imported(node):
            other = rung(module)
            assert other is None or other <= own, f"{path.name} stands below {module}"


def test_every_room_has_a_rung() -> None:
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if not path.name.startswith("_")}
    assert rooms - {"py.typed"} == set(LADDER) - {"__main__"}


SUB_LADDERS = {
    "models": [
        {"links", "pieces"},
        {"gguf_pieces"},
        {
            "facts",
            "counts",
            "hub",
            "tokenizer",
            "config_sizes",
            "digits_cnn",
            "shards",
            "weights",
            "structure",
        },
        {"torch_macs", "torch_operations", "torch_layers", "ort_session", "resident"},
        {"base", "grid_file"},
        {"released"},
        {"tasks", "options", "torch_stage", "torch_grid", "text_folder"},
        {"one_example"},
        {"onnx_model", "source", "torch_call"},
        {"torch_model", "artifact"},
        {"configured"},
        {"language"},
        {"spec"},
    ],
    "passes": [{"effort"}, {"base", "layer_inputs"}, {"calibration"}, {"distill", "export", "prune", "quantize"}],
    "passes/quantize": [
        {
            "scheme",
            "selection",
            "int8_sizes",
            "onnx_coverage",
            "onnx_ranges",
            "onnx_rounding",
            "onnx_smooth",
            "onnx_walk",
        },
        {"work", "float16", "quantize_dynamic", "quantize_static", "backends"},
        {"hessians", "blocks", "layers", "gptq_work", "gptq_parts", "weighting"},
        {"block_pass"},
        {"gptq", "hqq", "rtn", "language"},
    ],
}


def parts_of(room: str) -> dict[str, list[Path]]:
    """The files of a room by the file or folder right inside it that they belong to."""
    parts: dict[str, list[Path]] = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        if path != ROOT / room / "__init__.py":
            name = path.relative_to(ROOT / room).parts[0].removesuffix(".py")
            parts.setdefault(name, []).append(path)
    return parts


@pytest.mark.parametrize("room", SUB_LADDERS)
def test_inside_a_big_room_imports_go_down_as_well(room: str) -> None:
    """A part imports from lower rungs only: parts of one rung do not know each other."""
    rungs = {name: index for index, names in enumerate(SUB_LADDERS[room]) for name in names}
    prefix = f"squeeze.{room.replace('/', '.')}."
    assert set(rungs) == set(parts_of(room)), "every part of a room has a rung here"
    for part, files in parts_of(room).items():
        for path in files:
            modules = [module for node in at_run_time(tree(path)) for module in imported(node)]
            others = {module.removeprefix(prefix).split(".")[0] for module in modules if module.startswith(prefix)}
            high = [other for other in others - {part} if rungs[other] >= rungs[part]]
            assert not high, f"{path.relative_to(ROOT)} does not stand above {', '.join(high)}"


def kinds_of_models() -> set[str]:
    """Names of all classes that extend ``Model`` or ``Task``, wherever they are."""
    bases: dict[str, list[set[str]]] = {}  # of every class of that name
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                plain = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
                bases.setdefault(node.name, []).append({base.id for base in plain if isinstance(base, ast.Name)})
    kinds = {"Model", "Task"}
    while more := {name for name, all_of_name in bases.items() if all(one & kinds for one in all_of_name)} - kinds:
        kinds |= more
    return kinds - {"Model", "Task"}  # whether it is one at all, whoever takes a stranger's object may ask


def asked_kinds(tree: ast.AST, kinds: set[str]) -> list[str]:
    """The classes of models and tasks that ``isinstance``, ``issubclass`` and ``case`` name there."""
    nodes: list[ast.AST] = []
    for node in ast.walk(tree):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if called in ("isinstance", "issubclass") and isinstance(node, ast.Call):
            nodes += ast.walk(node.args[1])
        if isinstance(node, ast.MatchClass):
            nodes += ast.walk(node.cls)
    names = [node.id if isinstance(node, ast.Name) else getattr(node, "attr", "") for node in nodes]
    return [name for name in names if name in kinds]


def test_only_models_ask_which_stage_or_task_a_model_is() -> None:
    kinds = kinds_of_models()
    assert {"TorchModel", "LanguageModel", "OnnxModel", "Artifact", "OnnxDecoder", "Classify", "Generate"} <= kinds
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != "models":
            names = asked_kinds(tree(path), kinds)
            assert not names, f"{path.relative_to(ROOT)} asks for {', '.join(names)}; a capability of Model would do"


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(m, TorchModel)",
        "isinstance(m, A | models.TorchModel)",
        "issubclass(m, (A, TorchModel))",
        "match m:\n    case TorchModel():\n        pass",
    ],
)
def test_a_question_for_a_class_is_noticed_in_every_spelling(code: str) -> None:
    assert asked_kinds(ast.parse(code), {"TorchModel"}) == ["TorchModel"]


MOST_LINES, MOST_OF_A_FUNCTION = 300, 40


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_files_and_functions_stay_short(path: Path) -> None:
    """A file that grows past this is two; a function's docstring does not count."""
    assert len(path.read_text().splitlines()) <= MOST_LINES
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1 - len(docstring.splitlines())
            assert lines <= MOST_OF_A_FUNCTION, node.name


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_files_of_tests_and_benchmarks_stay_short_too(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT.parent / folder).rglob("*.py")}
    assert len(lengths) > 20
    assert not {path: length for path, length in lengths.items() if length > MOST_LINES}
