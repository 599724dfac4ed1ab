"""How many experts the blocks of a mixture have, and which tensors get smaller with fewer.

Nothing is known of families but how a config may name the number: the model is built (without weights) with one expert
less, and the tensors whose shapes differ are the experts and their router.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.models.counts import Counted
from squeeze.models.language.build import accepted, text_values
from squeeze.models.language.skeleton import Skeleton

NAMES = ("num_local_experts", "num_experts", "n_routed_experts")  # in a config
USED = "num_experts_per_tok"

See = Callable[[nn.Module, Tensor, Tensor, Tensor], None]  # the experts, hidden, places, shares


class Experts:
    """The experts of a model's blocks; every block that has some has as many, since a config names one number.

    Raises:
        ModelError: the model is no mixture, or its tensors do not follow from the number in a known way.
    """

    def __init__(self, skeleton: Skeleton, folder: Path) -> None:
        self.skeleton, self.folder, self.values = skeleton, folder, dict(skeleton.values)
        config = skeleton.config.get_text_config()
        self.kind = config.model_type
        named = {name: getattr(config, name, None) for name in NAMES}
        numbers = {name: value for name, value in named.items() if isinstance(value, int) and value > 1}
        if not numbers:
            raise ModelError(
                f"model_type '{self.kind}' is no mixture of experts; prune_width and prune_depth cut others"
            )
        self.name, self.count = next(iter(numbers.items()))
        self.used = int(getattr(config, USED, 0) or 0)
        if not 0 < self.used <= self.count:
            raise ModelError(
                f"model_type '{self.kind}': config.json does not name as {USED} how many a token is sent to"
            )
        if (getattr(config, "n_group", None) or 1) > 1:
            raise ModelError(f"model_type '{self.kind}' chooses experts by groups of one size; they stay as they are")
        self.smaller = self.built(self.count - 1) if self.count > self.used else None
        self._names = [self._of_block(index) for index in range(len(skeleton.layers))]

    def changes(self, count: int) -> dict[str, Any]:
        """What the config says otherwise of a model with so many."""
        config = self.skeleton.config.get_text_config()
        named = [name for name in NAMES if getattr(config, name, None) == self.count]
        return text_values(self.values, dict.fromkeys(named, count))

    def built(self, count: int) -> Skeleton:
        """The model with so many, without weights."""
        values = self.values | self.changes(count)
        if not accepted(values):
            raise ModelError(f"model_type '{self.kind}': its config takes no {count} experts")
        return Skeleton.built(self.folder, values)

    def names(self, index: int) -> list[str]:
        """Tensors of a block whose first axis counts experts; none where the block has no experts."""
        return self._names[index]

    def counted(self, count: int, what: Counted) -> int:
        """Of the whole model with so many: each costs the same."""
        return what(self.skeleton) - (self.count - count) * self.cost(what)

    def cost(self, what: Counted) -> int:
        """Of one expert and its row of the router, in all blocks."""
        return 0 if self.smaller is None else what(self.skeleton) - what(self.smaller)

    def owner(self, index: int) -> str:
        """The module of a block that holds its experts' matrices.

        Raises:
            ModelError: there is no such module, or more than one.
        """
        block = self.skeleton.layers[index]
        owners = {name.rpartition(".")[0] for name in self.names(index) if block.get_parameter(name).dim() == 3}
        if len(owners) != 1:
            where = self.skeleton.prefix(index).removesuffix(".")
            raise ModelError(
                f"{where}: one module that holds all experts' matrices was looked for, {len(owners)} found"
            )
        return next(iter(owners))

    def _of_block(self, index: int) -> list[str]:
        if self.smaller is None:
            return []
        new = dict(self.smaller.layers[index].named_parameters())
        names = []
        for name, value in self.skeleton.layers[index].named_parameters():
            shape = list(new[name].shape)
            if shape == list(value.shape):
                continue
            if shape != [self.count - 1, *value.shape[1:]]:
                what = f"{name} is {list(value.shape)}, with one expert less {shape}"
                raise ModelError(f"{self.skeleton.prefix(index)}{what}: how it counts experts is not known")
            names.append(name)
        return names


@contextmanager
def watched(experts: nn.Module, see: See) -> Iterator[None]:
    """Show what goes into a module of experts, for as long as the ``with`` lasts.

    Raises:
        ModelError: it is not called with tokens, where each is sent, and with which share.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if len(given) != 3 or given[1].is_floating_point() or given[1].shape != given[2].shape:
            raise ModelError(
                f"{type(module).__name__} is called in a way that is not known; its experts stay as they are"
            )
        see(module, *given)

    with experts.register_forward_pre_hook(hook, with_kwargs=True):
        yield


def answer_of(experts: nn.Module, hidden: Tensor, expert: int) -> Tensor:
    """What one expert makes of tokens ``[tokens, hidden]``: the module's own code, all of them sent to it alone."""
    alone = torch.full((len(hidden), 1), expert)
    result: Tensor = experts.forward(hidden, alone, torch.ones(alone.shape, dtype=hidden.dtype))
    return result
