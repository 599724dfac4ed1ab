"""Examples for apps: they parse as Kotlin and Swift, and say what the manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from squeeze.data.preprocess import Preprocess
from squeeze.formats.tensor_spec import TensorSpec
from squeeze.targets.apps import app_files
from squeeze.targets.apps.files import kotlin, swift
from squeeze.targets.apps.picture import picture_of
from squeeze.targets.manifest import Manifest, Runtime

RUNTIMES = ["onnxruntime", "litert", "executorch"]


STEPS = {"resize": 256, "crop": 224, "scale": 1 / 255, "normalize": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}}


STRANGE = 'a "quote" \\ $name ${x} \\(y)\n*/ end'


IMAGE = TensorSpec(name="image", shape=(1, 3, 224, 224), dtype="float32")


def manifest_of(runtime: str, inputs: tuple[TensorSpec, ...] = (IMAGE,), **changes: Any) -> Manifest:
    endings = {"onnxruntime": "model.ort", "litert": "model.tflite", "executorch": "model.pte", "coreml": ""}
    values: dict[str, Any] = {
        "name": "tiny",
        "target": "mobile",
        "runtime": Runtime(name=runtime, version="1.2.3"),
        "model": endings[runtime],
        "inputs": inputs,
        "outputs": (TensorSpec(name="logits", shape=(1, 3), dtype="float32"),),
        "tolerance": 0.01,
        "preprocessing": STEPS,
        "labels": ("ant", "bee", "cat"),
        "parameters": 1,
        "macs": 1,
        "provenance": {},
        "files": {},
    }
    return Manifest(**(values | changes))


def shapes(runtime: str) -> Iterator[tuple[str, Manifest]]:
    """Every way in which the templates branch."""
    yield "picture", manifest_of(runtime)
    yield "two sides", manifest_of(runtime, preprocessing={**STEPS, "resize": [224, 224]})
    yield (
        "grey",
        manifest_of(
            runtime, (TensorSpec(name="image", shape=(1, 1, 28, 28), dtype="float32"),), preprocessing={"channels": 1}
        ),
    )
    yield "bare", manifest_of(runtime, preprocessing={}, labels=None)
    tokens = [TensorSpec(name=n, shape=("batch", "length"), dtype="int64") for n in ("input_ids", "attention_mask")]
    yield "tokens", manifest_of(runtime, tuple(tokens), preprocessing={"tokenizer": "tokenizer.json"}, labels=None)
    strange = TensorSpec(name=STRANGE, shape=(1, 3, 224, 224), dtype="float32")
    outputs = (TensorSpec(name=STRANGE, shape=(1, 3), dtype="float32"),)
    yield "strange", manifest_of(runtime, (strange,), name=STRANGE, outputs=outputs)


def test_core_ml_has_an_example_for_ios_alone() -> None:
    """Which names the folder that Xcode compiles, not the file that the manifest points at."""
    manifest = manifest_of("coreml", model="model.mlpackage/Data/com.apple.CoreML/model.mlmodel")
    cases: list[dict[str, Any]] = [{}, {"labels": None, "preprocessing": {}}, {"name": STRANGE}]
    for changes in cases:
        files = app_files(manifest.model_copy(update=changes))
        assert set(files) == {"app/Model.swift"}
        assert not faults_of(files["app/Model.swift"], "swift")
    text = app_files(manifest)["app/Model.swift"].decode()
    assert 'Model.resource("model.mlmodelc")' in text
    assert '"image": MLFeatureValue(shapedArray: array0)' in text
    assert 'featureValue(for: "logits")' in text


def text_manifest() -> Manifest:
    return manifest_of("executorch", task="generate", model="model/model.pte", preprocessing={}, labels=None)


CASES = [(runtime, what, manifest) for runtime in RUNTIMES for what, manifest in shapes(runtime)]
CASES.append(("executorch", "text", text_manifest()))


def faults_of(source: bytes, language: str) -> list[str]:
    """Lines that a parser cannot make sense of."""
    tree_sitter = pytest.importorskip("tree_sitter", reason="pip install 'squeeze[dev]' brings the parsers")
    grammar = pytest.importorskip(f"tree_sitter_{language}", reason="pip install 'squeeze[dev]' brings the parsers")
    tree = tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(source)
    nodes, wrong = [tree.root_node], []
    while nodes:
        node = nodes.pop()
        if node.type == "ERROR" or node.is_missing:
            wrong.append(f"line {node.start_point[0] + 1}: {node.text.decode()[:60]}")
        nodes += node.children
    return wrong


@pytest.mark.parametrize(("runtime", "what", "manifest"), CASES, ids=[f"{r} {w}" for r, w, _ in CASES])
def test_examples_are_kotlin_and_swift(runtime: str, what: str, manifest: Manifest) -> None:
    files = app_files(manifest)
    assert not faults_of(files["app/Model.kt"], "kotlin"), (runtime, what)
    assert not faults_of(files["app/Model.swift"], "swift"), (runtime, what)


@pytest.mark.parametrize(("language", "name"), [("kotlin", "app/Model.kt"), ("swift", "app/Model.swift")])
def test_the_parsers_see_a_missing_bracket(language: str, name: str) -> None:
    source = app_files(manifest_of("litert"))[name]
    assert faults_of(source.replace(b"(", b"", 1).replace(b"{", b"", 1), language)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_template_is_left_in_the_examples_and_lines_are_short(runtime: str) -> None:
    for name, source in app_files(manifest_of(runtime)).items():
        text = source.decode()
        assert "{%" not in text, name
        assert "{{" not in text, name
        assert max(map(len, text.splitlines())) <= 160, name


@pytest.mark.parametrize("name", ["app/Model.kt", "app/Model.swift"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_example_says_what_the_manifest_says(runtime: str, name: str) -> None:
    manifest = manifest_of(runtime)
    text = app_files(manifest)[name].decode()
    assert f'"{manifest.model}"' in text
    assert "float32 [1, 3, 224, 224]" in text
    assert "manifest.json" in text
    if runtime != "litert":  # whose buffers know their shapes
        assert "1, 3, 224, 224)" in text or "[1, 3, 224, 224])" in text
    if runtime == "onnxruntime":  # the others go by place
        assert '"image"' in text
        assert '"logits"' in text
    assert manifest.runtime.version in text or (runtime, name) in [
        ("litert", "app/Model.swift"),
        ("onnxruntime", "app/Model.swift"),
    ]


def test_the_numbers_of_a_picture_are_those_of_the_evaluation_data() -> None:
    """``pixel * factor + offset`` for each channel is what Preprocess computes."""
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    picture = picture_of(IMAGE, STEPS)
    assert picture is not None
    assert (picture.short, picture.height, picture.width) == (256, 224, 224)
    factors, offsets = (np.array(each, np.float32)[:, None, None] for each in (picture.factors, picture.offsets))
    expected = Preprocess(normalize=STEPS["normalize"])(pixels)
    assert np.allclose(pixels.transpose(2, 0, 1) * factors + offsets, expected, atol=1e-5)


def test_strings_of_strangers_stay_strings() -> None:
    assert kotlin(STRANGE) == r'"a \"quote\" \\ \$name \${x} \\(y)\n*/ end"'
    assert swift(STRANGE) == r'"a \"quote\" \\ $name ${x} \\(y)\u{a}*/ end"'


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "cpu"},
        {"inputs": (TensorSpec(name="x", shape=(1, 4), dtype="float16"),)},
        {"inputs": (TensorSpec(name="x", shape=(1, "a", "b"), dtype="float32"),)},
    ],
    ids=["no phone", "no such type", "two free sizes"],
)
def test_what_no_example_can_say_has_none(changes: dict[str, Any]) -> None:
    assert app_files(manifest_of("onnxruntime", **changes)) == {}


def test_a_text_has_examples_and_no_tool_that_measures_it() -> None:
    assert set(app_files(text_manifest())) == {"app/Model.kt", "app/Model.swift"}
