"""Some of a plan's evaluation data, as a package's model takes them."""

from __future__ import annotations

import numpy as np

from squeeze.data.base import Dataset
from squeeze.errors import UsageError
from squeeze.models.base import InputSpec
from squeeze.models.ort_session import feed
from squeeze.models.tasks.base import ROWS
from squeeze.plan.plan import Plan
from squeeze.targets.golden import Arrays
from squeeze.targets.verify import Package


def evaluation_examples(package: Package, plan: Plan, count: int, who: str) -> Dataset:
    """At most ``count`` examples, evenly spread over the data; ``who`` wants them.

    Raises:
        UsageError: the package's model goes on with a text, or the plan names no evaluation data.
    """
    if package.task().outputs != ROWS:
        raise UsageError(f"{who} takes models that answer a batch in one call; {package.path} goes on with a text")
    if "evaluate" not in plan.data:
        raise UsageError(f"{plan.file}: names no data.evaluate to score on")
    data = plan.open_data("evaluate")
    return data.subset(np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(np.int64)))


def arrays_of(package: Package, data: Dataset) -> Arrays:
    """All examples by the names of the model's inputs.

    Raises:
        SqueezeError: the data does not hold what the model takes.
    """
    specs = tuple(
        InputSpec(spec.name, tuple(size if isinstance(size, int) else -1 for size in spec.shape[1:]), spec.dtype)
        for spec in package.manifest.inputs
    )
    return feed(specs, data.batch(np.arange(len(data))), str(package.path))
