"""A training of several processes: process 0 leads, the others compute their rows of every batch.

Process 0 has the data, the order of the examples and the schedule, and hands out rows; gradients are added up, each
row weighted as in the whole batch. So all processes take the step that one process would take, up to the order of
sums, and nothing that is random or read from a disk can differ between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from squeeze.errors import SqueezeError
from squeeze.models.base import Batch
from squeeze.training.checkpoint import Checkpoint
from squeeze.training.group import Group, specs
from squeeze.training.share import Share

BUCKET_VALUES = 1 << 22  # of gradients that are added up together
LABELS = "labels"

if TYPE_CHECKING:
    from squeeze.models.resident import Resident
    from squeeze.store import Journal
    from squeeze.training.sharding import Sharding


class Peers:
    """What all processes of a training do alike.

    Args:
        share: The rows that this process is at.
        at_once: Whether everybody's rows go through the module in one piece.
    """

    def __init__(self, group: Group) -> None:
        self.group, self.share, self.at_once = group, Share(Batch({}), 1), True
        self.sharding: Sharding | None = None

    def divide(self, model: Resident) -> None:
        """Let a model that is not trained lie in parts, where the one that is does."""
        if self.sharding is not None:
            self.sharding.divide(model)

    def sum_gradients(self, optimizer: torch.optim.Optimizer, loss: float) -> float:
        """Add up gradients in place; gives the sum of the losses.

        A weight that no row of any process reached has no gradient then, as in one process.
        """
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        own = [weight.grad is not None for weight in weights] if self.sharding is None else self.sharding.take_reached()
        sums = torch.tensor([loss, *own], dtype=torch.float64)
        self.group.add_up(sums)
        counts = list(zip(weights, sums[1:].tolist(), strict=True))
        if self.sharding is None:
            self._add_up([weight for weight, count in counts if count])
        else:  # FSDP2 has added up, zeros where there was nothing
            for weight, count in counts:
                weight.grad = weight.grad if count else None
        return float(sums[0])

    def _add_up(self, reached: Sequence[Tensor]) -> None:
        """Add up the gradients of weights in place."""
        for weight in reached:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        for bucket in _buckets([weight.grad for weight in reached if weight.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            self.group.add_up(flat)
            for gradient, values in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                gradient.copy_(values.view_as(gradient))

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        sums = torch.tensor([value], dtype=torch.float64)
        self.group.add_up(sums)
        return float(sums)

    def means(self, own: Tensor) -> Tensor:
        """Of means over this process's rows, those over the rows of all; where they go through in parts, its own."""
        if not self.at_once:
            return own
        rows = self.share.weight * len(self.share.batch)
        sums = torch.cat([own.double() * rows, own.new_tensor([rows], dtype=torch.float64)])
        self.group.add_up(sums)
        return (sums[:-1] / sums[-1]).to(own.dtype)

    def differing(self, changing: Mapping[str, Tensor]) -> list[tuple[int, str]]:
        """The processes whose tensors have other bytes than those of process 0, each with the first such name.

        Of weights in parts there is nothing to compare: each value is in one process alone.
        """
        tensors = {name: value for name, value in changing.items() if not hasattr(value, "full_tensor")}
        if not tensors:
            return []
        sums = [hashlib.sha256(value.detach().contiguous().numpy().tobytes()).digest() for value in tensors.values()]
        every = self.group.gather(torch.tensor([list(one) for one in sums], dtype=torch.uint8))
        names, other = list(tensors), (every != every[:1]).any(2)
        return [(rank, names[int(other[rank].int().argmax())]) for rank in range(len(every)) if other[rank].any()]


