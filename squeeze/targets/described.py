"""What a package has to say of the artifact in it, whichever kind that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze.targets.golden import Golden
from squeeze.targets.manifest import Runtime, Task, TensorSpec


@dataclass(frozen=True)
class Described:
    """An artifact as a package tells of it.

    Args:
        task: What it does: answer a batch in one call, or continue a text.
        model: Name of the file that the runtime is pointed at; one of ``files``.
        files: Model files by their name in the package.
        inputs, outputs: Of the golden run.
        runtime: What the golden output was computed in.
        golden: An input and what the model makes of it.
        tolerance: How far another host may be from the golden output, as a share of its largest value.
        parameters, macs: Of the graph behind the model file; None: not known.
        requirements: What ``run.py`` needs, as pip is told.
    """

    task: Task
    model: str
    files: Mapping[str, Path]
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    runtime: Runtime
    golden: Golden
    tolerance: float
    parameters: int | None
    macs: int | None
    requirements: tuple[str, ...]
