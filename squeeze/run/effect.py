"""Effect contracts: a pass that did not do what it promises fails by name, and nothing of it is kept.

fewer_parameters, fewer_macs, fewer_bytes   strictly fewer than before; bytes also fewer than the original's
weights_changed                             at least one stored file differs
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from squeeze.errors import EffectError
from squeeze.models.base import Model
from squeeze.plan.plan import Branch, Plan, Step

SIZE = "fewer_bytes"
COUNTED: dict[str, tuple[str, Callable[[Model], int | None]]] = {
    "fewer_parameters": ("parameters", lambda model: model.parameters()),
    "fewer_macs": ("multiply-accumulates", lambda model: model.macs()),
    SIZE: ("bytes", lambda model: model.nbytes()),
}


def check_effect(
    step: Step, models: tuple[Model, Model, Model], folders: tuple[Path, Path], facts: dict[str, Any]
) -> None:
    """Raise ``EffectError`` for the promises of a pass that the result does not keep.

    Args:
        models: The original, the model before the pass, the model after it.
        folders: Where the last two are stored.
        facts: What the pass states about itself.
    """
    _, before, after = models
    broken = [*_broken(step, models, folders), *step.pass_.check_effect(before, after, facts)]
    if broken:
        raise EffectError(f"{step.where()}: {step.pass_.name} {'; '.join(broken)}")


def _broken(step: Step, models: tuple[Model, Model, Model], folders: tuple[Path, Path]) -> Iterator[str]:
    original, before, after = models
    promised = step.pass_.promised(before)
    for promise in sorted(promised & COUNTED.keys()):
        noun, count = COUNTED[promise]
        was, now = count(before), count(after)
        if was is None or now is None:
            yield f"promises fewer {noun}, but they are not known"
        elif now >= was:
            yield f"promises fewer {noun}, but left {now:,} of {was:,}"
        elif promise == SIZE and now >= original.nbytes():
            yield f"promises fewer {noun}, but left {now:,}; the original has {original.nbytes():,}"
    if "weights_changed" in promised and _digests(folders[0]) == _digests(folders[1]):
        yield "promises changed weights, but wrote the very bytes that it was given"


def larger_package(package: Path, branch: Branch, plan: Plan, original: Model) -> str | None:
    """A warning where passes made the model smaller and its package is no smaller than the original; None: it is."""
    packed, first = package.stat().st_size, original.nbytes()
    promised = any(SIZE in step.pass_.promises for step in (*plan.steps, *branch.steps))
    if not promised or packed < first:
        return None
    return f"{branch.name}: the package has {packed:,} bytes and the original {first:,}: nothing is won"


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
