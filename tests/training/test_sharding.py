"""Models in parts, in one process: what FSDP2 does to a module is undone, and what cannot be divided is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from language_world import write_folder
from tiny import CLASSES
from torch import Tensor, distributed, nn
from torch.distributed import HashStore
from torch.distributed.tensor import DTensor

from squeeze.api import load
from squeeze.errors import ModelError, PlanError, SqueezeError
from squeeze.models.base import InputSpec
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.distill.training import TrainingPass
from squeeze.training.group import Group
from squeeze.training.peers import Leader
from squeeze.training.sharding import sharded

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")


class Scaled(nn.Module):
    """Logits times a temperature that is learnt."""

    def __init__(self, temperature: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(108, CLASSES)
        self.temperature = nn.Parameter(temperature)

    def forward(self, image: Tensor) -> Tensor:
        outputs: Tensor = self.linear(image.flatten(1)) * self.temperature
        return outputs


def scaled() -> Scaled:
    return Scaled(torch.ones(1))


def of_one_number() -> Scaled:
    return Scaled(torch.tensor(1.0))


def of_two_types() -> Scaled:
    return Scaled(torch.ones(1, dtype=torch.float16))


@pytest.fixture
def leader() -> Iterator[Leader]:
    group = Group(HashStore(), 0, 1)
    yield Leader(group, "finetune")
    group.close()


def test_a_module_is_as_it_was_when_its_parts_are_put_together(tmp_path: Path, leader: Leader) -> None:
    student = LanguageModel(write_folder(tmp_path / "model", tie_word_embeddings=True)).resident()
    handle = student.blocks()[0].register_forward_hook(lambda *_: None)
    before, tokens = traits(student.module), {"input_ids": torch.arange(8)[None]}
    expected = student.module(**tokens).logits
    with sharded(student, leader, "finetune"):
        assert all(isinstance(weight, DTensor) for weight in student.module.parameters())
        student.module(**tokens).logits.sum().backward()
        assert leader.sharding is not None
        assert all(leader.sharding.take_reached())
    assert traits(student.module) == before
    assert student.module.lm_head.weight is student.module.model.embed_tokens.weight
    assert torch.equal(student.module(**tokens).logits, expected)
    assert not distributed.is_initialized()
    handle.remove()
    assert not student.blocks()[0]._forward_hooks


def test_an_error_inside_is_no_lost_process(tmp_path: Path, leader: Leader) -> None:
    student = LanguageModel(write_folder(tmp_path / "model")).resident()
    with pytest.raises(RuntimeError, match="size mismatch of ours"), sharded(student, leader, "finetune"):
        raise RuntimeError("size mismatch of ours")
    assert not distributed.is_initialized()


def test_a_process_group_of_the_scripts_own_is_left_alone(tmp_path: Path, leader: Leader) -> None:
    student = LanguageModel(write_folder(tmp_path / "model")).resident()
    distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        message = r"finetune: sharded: this script has a default process group, .* destroy_process_group\(\) before"
        with pytest.raises(SqueezeError, match=message), sharded(student, leader, "finetune"):
            pass
        assert distributed.is_initialized()
    finally:
        distributed.destroy_process_group()


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "adafactor": (
        "scaled",
        {"optimizer": "adafactor"},
        "adafactor needs whole matrices, of which a process has a part; optimizer: adamw or sgd would do",
    ),
    "a single number": (
        "of_one_number",
        {},
        "'temperature' is a single number, which has no parts; shape [1] in place of [] would do",
    ),
    "two types": (
        "of_two_types",
        {},
        "weights of float16 and float32 have no common parts; a model of one of them would do",
    ),
}


@pytest.mark.parametrize("pass_", [Finetune, Distill])
@pytest.mark.parametrize(("factory", "options", "message"), BAD.values(), ids=BAD)
def test_what_cannot_lie_in_parts_is_one_clear_line(
    pass_: type[TrainingPass], factory: str, options: dict[str, Any], message: str
) -> None:
    source = FactorySource(f"test_sharding:{factory}")
    model = TorchModel(source.build(), source, (InputSpec("image", (3, 6, 6)),))
    assert list(pass_(sharded=True, **options).faults(model)) == [f"{pass_.name}: sharded: {message}"]
    assert not list(pass_(**options).faults(model))


def test_a_teacher_that_cannot_lie_in_parts_is_one_clear_line(tmp_path: Path, leader: Leader) -> None:
    student = LanguageModel(write_folder(tmp_path / "model")).resident()
    source = FactorySource("test_sharding:of_one_number")
    teacher = TorchModel(source.build(), source, (InputSpec("image", (3, 6, 6)),)).resident()
    with (
        sharded(student, leader, "distill"),
        pytest.raises(ModelError, match="sharded: 'temperature' is a single number"),
    ):
        leader.divide(teacher)


@pytest.mark.parametrize("value", ["perhaps", 2, [True]])
def test_sharded_is_true_or_false(tmp_path: Path, value: object) -> None:
    plan = f"model: {{builtin: digits-cnn}}\npasses:\n  - {{pass: finetune, sharded: {value}}}\n"
    (tmp_path / "plan.yaml").write_text(plan)
    with pytest.raises(PlanError, match="finetune: sharded"):
        load(tmp_path / "plan.yaml")


def traits(module: nn.Module) -> list[Any]:
    """All that FSDP2 changes."""
    hooks = [list(getattr(part, name).values()) for part in module.modules() for name in HOOKS]
    parts = [(name, type(part), sorted(vars(part))) for name, part in module.named_modules()]
    weights = [(name, type(weight), weight.requires_grad) for name, weight in module.named_parameters()]
    return [hooks, parts, weights]
