"""The part of a process that helps in a training: it computes its rows, adds up, steps, and decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.models.base import Batch
from squeeze.training.options import TrainingOptions
from squeeze.training.peers import Follower


class Help:
    """One process's part in a training, from the first order to the last.

    Args:
        module: Trained in place, as that of process 0 is.
        loss: Mean over the predictions of a batch.
        micro_batch: Rows that go through the module at once.
        seed: The training's.
    """

    def __init__(
        self,
        peers: Follower,
        module: nn.Module,
        options: TrainingOptions,
        loss: Callable[[Batch], Tensor],
        micro_batch: Callable[[Batch], int],
        seed: int,
    ) -> None:
        self.peers, self.module, self.loss = peers, module, loss
        self.micro_batch, self.seed = micro_batch, seed
        self.checkpoint = peers.checkpoint(module, options.new_optimizer(module))
        self.losses = 0.0  # of rows that were evaluated since the last sum

    def run(self) -> None:
        """Follow process 0 until it ends the training."""
        self.peers.begin(self.checkpoint)
        orders: dict[str, Callable[[dict[str, Any]], object]] = {
            "step": self._step,
            "evaluate": self._evaluate,
            "sum": self._sum,
            "compare": lambda _: self.peers.differing(self.checkpoint.changing()),
            "keep_best": lambda _: self.checkpoint.keep_best(),
            "take_best": lambda _: self.checkpoint.take_best(),
            "gather": lambda order: self.checkpoint.gather(order["piece"]),
            "whole": self._whole,
        }
        with torch.random.fork_rng(devices=[]):
            while (order := self.peers.group.hear())["kind"] != "end":
                orders[order["kind"]](order)

    def _step(self, order: dict[str, Any]) -> None:
        share, optimizer = self.peers.rows(order), self.checkpoint.optimizer
        for group in optimizer.param_groups:
            group["lr"] = order["rate"]
        optimizer.zero_grad()
        self.module.train()
        torch.manual_seed(step_seed(self.seed, order["step"], self.peers.group.rank))
        total = share.add_gradients(self.loss, self.micro_batch(share.batch))
        if np.isfinite(self.peers.sum_gradients(optimizer, total)):
            optimizer.step()

    def _evaluate(self, order: dict[str, Any]) -> None:
        share = self.peers.rows(order)
        self.module.eval()
        with torch.no_grad():
            self.losses += share.sum_losses(self.loss, self.micro_batch(share.batch))

    def _sum(self, _: dict[str, Any]) -> None:
        self.peers.total(self.losses)
        self.losses = 0.0

    def _whole(self, _: dict[str, Any]) -> None:
        assert self.peers.sharding is not None
        self.checkpoint.optimizer.state.clear()  # nobody needs it any more
        self.peers.sharding.put_together()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Of one step: dropout draws the same where a training goes on inside an epoch, and other rows in each process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
