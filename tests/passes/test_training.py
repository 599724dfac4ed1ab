"""Fine-tuning and distillation: they learn, the same bytes each time, also after a kill."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from squeeze.data.base import Dataset, Example
from squeeze.errors import DataError, SqueezeError
from squeeze.models.source import BuiltinSource
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.distill.distill import Distill
from squeeze.passes.distill.finetune import Finetune
from squeeze.passes.prune.prune_channels import PruneChannels
from squeeze.store import Journal
from squeeze.training.held_out import HeldOut
from squeeze.training.loop import Training


class Bars(Dataset):
    """A bright row whose place is the label, in seeded noise."""

    name = "bars"

    def __init__(self, labelled: bool = True) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return 96

    def example(self, index: int) -> Example:
        image = np.random.default_rng(index).standard_normal((1, 8, 8), dtype=np.float32) * 0.3
        image[0, index % 8] += 1
        return Example(image, self.label(index))

    def label(self, index: int) -> int:
        return index % 8 if self.labelled else -1

    def fingerprint(self, index: int) -> bytes:
        return bytes([index])


def digits(seed: int = 0) -> TorchModel:
    torch.manual_seed(seed)
    source = BuiltinSource("digits-cnn")
    return TorchModel(source.build(), source, source.inputs())


@cache
def taught() -> dict[str, torch.Tensor]:
    """Weights of a teacher that has learnt the bars: an untrained one's predictions are too wild to follow."""
    trained = Finetune(epochs=4, batch_size=16, learning_rate=0.05).run(digits(7), Context(train_data=Bars()))
    return trained.module.state_dict()


def teacher() -> TorchModel:
    model = digits()
    model.module.load_state_dict(taught())
    return model


def context(folder: Path | None = None, labelled: bool = True) -> Context:
    journal = Journal(folder) if folder else None
    return Context(train_data=Bars(labelled), original=teacher, journal=journal)


def weights(model: TorchModel) -> list[torch.Tensor]:
    return list(model.module.state_dict().values())


def equal(one: TorchModel, other: TorchModel) -> bool:
    return all(itertools.starmap(torch.equal, zip(weights(one), weights(other), strict=True)))


FINETUNE = Finetune(epochs=3, batch_size=32, learning_rate=0.05, augment=("crop",))
DISTILL = Distill(epochs=3, batch_size=32, learning_rate=0.02, augment=("flip", "crop"), features=("blocks.*",))
ADAMW = Finetune(epochs=3, batch_size=32, learning_rate=1e-3, optimizer="adamw", schedule="one_cycle")
ADAFACTOR = Finetune(epochs=3, batch_size=32, learning_rate=0.03, optimizer="adafactor")
ALL = pytest.mark.parametrize(
    "pass_", [FINETUNE, DISTILL, ADAMW, ADAFACTOR], ids=["finetune", "distill", "adamw", "adafactor"]
)


@ALL
def test_training_lowers_the_loss_and_gives_back_a_model_in_evaluation_mode(pass_):
    run_context = context()
    model = pass_.run(digits(), run_context)
    assert run_context.facts["losses"][-1] < 0.8 * run_context.facts["losses"][0]
    assert not any(module.training for module in model.module.modules())
    assert model.module.get_submodule("stem.0").weight.is_contiguous()


@ALL
def test_the_same_seed_gives_the_same_bytes(pass_):
    assert equal(pass_.run(digits(), context()), pass_.run(digits(), context()))


def test_another_seed_gives_other_weights():
    other = context()
    other.seed = 1
    assert not equal(FINETUNE.run(digits(), context()), FINETUNE.run(digits(), other))


@ALL
@pytest.mark.parametrize("seconds", [60.0, -1.0], ids=["after-an-epoch", "inside-one"])
def test_a_killed_training_goes_on_after_its_last_checkpoint_with_the_same_bytes(pass_, seconds, tmp_path, monkeypatch):
    monkeypatch.setattr("squeeze.training.loop.CHECKPOINT_SECONDS", seconds)
    undisturbed, one, ran = pass_.run(digits(), context()), Training._one, []

    def killed_at(training, optimizer, loss, batch, where):
        if where == (1, 2) and not ran.count("killed"):
            ran.append("killed")
            raise KeyboardInterrupt
        ran.append(where)
        one(training, optimizer, loss, batch, where)

    monkeypatch.setattr(Training, "_one", killed_at)
    with pytest.raises(KeyboardInterrupt):
        pass_.run(digits(), context(tmp_path))
    again = context(tmp_path)
    assert equal(pass_.run(digits(), again), undisturbed)
    assert ran[ran.index("killed") + 1] == ((1, 0) if seconds > 0 else (1, 2))
    assert len(again.facts["losses"]) == 3


