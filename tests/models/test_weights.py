"""Weights are data: every damaged file is one line, and no file is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import network
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.models.weights import assign, read_weights, write_weights

torch.manual_seed(0)
WEIGHTS = network().state_dict()


class Opens:
    """A pickle that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def read(path: Path) -> nn.Module:
    """A network with the weights of that file."""
    module = network()
    assign(module, read_weights(path), str(path))
    return module


def equal(module: nn.Module) -> bool:
    return all(torch.equal(WEIGHTS[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "data parallel"])
def test_a_checkpoint_is_read_as_people_save_it(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    prefixed = {prefix + name: value for name, value in WEIGHTS.items()}
    torch.save({wrapper: prefixed, "epoch": 3} if wrapper else prefixed, tmp_path / "w.pth")
    assert equal(read(tmp_path / "w.pth"))


def test_a_folder_of_shards_is_read_whole(tmp_path: Path) -> None:
    names = sorted(WEIGHTS)
    save_file({name: WEIGHTS[name] for name in names[:2]}, tmp_path / "1.safetensors")
    save_file({name: WEIGHTS[name] for name in names[2:]}, tmp_path / "2.safetensors")
    assert equal(read(tmp_path))
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no '4"):
        read(tmp_path)


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    for name, weights in (("a", WEIGHTS), ("b", dict(reversed(WEIGHTS.items())))):
        write_weights(weights, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tied_and_sliced_weights_are_written_each_under_its_name(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(4, 3)
    write_weights({"a": whole, "tied": whole, "slice": whole[1:3], "turned": whole.T}, tmp_path / "w.safetensors")
    back = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(back["tied"], whole)
    assert torch.equal(back["slice"], whole[1:3])
    assert torch.equal(back["turned"], whole.T)


@pytest.mark.parametrize("how", ["in a checkpoint", "bare", "whole module"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    mark, path = tmp_path / "was run", tmp_path / "w.pt"
    if how == "bare":
        path.write_bytes(pickle.dumps(Opens(mark)))
    else:
        torch.save({"weights": Opens(mark)} if how == "in a checkpoint" else network(), path)
    with pytest.raises(ModelError, match=r"code in a file is never run; .* safetensors would do"):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"w{suffix}"
    save_file(WEIGHTS, path) if suffix == ".safetensors" else torch.save(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello, I am no weights"}[damage])
    with pytest.raises(ModelError, match=rf"w\{suffix}: not a (whole )?(safetensors|torch)") as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, {1: torch.zeros(1)}, {"a": 3}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_told(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: holds no "):
        read(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("change", "log_probabilities"),
    [
        (lambda w: w | {"4.weight": torch.zeros(5, 8)}, r"'4\.weight' has shape \[5, 8\]; the model has \[4, 8\]"),
        (lambda w: w | {"5.bias": torch.zeros(1)}, r"holds '5\.bias', which the model has not; did you mean '4\.bias'"),
        (
            lambda w: {n: v for n, v in w.items() if n != "4.bias"},
            r"holds no '4\.bias', which the model needs; did you",
        ),
        (lambda w: w | {"4.bias": torch.full((4,), float("nan"))}, r"'4\.bias' holds values that are not finite"),
        (lambda w: w | {"4.bias": torch.full((4,), float("inf"))}, r"'4\.bias' holds values that are not finite"),
        (lambda w: w | {"4.bias": torch.zeros(4, dtype=torch.int32)}, r"'4\.bias' holds int32; the model has float32"),
        (lambda w: w | {"4.bias": torch.zeros(4, dtype=torch.complex64)}, "holds complex64; the model has float32"),
    ],
)
def test_weights_that_do_not_fit_the_model_are_told_by_name(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], log_probabilities: str
) -> None:
    torch.save(change(dict(WEIGHTS)), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=log_probabilities):
        read(tmp_path / "w.pt")


def test_half_precision_becomes_what_the_model_has(tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in WEIGHTS.items()}, tmp_path / "w.pt")
    assert read(tmp_path / "w.pt").get_parameter("4.bias").dtype == torch.float32


def test_a_buffer_may_hold_infinity_as_attention_masks_do() -> None:
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.zeros(2))
    assign(module, module.state_dict() | {"mask": torch.tensor([0, -torch.inf])}, "w")
    assert module.get_buffer("mask")[1] == -torch.inf


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pt: no such weights file"):
        read(tmp_path / "gone.pt")
    with pytest.raises(ModelError, match=r"no \*\.safetensors here"):
        read(tmp_path)
