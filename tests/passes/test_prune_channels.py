"""Structured pruning: what leaves, what stays, and what is said when nothing can leave."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from squeeze.data.base import Dataset, Example
from squeeze.errors import EffectError
from squeeze.measure.latency_table import ConvPlace, LatencyTable
from squeeze.models.base import InputSpec
from squeeze.models.source import BuiltinSource, FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Preview
from squeeze.passes.prune.coupling import CouplingGraph
from squeeze.passes.prune.prune_channels import PruneChannels
from squeeze.passes.prune.shortcuts import convolve_shortcuts
from squeeze.store import Journal


class Noise(Dataset):
    """Seeded noise with labels: enough for gradients."""

    name = "noise"

    def __len__(self) -> int:
        return 32

    def example(self, index: int) -> Example:
        return Example(np.random.default_rng(index).standard_normal((1, 8, 8), dtype=np.float32), self.label(index))

    def label(self, index: int) -> int:
        return index % 10

    def fingerprint(self, index: int) -> bytes:
        return bytes([index])


def with_statistics(model: TorchModel) -> TorchModel:
    """Batch norms as after training: scales and means that differ by channel."""
    generator = torch.Generator().manual_seed(1)
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(generator=generator)
            layer.running_mean.normal_(generator=generator)
    return model


def digits() -> TorchModel:
    torch.manual_seed(0)
    source = BuiltinSource("digits-cnn")
    return with_statistics(TorchModel(source.build(), source, source.inputs()))


def resnet20(weights: Path | None = None) -> TorchModel:
    torch.manual_seed(0)
    source = FactorySource("cifar_resnet:resnet20")
    inputs = (InputSpec("image", (3, 32, 32)),)
    if weights:
        return TorchModel.build(source, weights, inputs)
    return with_statistics(TorchModel(source.build(), source, inputs))


def outline(model: TorchModel) -> TorchModel:
    return TorchModel.build(model.source, None, model.inputs)


def pruned(model: TorchModel, **options: object) -> tuple[TorchModel, dict]:
    context = Context(train_data=Noise())
    return PruneChannels(**options).run(model, context), context.facts


@pytest.mark.parametrize("name", ["blocks.0.first.0", "stem.0"], ids=["inside a block", "a residual stream"])
def test_a_pruned_model_equals_the_dense_one_with_those_channels_silenced(name):
    dense, cut = digits(), digits()
    graph = CouplingGraph(cut)
    group = next(group for group in graph.coupled() if group.name == name)
    graph.cut(group, [1, 5, 6])
    for member in group.members:
        layer = dense.module.get_submodule(member.layer)
        if isinstance(layer, nn.Conv2d) and not member.writes:
            layer.weight.data[:, [1, 5, 6]] = 0
        if member.writes:  # what joins the stream is silent too
            layer.weight.data[[1, 5, 6]] = 0
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.data[[1, 5, 6]] = 0
    batch = dense.example(4)
    assert torch.allclose(cut.predict(batch), dense.predict(batch), atol=1e-5)
    assert cut.parameters() < dense.parameters()


def test_the_least_important_channels_leave():
    model = digits()
    conv = model.module.get_submodule("blocks.0.first.0")
    conv.weight.data[[0, 2, 4, 6, 8, 10, 12, 14]] *= 1e-3
    rows = conv.weight.data[[i for i in range(32) if i not in range(0, 16, 2)]]
    narrow, _ = pruned(model, ratio=0.25, scope="layer", include="blocks.0.first.0", importance="l1")
    new = narrow.module.get_submodule("blocks.0.first.0")
    assert torch.equal(new.weight, rows)


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "bn_scale", "random"])
def test_every_importance_prunes_the_same_way_twice(importance):
    first, facts = pruned(digits(), ratio=0.5, importance=importance)
    second, again = pruned(digits(), ratio=0.5, importance=importance)
    assert facts == again
    assert facts["widths"]
    for one, two in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("align", [1, 8, 16])
def test_widths_are_multiples_of_align(align):
    _, facts = pruned(resnet20(), ratio=0.55, scope="layer", align=align)
    assert all(after % align == 0 for _, after in facts["widths"].values())


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("steps", [1, 3])
def test_half_the_macs_means_half_the_macs_or_a_little_less(scope, steps):
    model = resnet20()
    before = model.macs()
    model, _ = pruned(model, macs="50 %", scope=scope, steps=steps)
    assert 0.4 < model.macs() / before <= 0.5


def test_streams_are_cut_through_zero_padded_shortcuts():
    model, facts = pruned(resnet20(), ratio=0.5, scope="layer")
    assert facts["widths"]["conv1"] == [16, 8]
    assert facts["widths"]["layer3.2.conv2"] == [64, 32]
    assert model.predict(model.example(2)).shape == (2, 10)


def test_the_network_s_output_is_never_pruned():
    model, facts = pruned(digits(), ratio=0.5)
    assert "linear" not in facts["widths"]
    assert facts["skipped"]["linear"] == "its channels are the network's output"
    assert model.module.get_submodule("linear").out_features == 10


def test_excluded_layers_keep_their_width_and_the_report_says_why():
    _, facts = pruned(digits(), ratio=0.5, exclude=("blocks.0.*",))
    assert not [name for name in facts["widths"] if name.startswith("blocks.0")]
    assert facts["skipped"]["blocks.0.first.0"] == 'blocks.0.first.0 is excluded by "blocks.0.*"'


def test_a_pruned_model_is_stored_without_a_pickle_and_loads_again(tmp_path):
    model, _ = pruned(resnet20(), macs="50 %", drop_branches=True)
    model.save(tmp_path)
    again = TorchModel.load(tmp_path)
    batch = model.example(2)
    assert torch.equal(again.predict(batch), model.predict(batch))


def test_a_dropped_branch_leaves_its_shortcut():
    model = resnet20()
    block = copy.deepcopy(model.module.get_submodule("layer1.0"))
    for name in ("bn2",):
        block.get_submodule(name).weight.data.zero_()
        block.get_submodule(name).bias.data.zero_()
    model, facts = pruned(model, macs="30 %", drop_branches=True, include="layer?.?.conv1", align=16)
    assert "layer1.0" in facts["branches_dropped"]
    assert facts["widths"]["layer1.0.conv1"] == [16, 0]
    image = torch.rand(2, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.module.get_submodule("layer1.0")(image), block(image))


class SlowAt(LatencyTable):
    """One image size costs a second per pair of channels, every other next to nothing; nothing is measured."""

    def __init__(self, spatial: tuple[int, int]) -> None:
        super().__init__(threads=1)
        self.slow = spatial

    def __call__(self, place: ConvPlace | None, inputs: int, outputs: int) -> float:
        assert place is not None
        return inputs * outputs * (1.0 if place.spatial == self.slow else 1e-9)


def test_widths_by_latency_cut_where_time_is_saved(monkeypatch):
    monkeypatch.setattr("squeeze.passes.prune.pruning.LatencyTable", lambda *_: SlowAt((8, 8)))
    _, facts = pruned(resnet20(), ratio=0.2, widths="latency", include="layer?.?.conv1")
    assert facts["widths"]
    assert all(name.startswith("layer3.") for name in facts["widths"])


def test_measured_times_are_kept_so_that_a_resumed_run_chooses_the_same_widths(tmp_path, monkeypatch):
    context = Context(journal=Journal(tmp_path))
    options = PruneChannels(ratio=0.5, widths="latency")
    first = options.run(digits(), context)
    assert context.measured["latency_table"]

    def never(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr("squeeze.measure.latency_table.measure", never)
    second = options.run(digits(), Context(journal=Journal(tmp_path)))
    assert first.structure() == second.structure()


def test_the_outline_without_weights_is_previewed_exactly_where_weights_do_not_matter():
    options = PruneChannels(ratio=0.5, scope="layer")
    model, meta = resnet20(), outline(resnet20())
    preview = options.preview(meta, Preview((), meta.parameters(), meta.nbytes(), meta.macs()))
    model = options.run(model, Context())
    assert (preview.parameters, preview.nbytes, preview.macs) == (model.parameters(), model.nbytes(), model.macs())
    assert preview.exact
    assert meta.is_meta
    assert meta.parameters() == model.parameters()


def test_a_ratio_that_rounds_to_no_channel_fails_by_name():
    with pytest.raises(EffectError, match=r"prune_channels: ratio 0.1 rounds to no channel at align 8"):
        pruned(resnet20(), ratio=0.1, scope="layer", include="layer1.*")
    faults = list(PruneChannels(ratio=0.1, scope="layer", include="layer1.?.conv1").faults(outline(resnet20())))
    assert faults == [
        "prune_channels: ratio 0.1 rounds to no channel at align 8; a larger ratio or a smaller align would cut"
    ]


def test_macs_out_of_reach_are_a_fault_before_anything_is_read():
    (fault,) = PruneChannels(macs="1 %").faults(outline(resnet20()))
    assert "cannot be reached: the narrowest widths" in fault


def test_a_selector_that_matches_nothing_is_a_fault_with_the_nearest_name():
    (fault,) = PruneChannels(ratio=0.5, include="layer1.0.conv").faults(outline(resnet20()))
    assert fault.startswith('prune_channels: include "layer1.0.conv" matches no layer; did you mean')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name one of ratio and macs"),
        ({"ratio": 0.5, "macs": "50 %"}, "name one of ratio and macs"),
        ({"macs": "half"}, 'no share of the MACs; "50 %" would be'),
        ({"ratio": 0.5, "scope": "layer", "widths": "latency"}, "widths: latency chooses over all layers"),
        ({"ratio": 1.0}, "less than 1"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PruneChannels(**options)


def test_only_taylor_needs_training_data():
    assert PruneChannels(ratio=0.5, importance="taylor").needed() == {"train"}
    assert PruneChannels(ratio=0.5).needed() == set()


def test_the_trained_resnet20_keeps_its_logits_until_channels_are_cut(real):
    file = real / "models" / "resnet_cifar10" / "resnet20-12fca82f.th"
    model, original = resnet20(file), resnet20(file)
    batch = original.example(8)
    convolve_shortcuts(model)
    assert torch.allclose(model.predict(batch), original.predict(batch), atol=1e-5)
    cut, _ = pruned(resnet20(file), macs="50 %")
    assert cut.macs() <= 0.5 * original.macs()


def test_the_report_names_what_was_cut_together_and_where_nothing_was():
    _, facts = pruned(digits(), ratio=0.5, scope="layer", exclude="blocks.2.*")
    assert facts["coupled"]["stem.0"] == {"layers": ["stem.0", "blocks.0.second.0"], "width": [32, 16]}
    assert set(facts["skipped"]) == {"blocks.1.second.0", "blocks.2.first.0", "linear"}


def test_nothing_to_cut_says_why():
    with pytest.raises(EffectError, match=r'nothing may be cut: stem\.0 is excluded by "\*"'):
        pruned(digits(), ratio=0.5, exclude="*")


@pytest.mark.slow
def test_steps_can_measure_importance_again_after_branches_went():
    model, facts = pruned(resnet20(), macs="40 %", steps=3, drop_branches=True, align=16)
    assert facts["branches_dropped"]
    assert model.macs() <= 0.4 * facts["macs"][0]
    assert model.predict(model.example(2)).shape == (2, 10)
