"""A .pte file of many blocks is grown from a few exported ones: which, what they are simplified to, and the copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import in_shards, write_folder
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.executorch import ExecuTorchText
from squeeze.writers.executorch_decoder import ExecuTorchDecoderWriter
from squeeze.writers.proof import proven
from squeeze.writers.pte_decoder import lower
from squeeze.writers.pte_decoder.alike import Lowered, NotAlikeError
from squeeze.writers.pte_decoder.delegates import with_digests
from squeeze.writers.pte_decoder.job import Job
from squeeze.writers.pte_decoder.lower import exported
from squeeze.writers.pte_decoder.network import CachedDecoder, network
from squeeze.writers.pte_decoder.pattern import Pattern, pattern_of
from squeeze.writers.pte_decoder.repeat import repeated
from squeeze.writers.pte_decoder.simplify import simplify
from squeeze.writers.pte_decoder.stored import ProgramWeights, by_digest, digest, encoded
from squeeze.writers.pte_decoder.weights import table_bytes

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch.export calls what torch deprecates
BLOCKS = 6
INT4 = Rtn(bits=4, group_size=32, scales="bfloat16", embeddings=4)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = write_folder(tmp_path_factory.mktemp("six"), max_position_embeddings=64, num_hidden_layers=BLOCKS)
    return LanguageModel(folder)


@pytest.fixture(scope="module")
def quantized(dense: LanguageModel) -> LanguageModel:
    return in_shards(INT4.run(dense, Context()))


class TestPattern:
    def test_blocks_of_one_kind_are_exported_four_times(self, quantized: LanguageModel) -> None:
        pattern = pattern_of(quantized)
        assert pattern == Pattern("model.layers", BLOCKS, 1)
        assert pattern.kept == [0, 1, 2, 5]
        assert list(pattern.copies) == [3, 4]

    def test_alternating_windows_come_round_after_two(self, tmp_path: Path) -> None:
        changes: dict[str, Any] = {"sliding_window": 4, "head_dim": 16, "num_hidden_layers": 11}
        pattern = pattern_of(LanguageModel(write_folder(tmp_path, "Gemma2", **changes)))
        assert pattern is not None
        assert pattern.kept == [0, 1, 2, 3, 4, 5, 8, 9, 10]
        assert list(pattern.copies) == [3]

    def test_four_blocks_are_too_few_to_repeat_any(self, tmp_path: Path) -> None:
        assert pattern_of(LanguageModel(write_folder(tmp_path, num_hidden_layers=4))) is None

    def test_a_block_on_another_grid_is_of_another_kind(self, dense: LanguageModel) -> None:
        pass_ = Rtn(bits=4, group_size=32, scales="bfloat16", exclude=["*layers.5.mlp*"])
        assert pattern_of(in_shards(pass_.run(dense, Context()))) is None

    def test_names_move_by_rounds_and_others_stay(self) -> None:
        pattern = Pattern("model.layers", 11, 2)
        assert pattern.moved("module.model.layers.4.mlp.up_proj.q", 2) == "module.model.layers.8.mlp.up_proj.q"
        assert pattern.moved("keys_5", 1) == "keys_7"
        assert pattern.whole("module.model.layers.8.mlp.up_proj.q") == "module.model.layers.10.mlp.up_proj.q"
        assert pattern.whole("values_5") == "values_5"
        assert [pattern.round_of(name) for name in ("keys_1", "model.layers.8", "model.norm.weight")] == [0, 3, None]


def test_stand_ins_are_found_again_by_their_bytes(quantized: LanguageModel) -> None:
    pattern = pattern_of(quantized)
    decoder = network(quantized, 16, pattern)
    inside = {name: value for name, value in decoder.state_dict().items() if ".layers." in name and ".zero" not in name}
    assert len(inside) == 4 * (2 * 7 + 2)
    assert all(len(names) == 1 for names in by_digest(inside).values())
    assert torch.equal(decoder.state_dict()["module.lm_head.q"], quantized.quantized("lm_head.weight").q)


def test_weights_of_the_program_are_those_of_the_model(quantized: LanguageModel) -> None:
    """By the names and in the encodings in which delegates hold them."""
    weights, grid = ProgramWeights(quantized), quantized.quantized("model.layers.4.self_attn.q_proj.weight")
    q, scale = (weights[f"module.model.layers.4.self_attn.q_proj.{part}"] for part in ("q", "scale"))
    assert encoded(q, "two to a byte") == table_bytes(grid).numpy().tobytes()
    assert torch.equal(scale, grid.scale)
    assert len(encoded(scale, "bfloat16")) == 2 * scale.numel()
    norm = weights["module.model.layers.4.input_layernorm.weight"]
    assert torch.equal(norm, quantized.tensor("model.layers.4.input_layernorm.weight"))


def test_digests_are_exchanged_in_one_go() -> None:
    one, other = digest(b"1"), digest(b"2")
    graph = f"a {one} b {other} c {one}".encode()
    assert with_digests(graph, {f"scale_{one}": other, other: one}) == f"a {other} b {one} c {other}".encode()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> CachedDecoder:
    return network(LanguageModel(write_folder(tmp_path_factory.mktemp("two"), max_position_embeddings=64)), 16)


@pytest.fixture(scope="module")
def simplified(decoder: CachedDecoder) -> torch.export.ExportedProgram:
    program = exported(decoder, 8)
    simplify(program)
    return program


def test_no_operator_that_cuts_a_block_is_left(simplified: torch.export.ExportedProgram) -> None:
    left = {str(node.target) for node in simplified.graph.nodes}
    assert not left & {"aten.mean.dim", "aten.slice.Tensor", "aten.unsqueeze.default", "aten.select.int"}


@pytest.mark.parametrize("length", [1, 7])
def test_a_simplified_program_computes_what_it_did(
    length: int, decoder: CachedDecoder, simplified: torch.export.ExportedProgram
) -> None:
    tokens, places = torch.arange(length)[None] + 3, torch.arange(length)
    with decoder.attending(), torch.no_grad():
        expected = decoder(tokens, places)
    assert torch.allclose(simplified.module()(tokens, places), expected, atol=1e-5)


def test_matrices_that_multiply_the_same_activations_round_them_once(tmp_path: Path) -> None:
    """Of a block's seven: q, k and v together, the output, gate and up together, down."""
    model = in_shards(INT4.run(LanguageModel(write_folder(tmp_path, num_hidden_layers=1)), Context()))
    program = exported(network(model, 16), 8)
    rounded = [node for node in program.graph.nodes if "choose_qparams" in str(node.target)]
    assert len(rounded) == 4 + 1  # and the head's


