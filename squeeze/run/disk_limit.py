"""A small store: where a plan limits the disk, models that nothing needs any more are released as the run goes on.

Their measurements stay, and the facts that a report shows (``squeeze.models.released``); a package holds its files.
Whoever needs the weights later, such as a pass that a changed plan begins there, has them computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from squeeze.models.released import ReleasedFacts, ReleasedModel
from squeeze.plan.schedule import WorkItem, free_after
from squeeze.run.stored import RECORD, RELEASED, StoredModel
from squeeze.store import Store

Exact = Callable[[str], Mapping[str, int | None]]


class DiskLimit:
    """Which models of a run may be released from the store, and what the store holds at most.

    Args:
        limit: Bytes that the plan allows; None: nothing is released, and nothing is counted.
        packs: Whether targets are packed.
        exact: Gives, by a model's key, what metrics counted of it.
    """

    def __init__(
        self, limit: int | None, store: Store, items: Sequence[WorkItem[str]], original: str, packs: bool, exact: Exact
    ) -> None:
        self.limit, self.store, self.exact = limit, store, exact
        self.peak_bytes: int | None = None
        self._free = free_after(items, original, packs) if limit is not None else [[] for _ in items]
        self._going = {key for keys in self._free for key in keys}
        self._made: dict[str, StoredModel] = {}
        self._done = 0

    def stays(self, stored: StoredModel) -> bool:
        """Whether a model is still there when the run ends."""
        return stored.key not in self._going

    def measured(self, *models: StoredModel) -> None:
        """Note models that were measured just now."""
        self._made |= {one.key: one for one in models}
        if self.limit is not None and self.store.writable:
            self.peak_bytes = max(self.peak_bytes or 0, self.store.disk_bytes())

    def step_done(self, stored: StoredModel) -> StoredModel:
        """Release what nothing needs any more, now that one more item of the schedule is done and gave this model.

        Returns:
            The model as the store holds it now.
        """
        released = {key: self._release(self._made.pop(key)) for key in self._free[self._done] if key in self._made}
        self._done += 1
        return released.get(stored.key, stored)

    def _release(self, stored: StoredModel) -> StoredModel:
        if stored.is_released:
            return stored
        stored.model.close()
        released = ReleasedModel(ReleasedFacts.of(stored.model, stored.model_folder, self.exact(stored.key)))

        def write(folder: Path) -> None:
            (folder / RECORD).write_bytes((stored.folder / RECORD).read_bytes())
            (folder / RELEASED).mkdir()
            released.save(folder / RELEASED)

        return replace(stored, model=released) if self.store.rewrite(stored.key, write) else stored


def recomputable(stored: StoredModel, store: Store, make: Callable[[], StoredModel]) -> StoredModel:
    """A model from the store that can compute its weights again, should they be released."""

    def again() -> StoredModel:
        if stored.is_released:
            store.progress.say(f"{stored.key[:12]}: was released to keep the store small, and is computed again")
            store.drop(stored.key)
        return make()

    return replace(stored, make_again=again)
