"""Language models as ``.pte``: what the format holds, the program in torch, and the package in ExecuTorch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import in_shards, write_folder, write_tokenizer
from package_script import run_script, unpacked
from pydantic import ValidationError

from squeeze.algorithms.rtn import round_to_nearest
from squeeze.errors import EffectError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.pte import read_pte
from squeeze.models.base import Batch
from squeeze.models.language.artifact import in_runtime
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.rtn import Rtn
from squeeze.targets.base import Packed
from squeeze.targets.mobile import Mobile
from squeeze.targets.package import PackageInputs
from squeeze.targets.verify import open_package
from squeeze.writers.executorch_decoder import ExecuTorchDecoderWriter
from squeeze.writers.proof import proven
from squeeze.writers.pte_decoder.network import CachedDecoder, network
from squeeze.writers.pte_decoder.weights import IntegerTable, holds

TARGET = Mobile(runtime="executorch", context=48)
PROMPT = [1, 5, 9, 2, 7, 3, 8, 4]
HELD = GridKind(64, 64, 4, 32, True, scales="bfloat16")
EXECUTORCH = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("executorch") is None, reason="no executorch: pip install 'squeeze[mobile]'"),
]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = write_folder(tmp_path_factory.mktemp("tiny"), max_position_embeddings=64)
    write_tokenizer(folder)
    return LanguageModel(folder)


@pytest.fixture(scope="module")
def quantized(dense: LanguageModel) -> LanguageModel:
    """4 bits in groups of 32, both ends too."""
    pass_ = Rtn(bits=4, group_size=32, scales="bfloat16", embeddings=4)
    return in_shards(pass_.run(dense, Context()))


def tokens(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(0, 128, count)]


def read(decoder: CachedDecoder, text: list[int], steps: list[int]) -> torch.Tensor:
    """Logits of a text that is read in pieces of these lengths."""
    rows, start = [], 0
    with decoder.attending(), torch.no_grad():
        for count in steps:
            part = slice(start, start + count)
            rows.append(decoder(torch.tensor([text[part]]), torch.arange(part.start, part.stop))[0])
            start += count
    return torch.cat(rows)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GridKind(64, 64, 4, 32, False, scales="bfloat16"), "no weights of 4 bits with zero points; symmetric: true"),
        (
            GridKind(64, 96, 4, 48, True, scales="bfloat16"),
            "group_size 48 of 96 inputs fills no blocks of XNNPACK",
        ),
        (GridKind(64, 72, 4, None, True, scales="bfloat16"), "group_size null of 72 inputs"),
        (GridKind(64, 64, 3, 32, True, scales="bfloat16"), "no weights of 3 bits; bits: 4 or 8 would do"),
        (GridKind(64, 64, 4, 32, True), "scales of 4 bits in bfloat16; scales: bfloat16 would do"),
        (GridKind(64, 64, 4, 32, True, True, "bfloat16"), "act_order; order: group_aware would do"),
        (GridKind(64, 64, 4, 32, True, False, "bfloat16", True), "no negative scales; negative_scales: false would do"),
        (GridKind(64, 64, 8, 32, True), "no weights of 8 bits in groups of 32; group_size: null would do"),
    ],
)
def test_what_xnnpack_cannot_multiply_is_refused_with_what_it_could(kind: GridKind, message: str) -> None:
    assert message in str(holds(kind))


@pytest.mark.parametrize(
    "kind", [HELD, GridKind(64, 64, 8, None, True), GridKind(64, 64, 4, None, True, False, "bfloat16")]
)
def test_what_it_can_is_held(kind: GridKind) -> None:
    assert holds(kind) is None


def test_a_bfloat16_scale_is_exact_in_float16_too() -> None:
    """So one grid goes into .pte, .gguf and ONNX files alike."""
    for extreme in (1.0, 1e-6, 1e5):
        weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * extreme
        scale = round_to_nearest(weight, 4, 32, scale_dtype=torch.bfloat16).scale
        assert torch.equal(scale.bfloat16().float(), scale)
        assert torch.equal(scale.half().float(), scale)


def test_gptq_says_of_its_grid_what_holds_it(dense: LanguageModel) -> None:
    before = dense.grid_kinds()
    assert before == {}
    shape = dense.matrices()["model.layers.0.mlp.down_proj.weight"]
    options: dict[str, Any] = {"bits": 4, "group_size": 32, "scales": "bfloat16"}
    refused, held = Gptq(**options), Gptq(**options, negative_scales=False)
    name = "model.layers.0.mlp.down_proj.weight"
    assert "negative" in str(holds(refused.kind(shape, refused.schemes(dense)[name])))
    assert holds(held.kind(shape, held.schemes(dense)[name])) is None


def test_a_stored_grid_says_that_bfloat16_holds_its_scales(quantized: LanguageModel, tmp_path: Path) -> None:
    quantized.save(tmp_path)
    kinds = LanguageModel.load(tmp_path).grid_kinds()
    assert {kind.scales for kind in kinds.values()} == {"bfloat16"}
    assert all(holds(kind) is None for kind in kinds.values())


@pytest.mark.parametrize(
    ("family", "changes"),
    [("Llama", {}), ("Gemma2", {"sliding_window": 4, "head_dim": 16}), ("Mistral", {"sliding_window": 5})],
    ids=["plain", "soft cap and window", "window"],
)
def test_the_program_in_torch_is_the_model_in_pieces_of_any_length(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = LanguageModel(write_folder(tmp_path, family, max_position_embeddings=64, **changes))
    text = tokens(20)
    ((_, expected),) = model.logits(torch.tensor([text]))
    decoder = network(model, 32)
    for steps in ([20], [7, 1, 12]):
        assert torch.allclose(read(decoder, text, steps), expected[0], atol=1e-4)


def test_a_table_gives_the_rows_that_its_integers_stand_for(quantized: LanguageModel) -> None:
    grid = quantized.quantized("model.embed_tokens.weight")
    rows = IntegerTable(grid)(torch.tensor([PROMPT]))[0]
    assert torch.equal(rows, grid.dequantize()[PROMPT])


def test_rounding_activations_changes_little_and_something(quantized: LanguageModel) -> None:
    text = tokens(20)
    ((_, expected),) = quantized.logits(torch.tensor([text]))
    logits = read(network(quantized, 32), text, [20])
    assert 0 < float((logits - expected[0]).abs().max()) < 0.1 * float(expected.abs().max())


def test_a_window_larger_than_the_model_reads_is_refused(dense: LanguageModel) -> None:
    (message,) = Mobile(runtime="executorch", context=65).faults(dense)
    assert message == "context 65 is more than the 64 tokens that the model can read"
    assert list(TARGET.faults(dense)) == []
    with pytest.raises(ValidationError, match="greater than 0"):
        Mobile(runtime="executorch", context=0)


def test_memory_is_counted_at_the_window_that_is_compiled_in(dense: LanguageModel) -> None:
    assert TARGET.counted_context(dense) == 48
    assert Mobile(runtime="executorch").counted_context(dense) == 64
    options = {unused.option for unused in TARGET.unused(dense, None)}
    assert options == {"device_context"}


def test_onnx_runtime_mobile_takes_no_language_model(dense: LanguageModel) -> None:
    (message,) = Mobile().faults(dense)
    assert message.startswith("runtime ort takes no language model; runtime: executorch would")


def test_experts_in_one_tensor_are_refused_by_name(tmp_path: Path) -> None:
    changes = {"num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64}
    model = LanguageModel(write_folder(tmp_path, "Mixtral", **changes))
    (message,) = TARGET.faults(model)
    assert message.startswith("model.layers.0.mlp.experts.")
    assert message.endswith("experts in one tensor have no form in a .pte file; target: gguf holds them")


def test_a_target_without_its_extra_says_what_to_install(
    dense: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("squeeze.runtimes.base.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"executorch needs .*pip install 'squeeze\[mobile\]'"):
        TARGET.writer_of(dense).write(dense, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def packed(quantized: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    pieces = PackageInputs("tiny", Batch({"input_ids": torch.tensor([PROMPT])}), {"passes": []}, {"rows": []})
    return TARGET.pack(quantized, pieces, tmp_path_factory.mktemp("pte") / "tiny-pte.zip")


class TestInExecuTorch:
    """With the runtime: an export takes half a minute, so all tests share one."""

    pytestmark = EXECUTORCH

    def test_the_package_verifies_and_says_what_torch_says(self, packed: Packed, quantized: LanguageModel) -> None:
        """Activations are rounded in torch as XNNPACK rounds them."""
        assert packed.verification.bit_equal
        text = tokens(20)
        ((_, logits),) = in_runtime(packed.artifact).logits(torch.tensor([text]))
        expected = read(network(quantized, 48), text, [20])
        assert float((logits[0] - expected).abs().max()) < 0.02 * float(expected.abs().max())

    def test_executorchs_own_reader_sees_the_very_integers(self, packed: Packed, quantized: LanguageModel) -> None:
        writer = ExecuTorchDecoderWriter(48)
        (line,) = proven(writer.prove(quantized, packed.artifact.main))
        assert (line["tensors"], line["differing"]) == (16, 0)  # 14 in blocks, table and head
        facts = writer.facts(quantized, packed.artifact.main)["delegated"]
        assert facts["macs"][0] == facts["macs"][1]

    def test_a_second_process_writes_the_same_bytes(
        self, packed: Packed, quantized: LanguageModel, tmp_path: Path
    ) -> None:
        again = ExecuTorchDecoderWriter(48).write(quantized, tmp_path)
        assert again.read_bytes() == packed.artifact.main.read_bytes()

    @pytest.mark.parametrize("kind", ["matrix", "table"])
    def test_a_single_other_integer_is_found(
        self, kind: str, packed: Packed, quantized: LanguageModel, tmp_path: Path
    ) -> None:
        data = bytearray(packed.artifact.main.read_bytes())
        name = "model.embed_tokens.weight" if kind == "table" else "model.layers.1.mlp.down_proj.weight"
        q = (quantized.quantized(name).q + 8).to(torch.uint8)
        stored = (q[:, ::2] | (q[:, 1::2] << 4)).numpy().tobytes()
        at = data.index(stored) + 5
        data[at] ^= 1
        (tmp_path / "model.pte").write_bytes(data)
        with pytest.raises(EffectError, match="weights otherwise than they were written"):
            proven(ExecuTorchDecoderWriter(48).prove(quantized, tmp_path / "model.pte"))

    def test_texts_that_do_not_fit_the_window_are_refused(self, packed: Packed) -> None:
        artifact = in_runtime(packed.artifact)
        with pytest.raises(ModelError, match="49 tokens are more than the 48 that a text may have"):
            next(artifact.logits(torch.zeros(1, 49, dtype=torch.int64)))
        with pytest.raises(ModelError, match="50 tokens are more than the 48"):
            list(artifact.generate(PROMPT, 43))

    def test_its_script_runs_without_squeeze(self, packed: Packed, tmp_path: Path) -> None:
        folder = unpacked(packed.path, tmp_path)
        for arguments in (["--golden", "--json"], ["a b", "--tokens", "5", "--json"]):
            done = run_script(folder, *arguments)
            assert done.returncode == 0, done.stderr
            answer = json.loads(done.stdout)
            assert answer.get("agrees", True)
            assert answer.get("tokens", 0) <= 5
        assert open_package(packed.path).manifest.runtime.name == "executorch"

    def test_a_float_program_goes_on_with_a_text_as_torch_does(self, dense: LanguageModel, tmp_path: Path) -> None:
        """50 tokens in a row, each the likeliest."""
        artifact = in_runtime(Mobile(runtime="executorch", context=64).build(dense, tmp_path))
        text = list(PROMPT)
        for token in artifact.generate(PROMPT, 50):
            ((_, logits),) = dense.logits(torch.tensor([text]))
            assert token == int(logits[0, -1].argmax())
            text.append(token)
        assert len(text) == len(PROMPT) + 50
        assert all(layer.scale is None for layer in read_pte(artifact.main).layers())
