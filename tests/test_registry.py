"""Names to classes, and packages of other people: found by entry point or by reference, broken ones told by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import PLAN, faults, squeeze, write_npz, write_plan, write_world

import squeeze as api
from squeeze import registry
from squeeze.errors import UsageError
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.references import resolve

PACKAGE = '''\
"""A pass, a metric and a data source of somebody else, whole."""

import numpy as np
from squeeze import Context, ImageSource, ExampleMetric, Pass, TorchModel
from squeeze.data.images import ArrayPixels


class Halve(Pass[TorchModel, TorchModel]):
    """Halve the last layer's weights."""
    promises = frozenset({"weights_changed"})
    def run(self, model: TorchModel, context: Context) -> TorchModel:
        model.module[4].weight.data /= 2
        return model

class Margin(ExampleMetric):
    """How far the first choice is ahead of the second."""
    name, unit, higher_is_better = "margin", "nats", True
    def per_example(self, logits, labels, original):
        return np.diff(np.sort(logits, axis=1)[:, -2:])[:, 0]

class Bare(Pass):
    """Says neither what it takes nor what it does."""

class Raw(ImageSource):
    """A text file of numbers."""
    kind = "raw"
    raw: str
    def where(self): return self.raw
    def pixels(self, root):
        return ArrayPixels(np.loadtxt(root / self.raw).reshape(-1, 6, 6, 3), np.arange(4))
'''
ENTRY_POINTS = """\
[squeeze.passes]
halve = halving:Halve
export_onnx = halving:Halve
broken = halving_gone:Nothing
wrong = halving:Margin
bare = halving:Bare
[squeeze.metrics]
margin = halving:Margin
[squeeze.data]
raw = halving:Raw
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package as pip would leave it, on the path for one test."""
    site, info = tmp_path / "site", tmp_path / "site" / "halving-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "halving.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halving\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    registry.entries.cache_clear()
    yield write_world(tmp_path)
    sys.modules.pop("halving", None)
    registry.entries.cache_clear()


@pytest.mark.parametrize("name", ["halve", "'halving:Halve'"], ids=["entry point", "reference"])
def test_a_pass_of_another_package_runs_in_a_plan(installed: Path, name: str) -> None:
    path = write_plan(installed, PLAN, ('"tiny:Scale"\n    factor: 2.0', name))
    assert faults(path) == []
    assert squeeze("run", path, "--out", installed / "out", "--store", installed / "store") == 0
    report = json.loads((installed / "out" / "report.json").read_text())
    assert [row["name"] for row in report["ledger"]["rows"]] == ["original", "halve"]


@pytest.mark.parametrize("metric", ["margin", "'halving:Margin'"], ids=["entry point", "reference"])
@pytest.mark.parametrize("source", ["raw", "'halving:Raw'"], ids=["entry point", "reference"])
def test_a_metric_and_a_data_source_of_another_package_serve_a_plan(installed: Path, metric: str, source: str) -> None:
    (installed / "numbers.txt").write_text(" ".join(str(number % 251) for number in range(4 * 6 * 6 * 3)))
    path = write_plan(installed, PLAN, ("top1, kl", metric), ("npz: evaluate.npz", f"{source}: numbers.txt"))
    text = path.read_text() + "budget: {margin: '-90 %'}\n"
    path.write_text(text)
    assert faults(path) == []
    assert squeeze("run", path, "--out", installed / "out", "--store", installed / "store") == 0
    report = json.loads((installed / "out" / "report.json").read_text())
    assert report["ledger"]["scored_on"]["examples"] == 4
    assert (
        report["ledger"]["rows"][1]["scores"]["margin"]["to_original"]["why"]
        == "4 independent units; 10 or more would do"
    )


@pytest.mark.usefixtures("installed")
def test_the_name_of_a_builtin_cannot_be_taken_over() -> None:
    assert registry.load("passes", "export_onnx") is ExportOnnx
    assert registry.load("passes", "halve").__module__ == "halving"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "7: pass 'broken': halving_gone:Nothing: cannot import 'halving_gone'"),
        ("wrong", "7: pass 'wrong': <class 'halving.Margin'> is no class that extends squeeze.passes.base:Pass"),
        ("bare", "7: pass 'bare': Bare does not say run, ways"),
        ("halv", "7: unknown pass 'halv'; did you mean 'halve'?"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_a_fault_by_name(installed: Path, name: str, message: str) -> None:
    path = write_plan(installed, PLAN, ('"tiny:Scale"\n    factor: 2.0', name))
    assert faults(path)[0].startswith(message)


@pytest.mark.usefixtures("installed")
def test_a_broken_plug_in_does_not_hide_the_others_from_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert squeeze("passes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("broken") and "cannot be loaded" in line for line in lines)
    assert any(line.startswith("halve ") and "Halve the last layer's weights." in line for line in lines)


def test_every_builtin_is_there_under_its_own_name() -> None:
    for kind, builtin in registry.BUILTIN.items():
        for name in builtin:
            cls = registry.load(kind, name)
            assert getattr(cls, "kind" if kind == "data" else "name") == name
            assert registry.summary(cls)


@pytest.mark.parametrize("reference", [":", "a:", ":b", "os.path:nothing", "tiny:number", "os:getcwd"])
def test_a_reference_that_names_no_pass_is_refused(reference: str) -> None:
    with pytest.raises(UsageError):
        registry.load("passes", reference)


def test_a_class_in_the_plans_own_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "beside_the_plan.py").write_text(PACKAGE)
    write_npz(tmp_path / "x.npz")
    assert registry.load("passes", "beside_the_plan:Halve", str(tmp_path)).__name__ == "Halve"
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("folder", ["absolute", "relative"])
def test_modules_of_one_name_beside_two_plans_are_two_modules(tmp_path: Path, monkeypatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{folder}_module.py").write_text(f"NAME = {name!r}")
    root, names = tmp_path if folder == "absolute" else Path(), ["one", "two", "two", "one"]
    assert [resolve(f"{folder}_module:NAME", str(root / name)) for name in names] == names


@pytest.mark.parametrize("kind", sorted(set(registry.BUILTIN) - {"runtimes", "writers"}))  # a plan says targets
def test_every_class_of_a_plan_is_in_the_python_api(kind: registry.Kind) -> None:
    built_in = {registry.load(kind, name) for name in registry.BUILTIN[kind]}
    assert {cls.__name__ for cls in built_in} <= set(dir(api))
    assert {getattr(api, cls.__name__) for cls in built_in} == built_in


def test_a_public_name_is_the_same_however_often_it_is_asked_for() -> None:
    """The first look at a name may import a folder of the same name, which must not take its place."""
    assert all(getattr(api, name) is getattr(api, name) for name in dir(api))


def test_brackets_that_name_a_stage_take_every_form_that_it_has() -> None:
    class Same(api.Pass[api.TorchStage, api.TorchStage]):
        """A torch model stays as it is, wherever its weights lie."""

    class Graph(api.Pass[api.TorchStage, api.OnnxModel]):
        """Any torch model becomes a graph."""

    assert Same.gives("torch") is api.TorchModel
    assert Same.gives("language") is api.LanguageModel
    assert Same.gives("onnx") is None
    assert {Graph.gives(form) for form in ("torch", "language")} == {api.OnnxModel}
