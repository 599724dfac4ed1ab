"""A package's scores on an emulated ARM64 processor, beside those of the same file on this one.

Integers of phones are rounded and saturated by other instructions than this machine's, so a file's answers may differ.
Both processors run the same file, by the same script, on the same examples, so every change is paired.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from squeeze.data.base import Dataset
from squeeze.errors import VerifyError
from squeeze.evaluate.evaluator import labels_of
from squeeze.evaluate.evidence.base import Answered, ScoredOn
from squeeze.evaluate.evidence.outputs import Logits
from squeeze.evaluate.metrics import ExampleMetric
from squeeze.ledger import Score, measure, scores, written
from squeeze.plan.plan import Plan
from squeeze.progress import Progress
from squeeze.run.package_examples import arrays_of, evaluation_examples
from squeeze.targets.arm64.compare import EMULATED, OnProcessor, on_processor
from squeeze.targets.arm64.root import PROCESSOR, Arm64Root
from squeeze.targets.confined import Limits
from squeeze.targets.golden import Arrays, largest_difference
from squeeze.targets.verify import Package, runtime_version

EXAMPLES = 64
WHO = "--arm64 with --data"


@dataclass(frozen=True)
class OnArm64:
    """What a package answers on ARM64.

    Args:
        processor: That was emulated.
        golden_difference: From the golden output, as a share of its largest value; ``golden_here``: on this machine.
        examples: Of the plan's evaluation data, evenly spread over it; 0: no plan was given.
        outputs_differ_by: The largest difference between both processors, as a share of the largest output.
        here, arm64: By metric; the changes of ``arm64`` are from ``here``.
        not_scored: Metrics that are no score of the model's answers to single examples.
    """

    processor: str
    runtime: str
    golden_difference: float
    golden_here: float
    tolerance: float
    examples: int = 0
    outputs_differ_by: float | None = None
    here: dict[str, Score] = field(default_factory=dict)
    arm64: dict[str, Score] = field(default_factory=dict)
    not_scored: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        values: dict[str, Any] = written(self)
        return values


def on_arm64(
    package: Package,
    root: Arm64Root,
    plan: Plan | None = None,
    limits: Limits = EMULATED,
    progress: Progress | None = None,
    examples: int = EXAMPLES,
) -> OnArm64:
    """Run the golden input on both processors and, with a plan, some of its evaluation data.

    Raises:
        MissingExtra: emulator or folder are not there.
        UsageError: a plan for a model that answers no batch in one call.
        VerifyError: the model does not run there, or its golden output is further off than the manifest allows.
    """
    root.require(package.runtime())
    progress, data = progress or Progress(), None if plan is None else evaluation_examples(package, plan, examples, WHO)
    inputs = None if data is None else arrays_of(package, data)
    progress.say(f"{package.path} on an emulated {PROCESSOR}: takes a while")
    here = on_processor(package, inputs, None, limits)
    arm64 = on_processor(package, inputs, root, limits)
    tolerance = package.manifest.tolerance
    if not arm64.golden_difference <= tolerance:
        raise VerifyError(
            f"{package.path}: on an emulated {PROCESSOR} the golden output differs by {arm64.golden_difference:.3g} "
            f"of its largest value; at most {tolerance:g} would be right"
        )
    runtime = f"{package.manifest.runtime.name} {runtime_version(package)}"
    result = OnArm64(PROCESSOR, runtime, arm64.golden_difference, here.golden_difference, tolerance)
    if plan is None or data is None:
        return result
    return _scored(result, package, plan, data, (here, arm64))


def _scored(
    result: OnArm64, package: Package, plan: Plan, data: Dataset, answers: tuple[OnProcessor, OnProcessor]
) -> OnArm64:
    """With the scores of both; those of this machine stand for the original."""
    task, on, first = package.task(), ScoredOn.of(data), package.manifest.outputs[0].name
    metrics = [m for m in plan.metrics if isinstance(m, ExampleMetric) and m.evidence_of(task) is Logits]
    both = [one.outputs for one in answers if one.outputs is not None]
    measured = [
        measure({m.label: Answered(_rows(outputs, first), on, data.units) for m in metrics}, on) for outputs in both
    ]
    labels, (here, arm64) = labels_of(data), measured
    return replace(
        result,
        examples=len(data),
        outputs_differ_by=largest_difference(both[0], both[1]),
        here=scores(list(metrics), labels, here, here, None),
        arm64=scores(list(metrics), labels, arm64, here, here),
        not_scored=tuple(metric.label for metric in plan.metrics if metric not in metrics),
    )


def _rows(outputs: Arrays, name: str) -> np.ndarray:
    return np.asarray(outputs[name], np.float32).reshape(len(outputs[name]), -1)
