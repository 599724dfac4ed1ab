"""Data that asks the original: chosen by what it says of a text, or written by it. Both are kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from squeeze.data.base import Dataset
from squeeze.data.saved_sequences import read_sequences, write_sequences
from squeeze.data.select import Select
from squeeze.data.selecting import Measured
from squeeze.data.synthesize import SynthesizeData
from squeeze.data.text import TextData
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import DataError, PlanError
from squeeze.models.base import Model
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.tasks.base import TOKENS, models_that_give
from squeeze.models.tokenizer import tokenizer_digest
from squeeze.plan.check import check, example_shapes
from squeeze.plan.plan import ROLES, Plan
from squeeze.progress import Progress
from squeeze.run.measured import measured
from squeeze.run.original import keep_original, read_original
from squeeze.run.stored import StoredModel
from squeeze.run.written import write_texts
from squeeze.store import Store
from squeeze.versions import content_digest
from squeeze.work import work_folder, work_within

EVALUATE = "evaluate"
SELECTED = "data."  # what the report calls how a role's data was chosen: data.train
BY_ORIGINAL = "written by the original"
KNOWN = {BY_ORIGINAL, "prompts", "sequences", "chosen"}  # of a selection; all else is a reason and a count
WRITTEN = "synthesized.jsonl"
WRITING = ("synthesize", "length", "field", "temperature", "top_p", "seed")  # options that decide what is written


class Lender:
    """Opens the data of a plan's roles, and reads its original once, when the first one asks for it.

    Args:
        model: Stands in for what the plan names.
        store: Where choices and texts are kept; None: in a folder that goes with the process.
        evaluated: The evaluation data, where a check has opened it.
        own: By a metric's label, the data that it brings, where a check has opened it.
    """

    def __init__(
        self,
        plan: Plan,
        model: Model | None = None,
        store: Store | None = None,
        progress: Progress | None = None,
        evaluated: Dataset | None = None,
        own: Mapping[str, Dataset] | None = None,
    ) -> None:
        self.plan, self.stand_in, self.progress = plan, model, progress or Progress()
        self.evaluated, self.own = evaluated, own or {}
        self.store = store or Store(work_folder("lent"), self.progress)

    @cached_property
    def model(self) -> Model:
        """The original, as it lies."""
        if self.stand_in is not None:
            return self.stand_in
        plan = self.plan
        return read_original(plan.model, plan.root, example_shapes(plan), self.store, plan.threads, self.progress)

    @cached_property
    def original(self) -> StoredModel:
        """The original in the store."""
        return keep_original(self.model, self.store, str(self.plan.root))

    def open(self, role: str, number: int = 0) -> Dataset:
        """The data of a role.

        Args:
            number: 0 for the samples that the plan names, 1 and on for others of the same source.
        """
        if role == EVALUATE and self.evaluated is not None:
            return self.evaluated
        source, folder = self.plan.source(role, number), self.plan.model_folder()
        if isinstance(source, SynthesizeData):
            return self._synthesized(source)
        if isinstance(source, TextData) and source.select is not None and folder is not None:
            return self._selected(source, source.select, content_digest(self.plan.root / source.text), folder)
        return self.plan.open_data(role, number)

    def _selected(
        self, source: TextData, select: Select, text: str, folder: Path, most: int | None = None
    ) -> TokenDataset:
        """A choice from the store, or made now.

        Args:
            text: The digest of what is chosen from.
            folder: Where the tokenizer is.
            most: Sequences that are chosen from; None: all.
        """
        inputs: dict[str, Any] = {
            "text": text,
            "options": source.model_dump(mode="json", exclude={"text", "drop_overlap"}),
            "most": most,
            "tokenizer": tokenizer_digest(folder),
            "asked": {"original": self.original.key, "threads": self.plan.threads} if select.asks_original else None,
        }
        journal = self.store.journal(self.store.key("selection", inputs))

        def measure(data: TokenDataset) -> Measured:
            return measured(self._language("select"), data, select.vectors == "hidden", journal, self.progress)

        def write(entry: Path) -> None:
            write_sequences(entry, source.measured(self.plan.root, folder, measure, most))

        data = self.store.cached("selection", inputs, write, lambda entry: read_sequences(entry, folder), "a selection")
        self.progress.say(f"{data.name}: {selection_line(data.selection)}")
        return data

    def _synthesized(self, source: SynthesizeData) -> TokenDataset:
        """What the original wrote, from the store or written now."""
        model, named = self._language(source.kind), source.prompts
        inputs: dict[str, Any] = {
            "original": self.original.key,
            "options": source.model_dump(mode="json", include=set(WRITING)),
            "prompts": content_digest(self.plan.root / named) if named is not None else None,
            "threads": self.plan.threads,
        }
        key = self.store.key("synthesized", inputs)

        def write(entry: Path) -> None:
            write_texts(entry / WRITTEN, model, source, self.plan.root, self.store.journal(key), self.progress)

        written = self.store.cached("synthesized", inputs, write, lambda entry: entry / WRITTEN, "text by the original")
        text, most = source.text(written), source.synthesize
        if text.select is not None:
            data = self._selected(text, text.select, key, model.folder, most)
        else:
            data = text.measured(self.plan.root, model.folder, None, most)
        own: dict[str, int | str] = {BY_ORIGINAL: most, "prompts": Path(named).name if named is not None else "none"}
        data.selection = {**own, **data.selection}
        return data

    def _language(self, what: str) -> LanguageModel:
        """The original, if it predicts tokens.

        Raises:
            DataError: it does not.
        """
        if self.model.task.outputs != TOKENS:
            raise DataError(f"{what} asks the original for tokens, and it is none of {models_that_give(TOKENS)}")
        return in_shards(self.original.model)


def data_of(plan: Plan, store: Store, progress: Progress) -> dict[str, dict[str, Any]]:
    """By role: the data's name, how many examples it has, and how they were chosen or written.

    Raises:
        PlanError: the plan is wrong, with every fault.
    """
    if faults := check(plan).faults:
        raise PlanError(plan.located(faults), plan.file)
    lender = Lender(plan, store=store, progress=progress)
    with store.run() as work, work_within(work):
        opened = {role: lender.open(role) for role in ROLES if role in plan.data}
    return {
        role: {"name": data.name, "examples": len(data), "selection": dict(data.selection)}
        for role, data in opened.items()
    }


def selections(roles: Mapping[str, Dataset]) -> dict[str, Any]:
    """Of each role whose examples were chosen or written, how: facts for the report and the package."""
    return {f"{SELECTED}{role}": dict(data.selection) for role, data in roles.items() if data.selection}


def selection_line(selection: Mapping[str, int | str]) -> str:
    """``698 of 13,958 sequences; left out: 13,019 not needed, 225 signs``."""
    reasons = {name: value for name, value in selection.items() if name not in KNOWN}
    counted = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    chosen = f"{selection['chosen']:,} of {selection['sequences']:,} sequences" if "chosen" in selection else ""
    written = f"{selection[BY_ORIGINAL]:,} sequences written by the original" if BY_ORIGINAL in selection else ""
    return "; ".join(filter(None, [written, chosen, f"left out: {counted}" if counted else ""]))
