"""Packages of language models: built in each format, proven, verified, run by their own script."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from language_world import in_shards, write_folder
from package_script import unpacked

from squeeze import registry
from squeeze.errors import EffectError, ModelError, VerifyError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Batch
from squeeze.models.language.artifact import in_runtime
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.llama_cpp import WithoutAmx
from squeeze.targets.base import Target
from squeeze.targets.bench import Load, bench
from squeeze.targets.checkpoint import Checkpoint
from squeeze.targets.cpu import Cpu
from squeeze.targets.genai import Genai
from squeeze.targets.gguf import Gguf
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package, verify
from squeeze.writers.proof import Equality, proven

PROMPT = [1, 5, 9, 2, 7, 3, 8, 4]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny Llama on a 4-bit grid with groups of 32, which every format holds."""
    folder = write_folder(tmp_path_factory.mktemp("tiny"), max_position_embeddings=64)
    write_bpe_tokenizer(folder)
    return in_shards(Rtn(bits=4, group_size=32).run(LanguageModel(folder), Context()))


@pytest.fixture(scope="module")
def decoder(quantized: LanguageModel) -> Any:
    return ExportOnnx().run(quantized, Context())


def write_bpe_tokenizer(folder: Path) -> None:
    """One token per letter in a tokenizer of the kind that llama.cpp knows; the last one ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:126]
    first, second = letters[:2]
    vocabulary = {token: place for place, token in enumerate([*letters, first + second, "<end>"])}
    bpe = Tokenizer(models.BPE(vocabulary, [(first, second)]))  # llama.cpp wants one merge at least
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>").save_pretrained(folder)


def pieces() -> PackageInputs:
    return PackageInputs("tiny", Batch({"input_ids": torch.tensor([PROMPT])}), {"passes": []}, {"rows": []})


def needs(*modules: str) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def targets() -> list[Any]:
    return [
        pytest.param(Cpu(), True, (), id="onnx"),
        pytest.param(Genai(), True, ("onnxruntime_genai",), id="genai"),
        pytest.param(Gguf(runtime="transformers"), False, ("gguf", "accelerate"), id="gguf in transformers"),
        pytest.param(Gguf(), False, ("gguf", "llama_cpp"), id="gguf in llama.cpp"),
        pytest.param(Checkpoint(format="compressed-tensors"), False, ("compressed_tensors",), id="compressed-tensors"),
        pytest.param(Checkpoint(), False, ("gptqmodel", "optimum"), id="gptq"),
    ]


@pytest.mark.parametrize(("target", "exported", "modules"), targets())
def test_a_package_of_each_format_verifies_says_the_same_and_runs_by_itself(
    target: Target[Any],
    exported: bool,
    modules: tuple[str, ...],
    quantized: LanguageModel,
    decoder: Any,
    tmp_path: Path,
) -> None:
    needs(*modules)
    model = decoder if exported else quantized
    proof = target.prove(model, target.build(model, _new(tmp_path / "proof")))
    assert exported or (proof and all(line["differing"] == 0 and line["tensors"] == 14 for line in proof))
    packed = target.pack(model, pieces(), tmp_path / "tiny.zip")
    assert packed.verification.bit_equal
    assert open_package(packed.path).loaded_bytes() == packed.artifact.nbytes()
    expected = torch.log_softmax(quantized.predict(Batch({"input_ids": torch.tensor([PROMPT])}))[0], -1)[-1]
    artifact = in_runtime(packed.artifact)
    _, result = artifact.log_probabilities(PROMPT)
    assert float((torch.from_numpy(result) - expected).abs().max()) < 0.1
    written = list(artifact.generate(PROMPT, 4))
    assert len(written) == 4
    packed.artifact.close()
    assert vars(packed.artifact).keys() == vars(packed.artifact.reopened()).keys()  # nothing of the runtime is held
    assert list(in_runtime(packed.artifact).generate(PROMPT, 4)) == written
    folder = unpacked(packed.path, tmp_path / "unpacked")
    golden, text = run(folder, ["--golden", "--json"], ["a b", "--tokens", "5", "--json"])
    assert golden["agrees"]
    assert text["tokens"] <= 5


RUN = """
import runpy, sys
for arguments in {calls}:
    sys.argv[1:] = arguments
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
"""


def run(folder: Path, *calls: list[str]) -> list[dict[str, Any]]:
    """The package's own script, called with each list of arguments, in a process that knows nothing of Squeeze."""
    code = f"import sys; sys.argv[0] = 'run.py'; {RUN.format(calls=calls)}"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize(("flags", "loaded"), [("avx2 avx512_vnni", True), ("avx2 amx_tile amx_int8", False)])
