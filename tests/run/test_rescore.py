"""`squeeze verify --data`: a package is scored by every metric of a plan, and on the same data must score the same."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_world import tiny_encoder, write_encoder_world
from language_world import write_folder, write_tokenizer
from package_script import unpacked
from tiny import squeeze
from unconfined import LOAD_MODEL  # noqa: F401, read before a test here replaces it

from squeeze.api import compress, load
from squeeze.errors import VerifyError
from squeeze.evaluate.evaluator import logits_of
from squeeze.evaluate.evidence.base import OnEvaluationData, Subject
from squeeze.evaluate.metrics import ExampleMetric
from squeeze.run.rescore import rescore
from squeeze.targets import child
from squeeze.targets.confined import Limits
from squeeze.targets.golden import Golden
from squeeze.targets.manifest import Manifest
from squeeze.targets.package import file_sum
from squeeze.targets.verify import Package, open_package

LANGUAGE = """\
model: {hf: ./model}
data:
  evaluate: {text: text.txt, length: 16}
metrics:
  - perplexity
  - kl
  - flips
  - choice: {data: {pairs: pairs.jsonl}}
  - choice_norm: {data: {pairs: pairs.jsonl}}
  - last_word: {data: {last_words: last.jsonl}}
  - size
  - prefill: {prompt: 4, seconds: 0.01}
passes: [{pass: rtn, bits: 4, group_size: 32}]
targets: [{target: cpu, passes: [{pass: export_onnx}]}]
"""
PAIRS = [{"sentence_good": f"a cat sat on {word}", "sentence_bad": f"on {word} sat cat a"} for word in "xyz"]


class LargestLogits(OnEvaluationData[np.ndarray]):
    """The largest logit of every example: a kind of evidence that Squeeze does not know."""

    kind = "largest logits"

    def collect(self, model: Subject, folder: Path) -> None:
        np.save(folder / "largest.npy", logits_of(model.model, self.data).max(1))

    def read(self, folder: Path) -> np.ndarray:
        return np.asarray(np.load(folder / "largest.npy"))


class Confidence(ExampleMetric):
    """Mean of the largest logit; a plan names it as ``test_rescore:Confidence``."""

    name, unit, evidence = "confidence", "nats", LargestLogits

    def per_example(self, logits: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
        return logits


PLANS = Path(__file__).parents[2] / "plans"


@pytest.fixture(autouse=True)
def packages_stay_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's model is opened in a confined process and never here."""

    def opened(package: Package) -> None:
        raise AssertionError(f"{package.path} was opened in our own process")

    monkeypatch.setattr(Package, "load_model", opened)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_encoder_world(tmp_path_factory.mktemp("encoder"), tiny_encoder())
    plan = folder / "plan.yaml"
    made_up = '{"test_rescore:Confidence": {}}'
    text = plan.read_text().replace("[probe, cosine, size]", f"[probe, cosine, size, macs, {made_up}]")
    shutil.copy(PLANS / "minilm.py", folder / "beside_the_plan.py")  # the metric's module is found on sys.path
    plan.write_text(text.replace("minilm:encoder", "beside_the_plan:encoder"))
    compress(load(plan), store=folder / "store", out=folder / "out")
    return folder


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    write_tokenizer(write_folder(folder / "model", max_position_embeddings=128))
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 6)
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    (folder / "last.jsonl").write_text("\n".join(json.dumps({"text": f"some {w} words and more"}) for w in "xyzu"))
    (folder / "plan.yaml").write_text(LANGUAGE)
    compress(load(folder / "plan.yaml"), store=folder / "store", out=folder / "out")
    return folder


@pytest.fixture(scope="module")
def true(language: Path) -> dict[str, float]:
    """What the ledger says of the packed model."""
    rows = json.loads(zipfile.ZipFile(language / "out/plan-cpu.zip").read("ledger.json"))["rows"]
    return {metric: score["value"] for metric, score in rows[-1]["scores"].items()}


def rescored(world: Path, package: Path | None = None) -> dict[str, Any]:
    return rescore(open_package(package or world / "out/plan-cpu.zip"), load(world / "plan.yaml"))