class Leader(Peers):
    """Process 0's side of a training.

    Args:
        name: Of the pass, for messages.
    """

    def __init__(self, group: Group, name: str) -> None:
        super().__init__(group)
        self.name = name

    def checkpoint(self, module: nn.Module, optimizer: torch.optim.Optimizer, journal: Journal | None) -> Checkpoint:
        """Where the state of the training is kept, and put back from."""
        if self.sharding is None:
            return Checkpoint(module, optimizer, journal)
        from squeeze.training.sharded_checkpoint import ShardedCheckpoint  # torch's FSDP2

        return ShardedCheckpoint(module, optimizer, journal, self.group)

    def begin(self, checkpoint: Checkpoint) -> None:
        """All start from the weights and the optimizer's state that process 0 begins or goes on with."""
        if self.sharding is None:  # else each has its part from the checkpoint
            self.group.say_tensors(checkpoint.state())

    def hand_out(self, kind: str, batch: Batch, micro_batch: Callable[[Batch], int], **order: Any) -> Share:
        """Give everybody their rows of a batch; gives one's own, which are as many as anybody's or more."""
        shares = split(batch, self.group.processes)
        self.share = shares[0]
        self.at_once = micro_batch(self.share.batch) >= len(self.share.batch)
        passes = 0 if self.sharding is None else -(-len(self.share.batch) // micro_batch(self.share.batch))
        whole = [[name, dtype, shape[1:]] for name, dtype, shape in specs(_tensors(batch))]
        how = {"kind": kind, "rows": len(batch), "specs": whole, "at_once": self.at_once, "passes": passes}
        self.group.say(how | order)
        for rank, share in enumerate(shares[1:], 1):
            self.group.send(rank, _tensors(share.batch))
        return self.share

    def sum_losses(self, value: float) -> float:
        """The sum of what the evaluations since the last sum gave."""
        self.group.say({"kind": "sum"})
        return self.total(value)

    def require_same(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ``SqueezeError`` unless all processes have the same weights, bit for bit."""
        self.group.say({"kind": "compare"})
        for rank, name in self.differing(tensors):
            raise SqueezeError(
                f"{self.name}: '{name}' of process {rank} is no longer that of process 0; processors of one kind, "
                "and a model without statistics of a batch other than batch norm's, would do; so would one process"
            )


class Follower(Peers):
    """The side of every other process."""

    def checkpoint(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
        """The state of the training here, which process 0 keeps."""
        if self.sharding is None:
            return Checkpoint(module, optimizer, None)
        from squeeze.training.sharded_checkpoint import PartCheckpoint  # torch's FSDP2

        return PartCheckpoint(module, optimizer, None)

    def begin(self, checkpoint: Checkpoint) -> None:
        """Start from what process 0 starts from."""
        if self.sharding is None:
            checkpoint.load(self.group.hear_tensors().items())
        else:
            checkpoint.load(self.group.hear_each())
            checkpoint.load_best(self.group.hear_each())

    def rows(self, order: Mapping[str, Any]) -> Share:
        """The rows that process 0 hands out by an order."""
        start, stop, weight = bounds(order["rows"], self.group.processes)[self.group.rank]
        own = [[name, dtype, [stop - start, *shape]] for name, dtype, shape in order["specs"]]
        tensors = self.group.receive(own)
        labels = tensors.pop(LABELS, None)
        self.at_once = order["at_once"]
        self.share = Share(Batch(tensors, labels), order["rows"], weight, order["passes"])
        return self.share


def bounds(rows: int, processes: int) -> list[tuple[int, int, int]]:
    """First row, end and weight of each process's share; one without a row of its own computes the first, weight 0.

    It must not sit idle: batch norm waits for all.
    """
    ends = [-(-rows * number // processes) for number in range(processes + 1)]
    return [(low, high, 1) if low < high else (0, 1, 0) for low, high in pairwise(ends)]


def split(batch: Batch, processes: int) -> list[Share]:
    every = bounds(len(batch), processes)
    return [Share(batch.part(slice(low, high)), len(batch), weight) for low, high, weight in every]


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {**batch.inputs, **({LABELS: batch.labels} if batch.labels is not None else {})}


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type that follow each other, about so many values at a time."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (bucket[0].dtype != gradient.dtype or sum(one.numel() for one in bucket) >= BUCKET_VALUES):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
