"""Multiply-accumulates of a torch module, counted from the operators that it calls while it runs on the meta device.

Every product of tensors counts, whoever makes it: convolutions, matrix products, recurrent layers, both products of
attention. Additions, activations, norms and pooling do not. An operator that multiplies and has no rule here makes the
count None: a sum without it would be too low.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from squeeze.blocks.hooks import watched_modules

aten = torch.ops.aten
OPERATIONS = 2  # torch's formulas count a multiplication and an addition
OUR_FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, _: matrix.numel(),
    aten.addmv: lambda _, matrix, __: matrix.numel(),
    aten.dot: lambda one, _: one.numel(),
    aten._grouped_mm: lambda rows, experts, *_: rows.numel() * experts.shape[-1],  # each row meets one expert
}
UNCOUNTED = {  # products without a rule
    "_cdist_forward",
    "_int_mm",
    "_native_multi_head_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_transformer_encoder_layer_fwd",
    "_trilinear",
    "_weight_int4pack_mm",
    "_weight_int8pack_mm",
    "mkldnn_rnn_layer",
}
OWN_NAMESPACES = {"aten", "prim", "prims"}


class MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is open.

    Attributes:
        by_module: By the name of the innermost module that was running; "" is the model itself. None: not known.
        order: Names of the modules without children, as they first ran.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_module: dict[str, int | None] = {}
        self.order: dict[str, None] = {}
        self._running = [""]

    def total(self) -> int | None:
        """Of the whole model; None where a part is not known."""
        counts = list(self.by_module.values())
        return None if None in counts else sum(count for count in counts if count)

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[MacCounter]:
        """Count by the names of this module's parts."""
        with ExitStack() as hooks, self, torch.no_grad():
            for name, child in module.named_modules():
                enter = child.register_forward_pre_hook(lambda m, args, name=name: self._enter(m, name))
                hooks.enter_context(enter)
                hooks.enter_context(child.register_forward_hook(self._leave, always_call=True))
            yield self

    def _enter(self, module: nn.Module, name: str) -> None:
        self._running.append(name)
        if not list(module.children()):
            self.order.setdefault(name)

    def _leave(self, *_: Any) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return True  # masks do not change the count
        out = func(*args, **(kwargs or {}))
        count = _products(func, args, kwargs or {}, out)
        name = self._running[-1]
        before = self.by_module.get(name, 0)
        self.by_module[name] = None if count is None or before is None else before + count
        return out


def _products(func: Any, args: Any, kwargs: Any, out: Any) -> int | None:
    """Of one operator; None where it has products that are not known."""
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out)) // OPERATIONS
    if packet in OUR_FORMULAS:
        return OUR_FORMULAS[packet](*args)
    known = func.namespace in OWN_NAMESPACES and packet.__name__ not in UNCOUNTED
    return 0 if known else None


def largest_traffic(module: nn.Module, run: Callable[[], object]) -> int:
    """Numbers that a layer reads and writes, weights apart, of the one that takes most; found by a run of it."""
    largest = 0

    def see(_: str, __: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        tensors = [value for value in (*inputs, output) if isinstance(value, Tensor)]
        largest = max(largest, sum(tensor.numel() for tensor in tensors))

    with watched_modules([(name, layer) for name, layer in module.named_modules() if not list(layer.children())], see):
        run()
    return largest


def structure_key(module: nn.Module) -> tuple[Any, ...]:
    """Equal for two networks that do the same work: kinds, plain attributes and shapes of all modules, not weights."""
    return tuple(
        (
            name,
            type(child),
            tuple((key, value) for key, value in vars(child).items() if _is_plain(value)),
            tuple((key, tensor.shape) for key, tensor in child.named_parameters(recurse=False)),
            tuple((key, tensor.shape) for key, tensor in child.named_buffers(recurse=False)),
        )
        for name, child in module.named_modules()
    )


def _is_plain(value: Any) -> bool:
    """Whether two such values can be compared, as two tensors cannot."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def meta_copy(module: nn.Module) -> nn.Module:
    """The module without its values; what its code keeps while it runs stays in the copy."""
    tensors = [*module.parameters(), *module.buffers()]
    return deepcopy(module, {id(tensor): _empty(tensor) for tensor in tensors})


def _empty(tensor: Tensor) -> Tensor:
    nowhere = tensor.detach().to("meta")
    return nn.Parameter(nowhere, requires_grad=False) if isinstance(tensor, nn.Parameter) else nowhere
