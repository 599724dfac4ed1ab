"""A score, a model or an export that older code or another library made is never met again."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import squeeze as sq
from squeeze.api import compress
from squeeze.data.sources import DigitsData
from squeeze.models.spec import ModelSpec
from squeeze.run import builtin
from squeeze.store import Store, key_of
from squeeze.store import store as store_module
from squeeze.versions import LIBRARIES, library_versions

ROOT = Path(sq.__file__).parent
KINDS = [
    "builtin",
    "endings",
    "estimate",
    "gguf",
    "logits",
    "original",
    "pass",
    "probe",
    "target",
    "selection",
    "synthesized",
    "teacher",
    "timing export",
    "timing file",
    "tokens",
    "windows",
]


def other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "code_digest", lambda: "other")


def other_library(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = library_versions() | {"torch": "other"}
    monkeypatch.setattr(store_module, "library_versions", lambda: versions)


CHANGES = pytest.mark.parametrize("change", [other_code, other_library])


def kinds_asked_for() -> set[str]:
    """The first argument of every ``store.cached`` call in the sources; collectors of evidence name theirs ``kind``."""
    texts = [path.read_text() for path in ROOT.rglob("*.py")]
    constants = {name: kind for text in texts for name, kind in re.findall(r'^(TARGET) = "(.+?)"', text, re.MULTILINE)}
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    kinds = [n.args[0] for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "cached"]
    collectors = [path.read_text() for path in (ROOT / "evaluate" / "evidence").glob("*.py")]
    collected = {kind for text in collectors for kind in re.findall(r'^    kind = "(.+)"$', text, re.MULTILINE)}
    collected |= {str(argument.value) for argument in kinds if isinstance(argument, ast.Constant)}
    return collected | {constants[argument.id] for argument in kinds if isinstance(argument, ast.Name)}


def test_every_kind_of_entry_is_known_here() -> None:
    assert kinds_asked_for() == set(KINDS)


def test_nobody_makes_a_key_without_the_versions() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert path.parent.name == "store" or ("key_of(" not in text and "store.make(" not in text), path


@CHANGES
@pytest.mark.parametrize("kind", KINDS)
def test_changed_code_or_libraries_miss_every_kind(tmp_path, monkeypatch, kind, change) -> None:
    store, calls = Store(tmp_path), []
    for _ in range(2):
        store.cached(kind, {"a": 1}, lambda folder: calls.append(folder), lambda folder: folder)
    assert len(calls) == 1
    change(monkeypatch)
    store.cached(kind, {"a": 1}, lambda folder: calls.append(folder), lambda folder: folder)
    assert len(calls) == 2


def test_two_kinds_never_share_an_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert len({store.key(kind, {"a": 1}) for kind in KINDS}) == len(KINDS)


def test_a_whole_run_is_made_anew_by_other_code(tmp_path, monkeypatch) -> None:
    """Were one entry made without the versions, new rows would be paired with what old code scored."""
    store = Store(tmp_path / "store")
    plan = sq.Plan(
        [sq.PruneChannels(ratio=0.25)],
        model=ModelSpec(builtin="digits-cnn"),
        metrics=(sq.Top1(),),
    )
    data = DigitsData(builtin="digits", split="evaluate", samples=32).open(Path())
    monkeypatch.setattr(builtin, "TRAINING", sq.Finetune(epochs=1, learning_rate=0.05, batch_size=64))
    for _ in range(2):
        compress(plan, data={"evaluate": data}, store=store)
    before = Counter(entry.what for entry in store.entries())
    other_code(monkeypatch)
    compress(plan, data={"evaluate": data}, store=store)
    after = Counter(entry.what for entry in store.entries())
    assert {entry.made_from["kind"] for entry in store.entries()} >= {"builtin", "original", "logits", "pass"}
    assert after == Counter({what: 2 * count for what, count in before.items()})
    assert all(entry.key == key_of(entry.made_from) for entry in store.entries())


def test_the_libraries_that_quantize_are_among_the_versions() -> None:
    assert {"torch", "onnxruntime", "gptqmodel", "auto-round", "neural-compressor", "gguf"} <= set(LIBRARIES)
    assert all(library_versions().values())
