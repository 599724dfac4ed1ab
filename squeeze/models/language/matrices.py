"""Which weights of a language model's blocks a quantizer may take: linears, and experts in one 3-D tensor.

Routers stay as they are: a few rows that decide where every token goes.
"""

from __future__ import annotations

from torch import nn

from squeeze.blocks.watch import Weight
from squeeze.models.language.skeleton import Skeleton


def block_weights(skeleton: Skeleton, index: int) -> list[str]:
    """Their names inside one block."""
    block = skeleton.layers[index]
    linears = {f"{name}.weight" for name, child in block.named_modules() if isinstance(child, nn.Linear)}
    experts = _experts(skeleton)
    return [
        name
        for name, value in block.named_parameters()
        if (name in linears and not _routes(block, name, experts)) or (value.dim() == 3 and len(value) == experts)
    ]


def matrices(skeleton: Skeleton, index: int, name: str) -> list[Weight]:
    """The matrices of one parameter of a block: itself, or one per expert."""
    value = skeleton.layers[index].get_parameter(name)
    return [Weight(name)] if value.dim() == 2 else [Weight(name, expert) for expert in range(len(value))]


def _routes(block: nn.Module, name: str, experts: int | None) -> bool:
    """A linear with a row per expert, beside the experts; or with a single row, which weighs a shared one."""
    rows = len(block.get_parameter(name))
    beside = block.get_submodule(name.removesuffix(".weight").rpartition(".")[0])
    return rows == 1 or (rows == experts and _holds_experts(beside, experts))


def _holds_experts(module: nn.Module, experts: int) -> bool:
    lists = any(isinstance(child, nn.ModuleList) and len(child) == experts for child in module.children())
    return lists or any(value.dim() == 3 and len(value) == experts for value in module.parameters())


def _experts(skeleton: Skeleton) -> int | None:
    config = skeleton.config.get_text_config()
    return next(
        (n for key in ("num_local_experts", "num_experts", "n_routed_experts") if (n := getattr(config, key, None))),
        None,
    )
