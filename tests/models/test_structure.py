"""A changed network without a pickle: what differs from the factory's is put back onto a fresh one."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import network, tiny_model
from torch import nn

from squeeze.errors import ModelError
from squeeze.models.base import InputSpec
from squeeze.models.source import FactorySource
from squeeze.models.structure import apply, difference
from squeeze.models.torch_model import TorchModel


class Own(nn.Conv2d):
    """A user's convolution, whose constructor is not its parent's."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)


def through_json(result: Any) -> Any:
    return json.loads(json.dumps(result))


@pytest.mark.parametrize(
    ("built", "changed", "data"),
    [
        (
            nn.Conv2d(8, 8, 3, 2, 1, padding_mode="reflect"),
            nn.Conv2d(4, 6, 3, 2, 1, padding_mode="reflect"),
            (2, 4, 8, 8),
        ),
        (nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 8, 8)),
        (nn.Conv1d(8, 8, 3, dilation=2), nn.Conv1d(4, 6, 3, dilation=2), (2, 4, 9)),
        (
            nn.ConvTranspose2d(8, 8, 3, 2, output_padding=1),
            nn.ConvTranspose2d(4, 6, 3, 2, output_padding=1),
            (2, 4, 5, 5),
        ),
        (nn.Linear(8, 8, bias=False), nn.Linear(4, 6, bias=False), (2, 4)),
        (nn.BatchNorm2d(8, eps=0.1, affine=False), nn.BatchNorm2d(4, eps=0.1, affine=False), (2, 4, 3, 3)),
        (nn.BatchNorm1d(8, track_running_stats=False), nn.BatchNorm1d(4, track_running_stats=False), (2, 4)),
        (nn.GroupNorm(4, 8, affine=False), nn.GroupNorm(2, 4, affine=False), (2, 4, 3, 3)),
        (nn.LayerNorm(8, bias=False), nn.LayerNorm(4, bias=False), (2, 4)),
        (nn.PReLU(8), nn.PReLU(4), (2, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_module_gets_other_sizes_and_keeps_all_else(
    built: nn.Module, changed: nn.Module, data: tuple[int, ...]
) -> None:
    root, expected = nn.Sequential(built), nn.Sequential(changed)
    apply(root, through_json(difference(root, expected)))
    root.load_state_dict(expected.state_dict())
    values = torch.randn(data, generator=torch.Generator().manual_seed(0))
    assert torch.equal(root.eval()(values), expected.eval()(values))
    assert repr(root) == repr(expected)


def test_a_users_own_subclass_is_resized_without_its_constructor() -> None:
    fresh, cut = nn.Sequential(Own(8)), nn.Sequential(Own(4))
    result = difference(fresh, cut)
    assert result == {"0": {"sizes": {"in_channels": 4, "out_channels": 4, "groups": 1}}}
    apply(fresh, result)
    fresh.load_state_dict(cut.state_dict())
    assert type(fresh[0]) is Own


PAIR = nn.Sequential(OrderedDict(z=nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), a=nn.Conv2d(6, 8, 1)))


@pytest.mark.parametrize(
    "new", [nn.Identity(), nn.Conv2d(3, 5, 1, stride=2, bias=False, padding_mode="circular"), PAIR]
)
def test_a_module_put_in_place_of_another_comes_back(new: nn.Module) -> None:
    built, changed = network(), network()
    changed[0] = new
    apply(built, through_json(difference(built, changed)))
    assert repr(built[0]) == repr(new)


def test_the_same_network_has_no_difference() -> None:
    assert difference(network(), network()) == {}


def test_another_stride_is_a_difference_even_where_all_sizes_are_the_same() -> None:
    changed = network()
    changed[0] = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert difference(network(), changed)["0"]["type"] == "Conv2d"


def test_what_cannot_be_stored_is_refused_by_name() -> None:
    changed = network()
    changed[1] = nn.LSTM(3, 3)
    with pytest.raises(ModelError, match="1: a LSTM put in place of another module cannot be stored; Conv2d or Linear"):
        difference(network(), changed)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"9": {"sizes": {}}}, "the model has no module '9'; was its code changed"),
        ({"0": {"sizes": {"in_features": 3}}}, "0: a Conv2d has no sizes in_features"),
        ({"1": {"sizes": {"in_features": 3}}}, "1: a ReLU has no sizes"),
        ({"0": {"sizes": {"in_channels": -3, "out_channels": 2, "groups": 1}}}, "structure.json: 0: "),
        ({"0": {"sizes": {"in_channels": "x", "out_channels": 2, "groups": 1}}}, "structure.json: 0: "),
        ({"0": {"type": "LSTM"}}, "unknown module type 'LSTM'; Conv2d or Linear may be there"),
        ({"0": {"type": "Conv2d"}}, "structure.json: 0: "),
        ({"0": {"type": "Conv2d", "options": {"evil": 1}}}, "structure.json: 0: "),
        ({"0": 3}, "structure.json: 0: "),
        ({"0": {"type": "Sequential"}}, "structure.json: 0: "),
        ({"0": {"type": "Sequential", "parts": [["a", 3]]}}, "structure.json: 0: "),
        ({"0": {"type": "Sequential", "parts": [["a.b", {"type": "Identity"}]]}}, "structure.json: 0: "),
        (
            {"0": {"type": "Sequential", "parts": [["a", {"type": "Sequential", "parts": []}]]}},
            "0.a: unknown module type",
        ),
    ],
)
def test_a_structure_that_was_changed_by_hand_is_one_line(result: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        apply(network(), result)


def test_a_cut_network_is_stored_and_loaded_without_a_pickle(tmp_path: Path) -> None:
    model = tiny_model()
    model.module[0], model.module[4] = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 4)  # type: ignore[index]
    model.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    back = TorchModel.load(tmp_path)
    batch = model.example(3)
    assert torch.equal(back.predict(batch), model.predict(batch))
    assert back.nbytes() == sum(tensor.nbytes for tensor in model.module.state_dict().values())


def test_an_outline_has_the_cut_sizes_and_no_weights() -> None:
    model = TorchModel(network(16), FactorySource("tiny:network"), (InputSpec("image", (3, 6, 6)),))
    outline = model.outline()
    assert outline.is_meta
    assert outline.parameters() == model.parameters() > tiny_model().parameters()
