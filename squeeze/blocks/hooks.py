"""What modules take in and give while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

See = Callable[[str, nn.Module, tuple[Any, ...], Any], None]  # a module's name, itself, its inputs, its output


@contextmanager
def watched_modules(modules: Iterable[tuple[str, nn.Module]], see: See) -> Iterator[None]:
    """While open, ``see`` is told of each call of these modules."""
    with ExitStack() as hooks:
        for name, module in modules:
            hooks.enter_context(module.register_forward_hook(partial(see, name)))
        yield
