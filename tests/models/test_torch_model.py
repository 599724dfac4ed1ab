"""The torch form: counted exactly, stored without code, and a user's own failures told in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import network, tiny_model, write_world
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.models.base import Batch, InputSpec
from squeeze.models.source import BuiltinSource, FactorySource, HuggingFaceSource, resolve, source_from
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_call import forward
from squeeze.models.torch_macs import MacCounter
from squeeze.models.torch_model import TorchModel

CONFIG: dict[str, Any] = {
    "model_type": "mobilenet_v1",
    "architectures": ["MobileNetV1ForImageClassification"],
    "depth_multiplier": 0.25,
    "image_size": 64,
    "num_labels": 5,
}


def model_of(module: nn.Module, shape: tuple[int, ...] = (3, 6, 6)) -> TorchModel:
    return TorchModel(module, FactorySource("tiny:network"), (InputSpec("image", shape),))


def test_layers_are_counted_by_hand() -> None:
    convolution, linear = tiny_model().layers()
    assert (convolution.parameters, convolution.macs, convolution.shape) == (8 * 27 + 8, 8 * 27 * 36, (8, 3, 3, 3))
    assert (linear.parameters, linear.macs, linear.nbytes) == (8 * 4 + 4, 8 * 4, 4 * 36)
    assert tiny_model().parameters() == 8 * 27 + 8 + 36


def test_counting_needs_no_weights() -> None:
    on_meta = TorchModel.build(FactorySource("tiny:network"), None, (InputSpec("image", (3, 6, 6)),))
    assert on_meta.is_meta
    assert on_meta.layers() == tiny_model().layers()


def halved(module: Any) -> None:
    """By a larger step: 3 x 3 places are left of 6 x 6."""
    module[0].stride = (2, 2)


def narrowed(module: Any) -> None:
    module[0].weight = nn.Parameter(module[0].weight[:4])
    module[0].bias = nn.Parameter(module[0].bias[:4])
    module[4].weight = nn.Parameter(module[4].weight[:, :4])


def replaced(module: Any) -> None:
    module[0] = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.Conv2d(8, 8, 1))


@pytest.mark.parametrize(
    ("change", "macs"),
    [(halved, 8 * 27 * 9 + 32), (narrowed, 4 * 27 * 36 + 16), (replaced, (8 * 27 + 8 * 8) * 36 + 32)],
    ids=["an attribute", "shapes", "a module"],
)
@pytest.mark.parametrize("where", ["copied", "in place"])
def test_a_network_that_is_changed_is_counted_anew(change: Callable[[nn.Module], None], macs: int, where: str) -> None:
    model = tiny_model()
    assert model.macs() == 8 * 27 * 36 + 32
    changed = model.copied() if where == "copied" else model
    change(changed.module)
    assert changed.macs() == macs
    assert model.macs() == (8 * 27 * 36 + 32 if where == "copied" else macs)


def test_a_network_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.module.tensors = (torch.zeros(2), torch.zeros(2))  # type: ignore[assignment]  # which nobody can compare
    layers = model.layers()
    monkeypatch.setattr(MacCounter, "watching", None)
    assert model.copied().layers() == model.layers() == layers
    with torch.no_grad():
        model.module[0].weight.mul_(2)  # type: ignore[index,union-attr,operator]
    assert model.layers() == layers


@pytest.mark.parametrize("kind", ["plain", "named", "pixel_values", "logits"])
def test_a_network_is_called_as_its_forward_wants_it(kind: str) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    class Named(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.flatten(1)

    class Pixels(nn.Module):
        def forward(self, pixel_values: Tensor, other: int = 0) -> Tensor:
            return pixel_values.flatten(1)

    class Logits(nn.Module):
        def forward(self, x: Tensor) -> Any:
            from types import SimpleNamespace

            return SimpleNamespace(logits=x.flatten(1))

    module = {"plain": Plain, "named": Named, "pixel_values": Pixels, "logits": Logits}[kind]()
    image = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert forward(module, {"image": image}).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (network(), (2, 6, 6), r"the model does not take examples of shape \[2, 6, 6\] \(RuntimeError: "),
        (network(), (3,), "the model does not take examples"),
        (nn.Conv2d(3, 2, 1), (3, 6, 6), r"the model returned \[1, 2, 6, 6\] for 1 examples; logits \[n, classes\]"),
        (nn.Flatten(0), (3, 6, 6), r"the model returned \[108\] for 1 examples"),
        (nn.LSTM(6, 3), (3, 6), "the model returned a tuple; logits"),
    ],
)
def test_a_network_that_cannot_take_the_data_says_so_in_one_line(
    module: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        model_of(module).predict(Batch({"image": torch.zeros(1, *shape)}))
    assert len(str(caught.value).splitlines()) == 1


def test_tied_weights_are_stored_and_loaded(tmp_path: Path) -> None:
    module = network()
    module[4].weight.data.zero_()
    bias = module[0].bias
    assert isinstance(bias, torch.Tensor)
    module[4].bias = nn.Parameter(bias[:4].detach().clone())
    model = model_of(module)
    model.save(tmp_path)
    batch = model.example(2)
    assert torch.equal(TorchModel.load(tmp_path).predict(batch), model.predict(batch))


@pytest.mark.parametrize("damage", ["gone", "{", "[]", "{}", '{"source": {"kind": "alien"}, "inputs": []}'])
def test_a_damaged_description_is_one_line(tmp_path: Path, damage: str) -> None:
    tiny_model().save(tmp_path)
    (tmp_path / "model.json").unlink() if damage == "gone" else (tmp_path / "model.json").write_text(damage)
    with pytest.raises(ModelError, match=r"not a stored torch model|unknown kind of source 'alien'"):
        TorchModel.load(tmp_path)


@pytest.mark.parametrize(
    "source", [FactorySource("tiny:network", (("width", 3),)), BuiltinSource("digits-cnn"), HuggingFaceSource("{}")]
)
def test_a_source_is_made_again_from_its_description(source: Any) -> None:
    assert source_from(json.loads(json.dumps(source.describe()))) == source


def test_a_hugging_face_folder_is_built_from_its_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    source = HuggingFaceSource.read(tmp_path)
    assert source.inputs() == (InputSpec("image", (3, 64, 64)),)
    outline = TorchModel.build(source, None, source.inputs() or ())
    assert outline.layers()[-1].shape[0] == 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json: not JSON"),
        ("[]", r"config\.json: is no mapping"),
        ('{"model_type": "llama"}', "model_type 'llama' is no image classifier that transformers can build"),
        ('{"model_type": "nothing"}', "model_type 'nothing' is no image classifier"),
        ("{}", "model_type 'None' is no image classifier"),
        (json.dumps(CONFIG | {"depth_multiplier": -1}), "is no image classifier that transformers can build"),
        (json.dumps(CONFIG | {"image_size": "big"}), r"Validation error for field 'image_size': .*big"),
    ],
)
def test_a_config_that_builds_nothing_is_one_line(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=message) as caught:
        ModelSpec(hf=".").outline(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_weights_or_config_says_which_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json here"):
        ModelSpec(hf=".").outline(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelError, match=r"no \*\.safetensors here"):
        ModelSpec(hf=".").outline(tmp_path)


def test_code_that_a_folder_brings_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n")
    auto = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="model_type 'evil' is no image classifier"):
        ModelSpec(hf=".").outline(tmp_path)
    assert not (tmp_path / "was run").exists()


def test_a_shape_comes_from_the_spec_then_the_source_then_the_data(tmp_path: Path) -> None:
    write_world(tmp_path)
    factory = ModelSpec(module="tiny:network", weights="tiny.safetensors")
    assert factory.inputs(tmp_path, {"image": (3, 9, 9)})[0].shape == (3, 9, 9)
    assert ModelSpec(builtin="digits-cnn").inputs(tmp_path, {"image": (3, 9, 9)})[0].shape == (1, 8, 8)
    assert ModelSpec(builtin="digits-cnn", input=(1, 4, 4)).inputs(tmp_path, None)[0].shape == (1, 4, 4)
    with pytest.raises(ModelError, match=r"the shape of one example is not known; input: \[3, 32, 32\] would say it"):
        factory.inputs(tmp_path, None)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('at\\nimport')", r"importing 'factory_\w+' raised ValueError: at \(factory_\w+\.py:1\)"),
        ("def make(:", r"importing 'factory_\w+' raised SyntaxError: .* \(factory_\w+\.py:1\)"),
        ("import no_such_thing", r"cannot import 'factory_\w+' \(No module named 'no_such_thing'\)"),
        ("raise SystemExit(0)", r"importing 'factory_\w+' raised SystemExit: 0"),
        ("make = 3", "did you mean|has no 'made'"),
    ],
)
def test_a_module_of_the_user_that_fails_is_told_with_its_line(tmp_path: Path, code: str, message: str) -> None:
    name = f"factory_{abs(hash(code)) % 10**8}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(ModelError, match=message) as caught:
        resolve(f"{name}:made", str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1
