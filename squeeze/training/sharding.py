"""Models that lie in parts, one in each process: torch's FSDP2, on CPUs.

A block's weights are whole while it computes, as are those of an embedding and of a head; what is left, such as a table
that is both, is whole during a forward or backward pass. Gradients are added up, not averaged: each process's loss is
its part in the mean over the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from squeeze.errors import ModelError, SqueezeError
from squeeze.models.language.memory import small_heap, trim_heap
from squeeze.models.resident import Resident
from squeeze.training.divisible import division_faults
from squeeze.training.group import TIMEOUT_S, Group, lost
from squeeze.training.peers import Peers

OF_GLOO = ("gloo", "closed by peer", "timed out")  # in its errors, from the middle of a forward or backward pass


class Sharding:
    """The models of one training that lie in parts.

    Args:
        student: What is trained; all its weights are there, in every process.
    """

    def __init__(self, mesh: DeviceMesh, student: Resident) -> None:
        self.mesh, self.module = mesh, student.module
        self._before = {part: _traits(part) for part in self.module.modules()}
        self.divide(student)
        self._reached: set[str] = set()
        self._watched: set[str] = set()
        for name, part in self.module.named_modules():
            if isinstance(part, FSDPModule):
                self._watch(part, name)

    def divide(self, model: Resident) -> None:
        """Keep a part of each weight of a model, and let go of the rest.

        Raises:
            ModelError: a teacher that no check has seen cannot be divided.
        """
        for fault in division_faults(model.module):
            raise ModelError(f"sharded: {fault}")
        for weight in model.module.parameters():
            weight.data = weight.data.contiguous()
        for part in (*model.pieces(), model.module):
            shards = fully_shard(part, mesh=self.mesh, reshard_after_forward=True)
            shards.set_gradient_divide_factor(1.0)
            shards.set_force_sum_reduction_for_comms(True)  # gloo has no average
            shards.set_reduce_scatter_unused_params(True)  # weights that the rows of some processes alone reach
        trim_heap()

    def take_reached(self) -> list[bool]:
        """Whether each trained weight got a gradient in this process since this was asked last."""
        trained = [name for name, weight in self.module.named_parameters() if weight.requires_grad]
        reached = [name in self._reached for name in trained]
        self._reached.clear()
        return reached

    def put_together(self) -> None:
        """The student as it was before: plain weights, whole in process 0, empty in the others."""
        places: dict[Any, list[tuple[nn.Module, str]]] = {}  # of each DTensor: several where weights are tied
        for part in self._before:
            for name, parameter in part._parameters.items():
                if isinstance(parameter, DTensor):
                    places.setdefault(parameter, []).append((part, name))
        while places:
            weight, owners = places.popitem()
            value = whole(weight) if self.mesh.get_rank() == 0 else torch.empty_like(whole(weight), device="meta")
            plain = nn.Parameter(value, weight.requires_grad)
            for part, name in owners:
                part._parameters[name] = plain
        for part, (kind, names, hooks) in self._before.items():
            _put_back(part, kind, names, hooks)

    def _watch(self, part: Any, prefix: str) -> None:
        """Note which weights get gradients; they can be asked only when they are whole, before ``part`` computes."""

        def hook(_: nn.Module, __: tuple[Any, ...]) -> None:
            for name, weight in part.named_parameters(prefix):
                if weight.requires_grad and name not in self._watched and not isinstance(weight, DTensor):
                    note: Any = weight.register_post_accumulate_grad_hook
                    note(lambda _, name=name: self._reached.add(name))
                    self._watched.add(name)
            handle.remove()

        handle = part.register_forward_pre_hook(hook)


@contextmanager
def sharded(student: Resident, peers: Peers, name: str) -> Iterator[None]:
    """Divide a student among the processes for as long as the ``with`` lasts; process 0 has all of it again after it.

    Args:
        name: Of the pass, for messages.

    Raises:
        SqueezeError: a script of the user's has a default process group.
    """
    group = peers.group
    if group.gather(torch.tensor([distributed.is_initialized()], dtype=torch.uint8)).any():
        what = "this script has a default process group, and torch's FSDP2 needs one of these processes"
        raise SqueezeError(f"{name}: sharded: {what}; destroy_process_group() before, or sharded: false, would do")
    with small_heap(), lost(OF_GLOO), _mesh(group) as mesh:
        peers.sharding = Sharding(mesh, student)
        yield
        if group.rank == 0:
            group.say({"kind": "whole"})
            peers.sharding.put_together()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which each process may hold a part; all of them must ask for it."""
    result: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return result.detach()


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds where ``like`` lies in parts."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    own = torch.empty_like(like, requires_grad=False)
    own.copy_(distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None))
    return own


@contextmanager
def _mesh(group: Group) -> Iterator[DeviceMesh]:
    """torch's default process group, made of these processes, which FSDP2 works in."""
    store, patience = PrefixStore("shards", group.store), timedelta(seconds=TIMEOUT_S)
    distributed.init_process_group("gloo", store=store, rank=group.rank, world_size=group.processes, timeout=patience)
    try:
        yield init_device_mesh("cpu", (group.processes,))
    finally:
        distributed.destroy_process_group()


def _traits(part: nn.Module) -> tuple[type[nn.Module], set[str], dict[str, dict[int, Any]]]:
    """What FSDP2 changes in a module beside its weights: its class, attributes and hooks."""
    hooks = {name: dict(value) for name, value in vars(part).items() if "hooks" in name and isinstance(value, dict)}
    return type(part), set(vars(part)), hooks


def _put_back(part: nn.Module, kind: type[nn.Module], names: set[str], hooks: dict[str, dict[int, Any]]) -> None:
    part.__class__ = kind
    for name, before in hooks.items():
        vars(part)[name].clear()
        vars(part)[name].update(before)
    for name in set(vars(part)) - names:
        if "fsdp" in name or "composable" in name:
            delattr(part, name)