def resealed(world: Path, folder: Path, change: Callable[[bytes], bytes], golden_off: float = 0.0) -> Path:
    """The package as a folder whose ledger and golden output say something else, with sums and digest that fit."""
    unpacked(world / "out/plan-cpu.zip", folder)
    ledger, manifest = folder / "ledger.json", folder / "manifest.json"
    ledger.write_bytes(change(ledger.read_bytes()))
    claimed = Manifest.model_validate_json(manifest.read_bytes())
    golden = Golden.from_npz((folder / "golden.npz").read_bytes(), "golden")
    moved = {name: array + np.float32(golden_off) for name, array in golden.outputs.items()}
    (folder / "golden.npz").write_bytes(Golden(golden.inputs, moved).npz())
    files = claimed.files | {name: file_sum(folder / name) for name in ("ledger.json", "golden.npz")}
    manifest.write_text(claimed.model_copy(update={"files": files}).sealed().model_dump_json())
    return folder


def edited(metric: str, value: object) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        ledger = json.loads(content)
        ledger["rows"][-1]["scores"][metric]["value"] = value
        return json.dumps(ledger).encode()

    return change


@pytest.fixture(scope="module")
def encoder_scores(encoder: Path) -> dict[str, Any]:
    """As the command line prints them."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = squeeze("verify", encoder / "out/plan-cpu.zip", "--data", encoder / "plan.yaml", "--json")
    assert code == 0
    scores: dict[str, Any] = json.loads(printed.getvalue())["rescored"]
    return scores


def test_an_encoders_own_package_scores_what_its_ledger_says(encoder_scores: dict[str, Any]) -> None:
    """The probe is fitted again on the original's embeddings: the package's own embeddings alone would give 0."""
    scores = encoder_scores
    assert list(scores["scores"]) == ["probe", "cosine", "size_bytes", "macs", "confidence"]
    for name, score in scores["scores"].items():
        assert abs(score["value"] - score["claimed"]) <= score["tolerance"], name
    assert scores["scores"]["probe"]["value"] > 0.55
    assert scores["not_scored"] == scores["not_compared"] == {}


def test_a_made_up_metric_with_evidence_of_its_own_is_scored_in_run_and_verify(
    encoder_scores: dict[str, Any],
) -> None:
    score = encoder_scores["scores"]["confidence"]
    assert score["claimed"] == pytest.approx(score["value"])
    assert score["interval"][0] < score["value"] < score["interval"][1]


def test_a_language_package_is_scored_by_every_metric_or_says_why_not(language: Path) -> None:
    scores = rescored(language)
    labels = ["perplexity", "kl", "flips", "choice:pairs", "choice_norm:pairs", "last_word:last", "size_bytes"]
    assert list(scores["scores"]) == labels
    assert all("claimed" in score for score in scores["scores"].values())
    assert scores["scores"]["kl"]["value"] > 0
    assert scores["not_scored"] == {"prefill": "a time of one host; squeeze bench measures this one's"}


@pytest.mark.usefixtures("in_this_process")
def test_without_the_original_only_what_needs_it_is_left_out(language: Path, tmp_path: Path) -> None:
    shutil.copytree(language, tmp_path / "world")
    (tmp_path / "world/model/config.json").unlink()
    scores = rescored(tmp_path / "world")
    assert set(scores["not_scored"]) == {"kl", "flips", "prefill"}
    assert "it compares to the original, which cannot be read" in scores["not_scored"]["kl"]
    assert "perplexity" in scores["scores"]


def test_what_the_confined_process_finds_wrong_is_refused_here(
    language: Path, true: dict[str, float], tmp_path: Path
) -> None:
    package = resealed(language, tmp_path / "p", edited("perplexity", true["perplexity"] + 1e-3))
    with pytest.raises(VerifyError, match=r"perplexity is .*; the ledger says .* of the same data"):
        rescored(language, package)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("metric", "off"),
    [("perplexity", 1e-3), ("choice:pairs", 1 / 3), ("size_bytes", 1)],
    ids=["mean", "one in 3", "bytes"],
)
def test_a_score_within_the_sampling_interval_is_not_good_enough(
    language: Path, true: dict[str, float], tmp_path: Path, metric: str, off: float
) -> None:
    package = resealed(language, tmp_path / "p", edited(metric, true[metric] + off))
    with pytest.raises(VerifyError, match=rf"{metric} is .*; the ledger says .*; a difference of at most .* rounding"):
        rescored(language, package)


@pytest.mark.usefixtures("in_this_process")
def test_a_difference_of_rounding_is_let_through(language: Path, true: dict[str, float], tmp_path: Path) -> None:
    package = resealed(language, tmp_path / "p", edited("perplexity", true["perplexity"] * (1 + 1e-9)))
    assert rescored(language, package)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("examples", "let_through"), [(1, True), (2, False)], ids=["one in 3", "two in 3"])
def test_another_host_may_turn_as_many_examples_as_its_golden_output_allows(
    language: Path, true: dict[str, float], tmp_path: Path, examples: int, let_through: bool
) -> None:
    """Endings keep no margins: one example, and 1 % per 0.01 nats that outputs differ by."""
    off = -examples / 3 if true["choice:pairs"] > 0.5 else examples / 3
    package = resealed(language, tmp_path / "p", edited("choice:pairs", true["choice:pairs"] + off), golden_off=1e-3)
    if let_through:
        scores = rescored(language, package)
        assert scores["outputs_differ_by"] == pytest.approx(2e-3, rel=0.01)
        assert scores["scores"]["choice:pairs"]["tolerance"] == pytest.approx(1 / 3 + 4e-3, rel=0.01)
        assert scores["scores"]["size_bytes"]["tolerance"] == 0
    else:
        with pytest.raises(VerifyError, match=r"at most 0\.3 would be what outputs that differ by 0\.002 allow"):
            rescored(language, package)


def test_scoring_ends_where_no_batch_is_finished(language: Path) -> None:
    package, plan = open_package(language / "out/plan-cpu.zip"), load(language / "plan.yaml")
    with pytest.raises(VerifyError, match=r"finished no batch within 0\.1 s; --time-limit would give it more"):
        rescore(package, plan, limits=Limits(seconds=0.1))


@pytest.mark.usefixtures("in_this_process")
def test_scores_on_other_data_are_shown_and_not_compared(language: Path, tmp_path: Path) -> None:
    shutil.copytree(language, tmp_path / "world")
    (tmp_path / "world/text.txt").write_text("pack my box with five dozen liquor jugs " * 6)
    scores = rescored(tmp_path / "world")
    assert not scores["same_data_as_ledger"]
    assert scores["not_compared"] == dict.fromkeys(["perplexity", "kl", "flips"], "the ledger's is on other data")
    assert "claimed" in scores["scores"]["choice:pairs"]


BAD = {
    "cut short": lambda content: content[:-40],
    "a list": lambda _: b"[1, 2]",
    "no rows": lambda _: b'{"scored_on": null, "rows": []}',
    "no key": lambda _: b'{"rows": [{"scores": {}}]}',
    "a word for a number": edited("perplexity", "low"),
    "not finite": edited("perplexity", float("nan")),
    "larger than a float": edited("perplexity", 10**400),
    "5,000 digits": lambda content: edited("perplexity", 7654321)(content).replace(b"7654321", b"7" * 5000),
    "a list for a score": edited("perplexity", [1]),
    "deep": lambda _: b"[" * 100_000,
    "yaml": lambda _: b"a: &a [x]\nb: [*a, *a]",
    "not utf-8": lambda _: b'{"rows": "\xff"}',
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("name", BAD)
def test_a_ledger_that_is_none_is_one_line_and_exit_4(
    language: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before a process is started for the package's model."""
    monkeypatch.setattr(child, "call", None)
    package = resealed(language, tmp_path / "p", BAD[name])
    assert squeeze("verify", package, "--data", language / "plan.yaml") == 4
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "ledger.json: " in lines[0]
    assert "make the package again" in lines[0]
