"""A plan as text: every fault has its line, and nothing in a file can hang or crash the reader."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tiny import PLAN, faults, write_plan

from squeeze.errors import PlanError
from squeeze.plan.document import read_document

MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 25)
)  # 535 bytes
BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a plan is a mapping that begins with 'model:'"),
        ("# nothing\n", "a plan is a mapping"),
        ("- model\n", "a plan is a mapping"),
        ("just text", "a plan is a mapping"),
        ("model: [1, 2\n", ":2: not YAML: expected"),
        ("model:\n\t- 1\n", ":2: not YAML: found character"),
        ("model: 1\n---\nmodel: 2\n", "not YAML: but found another document"),
        ("model: \x00\n", "not YAML: special characters are not allowed"),
        ("seed: !!timestamp 2020-13-45\n", ":1: !!timestamp is not read; a plain value would do"),
        ("a: !!binary aGk=\n", ":1: !!binary is not read"),
        ("b: 1\na: !!set {x, y}\n", ":2: !!set is not read"),
        ("a: !!int word\n", ":1: !!int 'word' is none"),
        ('a: "\\uD800"\n', "'\\ud800' holds a control character (U+D800)"),
        ('a: "x\\0y"\n', "'x\\x00y' holds a control character (U+0000)"),
        ('a: "\\x1b[31m"\n', "'\\x1b[31m' holds a control character (U+001B)"),
        ("a: " + "9" * 5000, ":1: a text of 5,000 letters; 4,096 are the most"),
        ("a: " + "9" * 4000, ":1: a whole number of 4000 digits"),
        ("a: 1e999\n", ":1: '1e999' is not finite"),
        ("a: .nan\n", ":1: '.nan' is not finite"),
        ("base: &b {x: 1}\na:\n  <<: *b\n", ":3: '<<' merges another mapping, which is not read"),
        (MERGES, "merges another mapping"),
        ("a: " + "n" * 256, "a name of 256 bytes; file systems hold 255"),
        ("vars: {v: " + "x" * 200 + "}\na: " + "${v}" * 900, "a: a text of 180,000 letters"),
        ("? [a, b]\n: 1\n", "a key is a list or a mapping; a name would do"),
        ("a: !!python/object/apply:os.system ['false']\n", ":1: !!python/object/apply:os.system is not read"),
        ("a: " + "[" * 1500 + "]" * 1500, "more than 20000 values or 50 levels"),
        ("a: &a [*a]\n", "values or 50 levels"),
        (BOMB, "more than 20000 values"),
        ("a: " + "x" * 1_000_001, "larger than 1 MB"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_text_that_is_no_plan_is_one_line_and_takes_no_time(tmp_path: Path, text: str, message: str) -> None:
    path = write_plan(tmp_path, text)
    began = time.perf_counter()
    with pytest.raises(PlanError) as caught:
        read_document(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize("kind", ["missing", "folder", "latin-1"])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "plan.yaml"
    if kind == "folder":
        path.mkdir()
    if kind == "latin-1":
        path.write_bytes("name: Grüße".encode("latin-1"))
    reason = {"missing": "No such file", "folder": "Is a directory", "latin-1": "not UTF-8"}[kind]
    with pytest.raises(PlanError, match=rf"plan.yaml: cannot be read \({reason}"):
        read_document(path)


@pytest.mark.parametrize("text", ["0x1F", "0o17", "1:30", "yes", "2020-01-31", "1_000", "0b11"])
def test_what_only_yaml_1_1_takes_for_numbers_dates_and_switches_is_a_text(tmp_path: Path, text: str) -> None:
    path = write_plan(tmp_path, f"seed: {text}\n")
    assert read_document(path).values == {"seed": text}
    assert f"1: seed: is '{text}'; a whole number from 0" in " ".join(faults(path))  # a hex seed was accepted


def test_plain_values_are_read_as_the_core_schema_says(tmp_path: Path) -> None:
    path = write_plan(tmp_path, "a: [1, -2, 1e-3, .5, true, ~, null, '7', \"a\\tb\", word]\nb: &b {8: 1}\nc: *b\n")
    assert read_document(path).values == {
        "a": [1, -2, 0.001, 0.5, True, None, None, "7", "a\tb", "word"],
        "b": {"8": 1},
        "c": {"8": 1},
    }


def test_a_pipe_is_no_plan_and_nobody_waits_for_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plan.yaml")
    with pytest.raises(PlanError, match="is no regular file"):
        read_document(tmp_path / "plan.yaml")


def test_a_key_that_stands_twice_is_told_at_its_second_line(tmp_path: Path) -> None:
    path = write_plan(tmp_path, PLAN + "    factor: 3.0\nseed: 1\nseed: 2\n")
    assert faults(path) == [
        "9: 'factor' stands twice here; one of them would be lost",
        "11: 'seed' stands twice here; one of them would be lost",
    ]


def test_variables_come_from_the_command_line_then_the_plan_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEEZE_TEST_HERE", "environment")
    path = write_plan(tmp_path, "vars: {a: plan, b: plan}\nmodel: ['${a}-${b}-${SQUEEZE_TEST_HERE}']\n")
    document = read_document(path, (), {"a": "line"})
    assert document.values["model"] == ["line-plan-environment"]
    assert document.raw["model"] == ["${a}-${b}-${SQUEEZE_TEST_HERE}"]  # what a package keeps names no folder


def test_an_unknown_variable_is_told_with_its_line_and_the_nearest_known(tmp_path: Path) -> None:
    path = write_plan(tmp_path, "vars: {real: x}\nmodel:\n  hf: ${reel}/m\n")
    assert faults(path) == ["3: unknown variable '${reel}'; did you mean 'real'; vars: or --var reel=... would set it"]


@pytest.mark.parametrize("value", ["[1]", "3", "{a: [1]}"])
def test_vars_are_names_and_texts(tmp_path: Path, value: str) -> None:
    assert faults(write_plan(tmp_path, f"model: x\nvars: {value}\n"))[0].startswith("2: vars: is")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("passes.0.factor", "is not of the form passes.0.ratio=0.5"),
        ("=3", "is not of the form"),
        ("passes.9.factor=3", "no element '9'; there are 1, counted from 0"),
        ("passes.-1.factor=3", "no element '-1'"),
        ("passes.first.factor=3", "no element 'first'"),
        ("pases.0.factor=3", "the plan has no 'pases'; did you mean 'passes'"),
        ("metrics.0.batch=3", "'batch' has nowhere to go"),
        ("passes.0.factor=[3", "'[3' is not YAML"),
        ("passes.0.factor=!!python/name:os.system", "is not YAML"),
        ("passes.0.factor=!!set {a}", "is not YAML (!!set is not read"),
    ],
)
def test_an_override_that_points_nowhere_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_document(write_plan(tmp_path), (override,))
    assert str(caught.value).startswith("--set: ")
    assert message in str(caught.value)


def test_overrides_replace_values_and_add_options(tmp_path: Path) -> None:
    path = write_plan(tmp_path)
    document = read_document(path, ("passes.0.factor=3.5", "data.evaluate.samples=4", "metrics=[kl]", "seed=7"))
    assert document.values["passes"][0]["factor"] == 3.5
    assert document.values["data"]["evaluate"] == {"npz": "evaluate.npz", "samples": 4}
    assert (document.values["metrics"], document.values["seed"]) == (["kl"], 7)


def test_a_fault_in_something_that_is_not_in_the_file_gets_the_line_around_it(tmp_path: Path) -> None:
    path = write_plan(tmp_path)
    assert faults(path, "passes.0.fctor=1")[0].startswith("7: tiny:Scale: unknown option 'fctor'")
