"""What ``finetune`` and ``distill`` share: the options and the plumbing of a training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar, cast

import numpy as np

from squeeze.algorithms.hessian import bf16_products
from squeeze.algorithms.threads import threads
from squeeze.data.base import Dataset
from squeeze.errors import DataError, ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model
from squeeze.models.language.language_model import in_shards
from squeeze.models.language.memory import small_heap
from squeeze.models.options import Unused
from squeeze.models.resident import Resident
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context, Pass
from squeeze.passes.effort import USUAL_WIDTH, Amount, Work
from squeeze.training.divisible import division_faults
from squeeze.training.footprint import touched_values, training_bytes
from squeeze.training.loop import Loss, Training
from squeeze.training.options import TrainingOptions
from squeeze.training.proof import require_adapter, require_written
from squeeze.training.trained import OnGrids, TrainedWeights, train_some

if TYPE_CHECKING:
    from squeeze.training.peers import Follower, Leader, Peers

LOSS_STEPS = 20  # times that a logit is read or written on the way to its gradient, the teacher's with it
SAVING: dict[str, dict[str, object]] = {  # the first that fits is proposed
    "sharded: true": {"sharded": True},
    "recompute: true": {"recompute": True},
    "optimizer: adafactor": {"optimizer": "adafactor"},
    "optimizer: adafactor, recompute: true": {"optimizer": "adafactor", "recompute": True},
    "train: lora": {"train": "lora"},
    "train: lora, recompute: true": {"train": "lora", "recompute": True},
    "train: lora, frozen: disk": {"train": "lora", "frozen": "disk"},
}
S = TypeVar("S", bound=TorchStage)  # one type per call: the kind of weights stays the same


class TrainingPass(TrainingOptions, Pass[TorchStage, TorchStage]):
    """Trains a model of any task with all its weights in memory; what is learnt from a batch, the subclass says."""

    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"weights_changed"})
    trains: ClassVar[bool] = True
    forwards: ClassVar[int] = 3  # forward passes that a step is worth: one, and a backward pass

    @contextmanager
    @abstractmethod
    def learning(self, student: Resident, context: Context) -> Iterator[Loss]:
        """Give the loss of a batch while the training lasts; a process that helps has no data to look at."""

    def run(self, model: S, context: Context) -> S:
        with _heap(model):
            return cast(S, self.settled(model)._trained(model, context))

    def _trained(self, model: TorchStage, context: Context) -> TorchStage:
        student = self._student(model)
        trained = self.weights(student, context.seed)
        data = self.examples(student, context)
        about = self.name, self, data, context.seed, context.progress, context.journal, student.micro_batch
        with self._peers(student, context) as peers:
            training = Training(*about, peers)
            with self.learning(student, context) as loss, self._sums(context):
                context.facts["losses"] = training.run(student.module, loss)
        context.facts |= training.facts() | {
            "trained": trained.count,
            "products": "bfloat16" if self.rounds else "float32",
        }
        context.measured["minutes"] = round(training.position.seconds / 60, 2)
        beside = trained.finish()
        result = student.commit(context.model_folder(), beside)
        if beside.grids:
            context.facts["grid"] = require_written(student, result, beside.grids, student.grids())
        if beside.updates:
            context.facts["adapter"] = require_adapter(result, beside.updates)
        return result

    def help(self, model: TorchStage, context: Context, peers: Follower) -> None:
        """Take part in a training that process 0 leads; the model is left to it."""
        from squeeze.training.helping import Help  # torch.distributed, which a process alone need not load
        from squeeze.training.synced_norm import synced_norms

        pass_ = self.settled(model)
        student, context.peers = pass_._student(model), peers
        pass_.weights(student, context.seed)
        with (
            _heap(model),
            synced_norms(student.module, peers),
            pass_._in_parts(student, peers),
            pass_.learning(student, context) as loss,
            pass_._sums(context),
        ):
            Help(peers, student.module, pass_, loss, student.micro_batch, context.seed).run()

    @contextmanager
    def _sums(self, context: Context) -> Iterator[None]:
        """What decides their last digits: how many threads add, and the width of the factors."""
        with threads(context.threads), bf16_products(self.rounds):
            yield

    def _student(self, model: TorchStage) -> Resident:
        student = model.resident(self.on_disk)
        if self.recompute and not self.on_disk and not student.recompute():
            raise ModelError(f"{self.name}: recompute: this model is not made of blocks that can do so; leave it out")
        return student

    @contextmanager
    def _peers(self, student: Resident, context: Context) -> Iterator[Leader | None]:
        """The other processes of a launcher, called to the training."""
        if context.helpers is None:
            yield None
            return
        from squeeze.training.synced_norm import synced_norms  # torch.distributed, as above

        with context.helpers(self.asks_original()) as peers, synced_norms(student.module, peers):
            context.peers = peers
            context.measured["processes"] = peers.group.processes
            with self._in_parts(student, peers):
                yield peers

    def _in_parts(self, student: Resident, peers: Peers) -> AbstractContextManager[None]:
        """Let the student lie in parts, if it is to, for as long as the ``with`` lasts."""
        if not self.sharded:
            return nullcontext()
        from squeeze.training.sharding import sharded  # torch's FSDP2

        return sharded(student, peers, self.name)

    def asks_original(self) -> bool:
        """Whether ``learning`` reads the original; then processes that help are sent it."""
        return True

    def examples(self, student: Resident, context: Context) -> Dataset:
        """What is learnt from; process 0 alone opens it, and ``learning`` does without."""
        return context.train

    def weights(self, student: Resident, seed: int) -> TrainedWeights:
        """Let gradients reach the weights that are to be trained."""
        return train_some(student, self.train, self.blocks, self.rank, seed)

    def memory_bytes(self, model: TorchStage, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        return training_bytes(model, self, tokens, None, teacher=False) if model.blocks else None

    def saving(self, model: TorchStage, tokens: int, limit: int) -> str | None:
        for words, options in SAVING.items():
            other = self.model_copy(update=options)
            takes = other.memory_bytes(model, tokens, limit)
            in_vain = any(unused.option in options for unused in other.unused(model, None))
            if takes is not None and takes <= limit and not in_vain and not any(other.faults(model)):
                return words
        return None

    def work(self, model: TorchStage, data: Amount | None) -> Work | None:
        """Forward and backward, which is twice as much, for each example as often as it is seen."""
        macs = model.macs()
        if macs is None or not (model.blocks or model.takes_images()) or (data is None and self.steps is None):
            return None
        seen = self.steps * self.batch_size if self.steps else self.epochs * (data.examples if data else 0)
        length = data.length if data else 1
        products = (self.forwards + self.computes_again) * macs * seen * length
        if not model.blocks:
            return Work({USUAL_WIDTH: products})
        shards, settled = in_shards(model), self.settled(model)
        values: float = LOSS_STEPS * seen * length * (shards.vocabulary or 0)
        values += touched_values(shards, settled, self.on_grid(), seen * length, length, self.forwards)
        return Work(rounded=products, values=values) if settled.rounds else Work({USUAL_WIDTH: products}, values=values)

    def on_grid(self) -> OnGrids | None:
        """How weights that lie on a grid are trained; None: the model has floats."""
        return None

    def faults(self, model: Model) -> Iterator[str]:
        if self.train == "last_blocks" and not model.blocks:
            yield f"{self.name}: train: last_blocks: only a language model says what its blocks are; all would do"
        elif self.train == "last_blocks" and self.blocks > model.blocks:
            yield f"{self.name}: blocks: {self.blocks} are the last of the model's {model.blocks}; fewer would do"
        yield from (f"{self.name}: sharded: {line}" for line in self._part_faults(model))
        yield from (f"{self.name}: frozen: disk {line}" for line in self._frozen_faults(model))
        if self.optimizer == "adafactor" and self.trains_adapters:
            what = "adafactor measures its steps by a weight's own size, and half of LoRA's begin at zero"
            yield f"{self.name}: optimizer: {what}; adamw, whose memory of so few is small, would do"

    def _frozen_faults(self, model: Model) -> Iterator[str]:
        """What leaves no weights on disk."""
        if not self.on_disk:
            return
        if not model.blocks:
            yield "is for language models, whose weights lie in shards; leave it out"
        elif self.on_grid() in ("scales", "all"):
            yield f"leaves nothing on disk with quantized: {self.on_grid()}, which trains every grid; adapter would"
        elif self.on_grid() is None and self.train == "all":
            yield "leaves nothing on disk with train: all, which freezes no weight; lora, norms or last_blocks would do"
        if self.sharded:
            yield "reads whole weights, and sharded: true keeps parts of them; one of the two would do"

    def _part_faults(self, model: Model) -> Iterator[str]:
        """What cannot lie in parts, one per process."""
        if not self.sharded:
            return
        if self.optimizer == "adafactor":
            yield "adafactor needs whole matrices, of which a process has a part; optimizer: adamw or sgd would do"
        module = cast(TorchStage, model).module
        yield from division_faults(module, types=not model.blocks)  # a language model is trained in float32

    def settled(self, model: Model) -> Self:
        return self.model_copy(update=self.for_model(model))

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        yield from self.unread()
        if not model.takes_images():
            yield Unused("augment", "changes images, and the model reads none: leave it out")
        if (optimizer := self.trains_with(model)) != "sgd":
            yield Unused("momentum", f"is of optimizer: sgd; optimizer is {optimizer}")


def require_targets(student: Resident, data: Dataset, name: str) -> None:
    """Raise ``DataError`` where the data does not say what is right."""
    if not len(data):
        raise DataError(f"{name}: data.train: {data.name}: no examples")
    if student.targets(data.batch(np.arange(1))) is None:
        raise DataError(
            f"{name}: data.train: {data.name}: the examples carry no labels; distill with alpha 1 needs none"
        )


def _heap(model: TorchStage) -> AbstractContextManager[None]:
    """What a block leaves for its gradient goes back at once, in every process that trains."""
    return small_heap() if model.blocks else nullcontext()