def test_the_weights_that_do_best_on_held_out_examples_are_kept(tmp_path, monkeypatch):
    watched, values = [], iter([3.0, 1.0, 2.0, 2.0])

    def evaluate(_, module, __, at):
        watched.append({name: value.clone() for name, value in module.state_dict().items()})
        value = next(values)
        at.held_out.append(value)
        at.best_at = min(range(len(at.held_out)), key=at.held_out.__getitem__)
        return at.best_at == len(at.held_out) - 1

    monkeypatch.setattr(HeldOut, "evaluate", evaluate)
    lent = context(tmp_path)
    trained = Finetune(epochs=9, batch_size=32, learning_rate=0.05, held_out=0.25, patience=2).run(digits(), lent)
    assert all(torch.equal(value, watched[1][name]) for name, value in trained.module.state_dict().items())
    assert len(watched) == 4  # two epochs were no better
    assert lent.facts["stopped"] == "no better on held-out examples in 2 evaluations"
    assert lent.facts["steps"] == 4 * 3  # 72 of 96 examples in batches of 32


def test_a_training_that_diverges_ends_with_the_best_weights_before_that(monkeypatch):
    lent, step = context(), Training._step

    def diverging(training, optimizer, loss, batch):
        return float("nan") if training.position.step == 7 else step(training, optimizer, loss, batch)

    monkeypatch.setattr(Training, "_step", diverging)
    trained = Finetune(epochs=3, batch_size=32, learning_rate=0.05, held_out=0.25).run(digits(), lent)
    assert lent.facts["steps"] == 7
    assert lent.facts["stopped"].startswith(
        "finetune: the loss is not finite in epoch 3, batch 2; a learning_rate below"
    )
    assert all(tensor.isfinite().all() for tensor in weights(trained))


def test_a_student_comes_nearer_to_its_teacher():
    batch = Bars().batch(np.arange(96))
    predictions = teacher().predict(batch)
    student = Distill(epochs=8, batch_size=16, learning_rate=0.02).run(digits(), context())
    before, after = ((model.predict(batch) - predictions).square().mean() for model in (digits(), student))
    assert after < 0.5 * before


def test_the_teacher_is_read_afresh_and_stays_as_it_was():
    lent, one = context(), teacher()
    lent.original = lambda: one
    DISTILL.run(digits(), lent)
    assert equal(one, teacher())


def test_another_model_may_teach(monkeypatch):
    read = []
    monkeypatch.setattr(Context, "load_model", lambda _, spec: read.append(spec) or digits(3))
    Distill(epochs=1, teacher={"builtin": "digits-cnn"}).run(digits(), context())
    assert read == [ModelSpec(builtin="digits-cnn")]


def test_pure_distillation_needs_no_labels_and_fine_tuning_does():
    Distill(epochs=1).run(digits(), context(labelled=False))
    with pytest.raises(DataError, match="carry no labels"):
        Finetune(epochs=1).run(digits(), context(labelled=False))
    with pytest.raises(DataError, match="carry no labels"):
        Distill(epochs=1, alpha=0.5).run(digits(), context(labelled=False))


def test_a_loss_that_is_not_finite_names_the_epoch():
    with pytest.raises(
        SqueezeError, match=r"finetune: the loss is not finite in epoch \d+, batch \d+; a learning_rate"
    ):
        Finetune(epochs=5, learning_rate=1e6, warm_up=0).run(digits(), context())


def test_features_of_a_layer_that_was_cut_are_compared_through_the_map_that_fits_best():
    student = PruneChannels(ratio=0.5, scope="layer").run(digits(), Context())
    lent = context()
    trained = Distill(epochs=1, features="blocks.?").run(student, lent)
    assert lent.facts["feature_widths"] == {"blocks.0": [16, 32], "blocks.1": [32, 64], "blocks.2": [32, 64]}
    assert not any("projection" in name for name, _ in trained.module.named_modules())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"blocks.0": "pool"},
            r"features 'blocks\.0' has shape \[.*\], the teacher's \[.*\]; layers that differ in width",
        ),
        ({"blocks.0": "block.1"}, r"the teacher has no layer 'block\.1' .*; did you mean"),
    ],
)
def test_layers_that_cannot_be_compared_are_one_line(features, message):
    with pytest.raises(SqueezeError, match=message):
        Distill(epochs=1, features=features).run(digits(), context())


def test_a_mapping_of_features_names_layers_and_no_patterns():
    (fault,) = Distill(features={"blocks.*": "blocks.1"}).faults(digits())
    assert fault.startswith('distill: features "blocks.*" matches no layer')


def test_adafactor_is_refused_where_weights_begin_at_zero():
    (fault,) = Finetune(optimizer="adafactor", train="lora").faults(digits())
    assert fault.startswith("finetune: optimizer: adafactor measures its steps by a weight's own size")


def test_features_that_match_no_layer_are_a_fault():
    (fault,) = Distill(features="blocks.7").faults(digits())
    assert fault.startswith('distill: features "blocks.7" matches no layer; did you mean')


def test_the_files_of_another_teacher_are_part_of_what_made_the_result():
    spec = {"module": "cifar_resnet:resnet32", "weights": "resnet32.th"}
    assert Distill(teacher=spec).reads() == ("resnet32.th",)
    assert Distill().reads() == ()