def test_llama_cpp_leaves_out_its_kernels_for_amx_which_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, loaded: bool
) -> None:
    needs("llama_cpp")
    from llama_cpp import llama_cpp

    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(WithoutAmx, "CPU", tmp_path / "cpuinfo")
    with WithoutAmx():
        assert llama_cpp.llama_model_default_params().use_extra_bufts is loaded
    assert llama_cpp.llama_model_default_params().use_extra_bufts


@pytest.fixture(scope="module")
def packed(decoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for ONNX Runtime."""
    return Cpu().pack(decoder, pieces(), tmp_path_factory.mktemp("packed") / "tiny.zip").path


def test_a_language_package_is_benched_by_the_tokens_it_reads_and_writes(packed: Path) -> None:
    result = bench(open_package(packed), load=Load(prompt=8, tokens=4, rounds=2))
    for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "first_token_ms"):
        assert result[name]["p10"] <= result[name]["median"] <= result[name]["p90"]
        assert result[name]["p10"] > 0
    assert result["peak_rss_bytes"] > 10_000_000


def test_other_weights_in_the_file_do_not_verify(packed: Path) -> None:
    """The sums are made anew, so only the golden prompt can tell."""
    package = open_package(packed)
    data = package.folder / "model" / "model.onnx.data"
    stored = bytearray(data.read_bytes())
    stored[: len(stored) // 2] = bytes(len(stored) // 2)
    data.write_bytes(stored)
    with pytest.raises(VerifyError, match="golden output differs by"):
        verify(package)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"runtime": {"name": "torch", "version": "1"}}, "runtime 'torch' is none of .*onnxruntime"),
        ({"model": "model/tokenizer.json"}, r"is no \.onnx file, which onnxruntime loads"),
        ({"task": "sing"}, "task: Input should be 'predict' or 'generate'"),
    ],
    ids=["unknown runtime", "a model that is none", "unknown task"],
)
def test_a_manifest_that_names_nonsense_is_refused(
    change: dict[str, Any], complaint: str, packed: Path, tmp_path: Path
) -> None:
    folder = unpacked(packed, tmp_path / "unpacked")
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(VerifyError, match=complaint):
        open_package(folder)


@pytest.mark.parametrize(
    ("target", "kind", "complaint"),
    [
        (Gguf(), GridKind(64, 96, 4, 16, True), "group_size 16 is no multiple of GGUF's blocks of 32"),
        (Checkpoint(format="compressed-tensors"), GridKind(64, 64, 4, 32, True, ordered=True), "act_order"),
        (Checkpoint(version=1), GridKind(64, 64, 4, 32, False), "version: 2 would do"),
    ],
    ids=["gguf", "compressed-tensors", "gptq"],
)
def test_a_grid_that_a_format_cannot_hold_is_refused_before_anything_runs(
    target: Target[Any], kind: GridKind, complaint: str
) -> None:
    (fault,) = target.grid_faults({"model.layers.0.mlp.up_proj.weight": kind})
    assert fault.startswith("model.layers.0.mlp.up_proj.weight: ")
    assert complaint in fault


def test_a_checkpoint_of_nothing_quantized_is_refused() -> None:
    (fault,) = Checkpoint().grid_faults({})
    assert "a pass such as gptq or rtn would make some" in fault


def test_a_reader_that_sees_another_weight_stops_the_run() -> None:
    lines = proven([Equality("a", "gguf", "gguf", "float32", 64, 0), Equality("b", "gguf", "gguf", "float32", 64, 0)])
    output = {"format": "gguf", "reader": "gguf", "dtype": "float32", "tensors": 2, "weights": 128, "differing": 0}
    assert lines == [output]
    with pytest.raises(EffectError, match="gguf: b: gguf reads 1 of 64 weights otherwise"):
        proven([Equality("b", "gguf", "gguf", "float32", 64, 1)])


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = registry.load("runtimes", "llama.cpp")
    monkeypatch.setattr("squeeze.runtimes.base.find_spec", lambda module: None)
    with pytest.raises(ModelError, match=r"x\.zip: llama\.cpp needs llama_cpp: pip install 'squeeze\[llama-cpp\]'"):
        kind.require_installed("x.zip")


def test_the_golden_prompt_is_a_sentence_where_there_is_a_tokenizer(quantized: LanguageModel) -> None:
    assert quantized.task.golden(quantized).inputs["input_ids"].shape[1] > 40  # letters


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