class Branches(nn.Module):
    """What is no program: its path depends on values."""

    module = nn.Identity()

    def attending(self) -> Any:
        return nullcontext()

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        return tokens if tokens.sum() > 3 else places[None]


def test_what_torch_cannot_follow_is_named_with_its_line() -> None:
    with pytest.raises(ModelError, match=r"^Identity cannot be exported: .* \(test_pte_blocks\.py:\d+\)$"):
        exported(Branches(), 4)  # type: ignore[arg-type]


class Toy(nn.Module):
    """Blocks that remember in ``keys_0``, ``keys_1`` ... what they are given, and add it up."""

    def __init__(self, count: int, odd: int | None = None, skip: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(count)])
        self.odd, self.skip = odd, skip
        for index in range(count):
            self.register_buffer(f"keys_{index}", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        early = x
        for index, layer in enumerate(self.layers):
            keys = self.get_buffer(f"keys_{index}").add_(x)
            x = layer(x).sigmoid() if index == self.odd else layer(x).tanh()
            x = x + keys
            early = x if index == 1 else early
        return x + early if self.skip else x


def grown(toy: Toy, whole: Toy) -> torch.export.ExportedProgram:
    """The program of the whole from that of four blocks."""
    program = torch.export.export(toy, (torch.zeros(4),)).run_decompositions({})
    pattern = Pattern("layers", len(whole.layers), 1)
    return repeated(Lowered(program, pattern, {}), whole.state_dict())


def test_a_program_of_four_blocks_grows_to_seven() -> None:
    torch.manual_seed(0)
    whole, x = Toy(7), torch.randn(4)
    program = grown(Toy(4), whole)
    assert sorted(program.state_dict) == sorted(whole.state_dict())
    module = program.module()
    for _ in range(2):  # the second time with what the first one left in the caches
        assert torch.allclose(module(x), whole(x), atol=1e-6)


@pytest.mark.parametrize(
    ("toy", "message"),
    [(Toy(4, odd=2), "are different operators"), (Toy(4, skip=True), "add.* of round 3 reads add.*, of one that is")],
    ids=["another activation", "what an early block gave"],
)
def test_rounds_that_are_not_alike_are_not_repeated(toy: Toy, message: str) -> None:
    with pytest.raises(NotAlikeError, match=message):
        grown(toy, Toy(7))


@pytest.fixture
def text() -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(0, 128, 20)]


@contextmanager
def every_block() -> Iterator[None]:
    """Export every block, as where no pattern is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower, "pattern_of", lambda model: None)
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ExecuTorch's, in this process for once
@pytest.mark.skipif(find_spec("executorch") is None, reason="no executorch: pip install 'squeeze[mobile]'")
@pytest.mark.parametrize("kind", ["dense", "quantized"])
def test_a_grown_file_says_bit_for_bit_what_one_of_all_blocks_says(
    kind: str, text: list[int], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: LanguageModel = request.getfixturevalue(kind)
    logits = []
    for name, how in (("grown", nullcontext()), ("whole", every_block())):
        with how:
            lower.write(lower.lowered(model, Job(str(model.folder), 32, 16)), tmp_path / name)
        logits.append(ExecuTorchText(tmp_path / name, 1).feed(text, every=True))
    assert np.array_equal(*logits)
    if kind == "quantized":
        (line,) = proven(ExecuTorchDecoderWriter(32).prove(model, tmp_path / "grown"))
        assert (line["tensors"], line["differing"]) == (7 * BLOCKS + 2, 0)
