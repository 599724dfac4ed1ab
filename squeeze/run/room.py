"""A small store: where a plan limits the disk, models that nothing needs any more are given up as the run goes on.

What they were measured as stays, and what the report tells of them (``squeeze.models.released``); a package holds its
files. Whatever asks for their weights later, such as a pass that a changed plan begins there, has them made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from squeeze.models.released import Facts, ReleasedModel
from squeeze.plan.schedule import Making, free_after
from squeeze.run.stored import RECORD, RELEASED, StoredModel
from squeeze.store import Store

Exact = Callable[[str], Mapping[str, int | None]]


class Room:
    """What a run's models take in the store, and which of them may go.

    Args:
        limit: Bytes that the plan allows; None: nothing is given up, and nothing is counted.
        packs: Whether targets are packed.
        exact: By a model's key, the numbers that were counted of it.
    """

    def __init__(
        self, limit: int | None, store: Store, makings: Sequence[Making[str]], original: str, packs: bool, exact: Exact
    ) -> None:
        self.limit, self.store, self.exact = limit, store, exact
        self.peak_bytes: int | None = None
        self._free = free_after(makings, original, packs) if limit is not None else [[] for _ in makings]
        self._going = {key for keys in self._free for key in keys}
        self._made: dict[str, StoredModel] = {}
        self._done = 0

    def stays(self, stored: StoredModel) -> bool:
        """Whether a model is still there when the run ends."""
        return stored.key not in self._going

    def made(self, *models: StoredModel) -> None:
        """Models that were measured just now."""
        self._made |= {one.key: one for one in models}
        if self.limit is not None:
            self.peak_bytes = max(self.peak_bytes or 0, self.store.disk_bytes())

    def next(self, stored: StoredModel) -> StoredModel:
        """One more thing of the schedule is done, and gave this model: what nothing needs any more goes.

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
        released = ReleasedModel(Facts.of(stored.model, stored.model_folder, self.exact(stored.key)))

        def write(folder: Path) -> None:
            (folder / RECORD).write_bytes((stored.folder / RECORD).read_bytes())
            (folder / RELEASED).mkdir()
            released.save(folder / RELEASED)

        given_up = self.store.rewrite(stored.key, write)
        return replace(stored, model=released, has_weights=False) if given_up else stored


def restored(stored: StoredModel, store: Store, make: Callable[[], StoredModel]) -> StoredModel:
    """A model from the store, which knows how to be made again, should it be given up."""

    def again() -> StoredModel:
        if stored.is_released:
            store.progress.say(f"{stored.key[:12]}: was given up to keep the store small, and is made again")
            store.drop(stored.key)
        return make()

    return replace(stored, make_again=again)
