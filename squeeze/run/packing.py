"""From the end of a branch to a verified package: the artifact that is scored is the file that is packed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from squeeze.data.base import Dataset
from squeeze.data.text import read_tokenizer
from squeeze.ledger import Ledger
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch, Model
from squeeze.models.language.artifact import LanguageArtifact
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.source import HuggingFaceSource
from squeeze.models.torch_model import TorchModel
from squeeze.plan.plan import Branch, Plan
from squeeze.report import shape, text
from squeeze.run.stored import StoredModel, read_model, write_model
from squeeze.store import Store
from squeeze.targets.base import PackageInputs, Packed, Target
from squeeze.targets.card import Score
from squeeze.targets.host import host
from squeeze.versions import library_versions, source_digest, squeeze_version
from squeeze.work import temporary_folder

GOLDEN_PROMPT = "Once upon a time there was a small house at the edge of the wood, and in it lived"
GOLDEN_TOKENS = 16  # where there is no tokenizer
GOLDEN_EXAMPLES = 4
GOLDEN_BYTES = 500_000  # of inputs; at least one example


def build_artifact(target: Target[Any], end: StoredModel, store: Store, code_folder: str) -> StoredModel:
    """What the target's runtime loads, in the store like any other step."""
    inputs = {
        "before": end.key,
        "target": target.name,
        "options": target.options(),
        "code": source_digest(type(target)),
    }

    def write(folder: Path) -> None:
        with temporary_folder("target") as work:
            built = target.build(end.model, work)
            proof = target.prove(end.model, built)
            write_model(folder, built, {"proof": proof} if proof else {}, {})

    read = partial(read_model, code_folder=code_folder)
    return store.cached("target", inputs, write, read, f"target {target.name}")


def pack(target: Target[Any], artifact: StoredModel, inputs: PackageInputs, path: Path) -> Packed:
    """Write the package of a branch and verify it; then it appears."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert isinstance(artifact.model, Artifact | LanguageArtifact)
    return target.pack(artifact.model, inputs, path)


def package_inputs(plan: Plan, branch: Branch, ledger: Ledger, original: Model, data: Dataset | None) -> PackageInputs:
    """What a run knows and a package tells."""
    return PackageInputs(
        name=f"{plan.name}-{branch.name}",
        golden=golden_batch(original),
        plan=plan.resolved(),
        ledger=ledger.to_json(timings=False),
        measurements=_measurements(ledger),
        labels=_labels(original, data),
        preprocessing=data.preprocessing() if data is not None else {},
        provenance={
            "squeeze": squeeze_version(),
            "versions": library_versions(),
            "original": ledger.original.key,
            "evaluated_on": ledger.to_json(timings=False)["scored_on"],
            "seed": plan.seed,
        },
        scores=list(_card_scores(ledger)),
    )


def golden_batch(original: Model) -> Batch:
    """Seeded noise of the right shape, or a sentence of ours: a package carries nobody's data."""
    if isinstance(original, LanguageModel):
        return Batch({"input_ids": torch.tensor([golden_prompt(original)])})
    size_bytes = sum(4 * abs(math.prod(i.shape)) for i in original.inputs)
    examples = max(1, min(GOLDEN_EXAMPLES, GOLDEN_BYTES // size_bytes))
    if all(spec.dtype == "float32" and min(spec.shape, default=1) > 0 for spec in original.inputs):
        generator = np.random.default_rng(0)
        noise = {i.name: generator.standard_normal((examples, *i.shape)).astype(i.dtype) for i in original.inputs}
        return Batch({name: torch.from_numpy(array) for name, array in noise.items()})
    seeded = torch.Generator().manual_seed(0)
    return Batch({spec.name: spec.noise(examples, seeded) for spec in original.inputs})


def golden_prompt(model: LanguageModel) -> list[int]:
    """The tokens of a sentence; seeded random ones where the model has no tokenizer."""
    if (model.folder / "tokenizer.json").is_file():
        tokens: list[int] = read_tokenizer(model.folder)(GOLDEN_PROMPT)["input_ids"]
        return tokens
    random: list[int] = np.random.default_rng(0).integers(0, model.tokens_known, GOLDEN_TOKENS).tolist()
    return random


def _measurements(ledger: Ledger) -> dict[str, Any]:
    rows = [row.to_json() for row in ledger.rows]
    timed = [{"name": row["name"], "timings": row["timings"], "measured": row["measured"]} for row in rows]
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "host": host(), "rows": timed}


def _labels(original: Model, data: Dataset | None) -> list[str] | None:
    """Class names: from the model's config, else from the data."""
    if isinstance(original, TorchModel) and isinstance(original.source, HuggingFaceSource):
        named = json.loads(original.source.config).get("id2label") or {}
        return [str(named[key]) for key in sorted(named, key=int)] or None
    return data.classes if data is not None else None


def _card_scores(ledger: Ledger) -> Iterator[Score]:
    """Every score of the packed file, worded for the model card."""
    last = shape.Row.model_validate(ledger.rows[-1].to_json())
    for name, score in last.scores.items():
        on = score.scored_on or ledger.scored_on
        first = ledger.original.scores[name].value
        data = f"{on.examples} examples of {on.name}" if on and score.interval else ""
        yield Score(
            metric=text.heading(name),
            value=text.value(score.unit, score.value),
            original=text.value(score.unit, first),
            delta=text.change_text(score.unit, score.to_original),
            verdict=text.verdict(score.unit, score.to_original),
            data=data,
        )
