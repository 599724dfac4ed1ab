"""What a package has to say of the artifact in it, whichever runtime it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze import registry
from squeeze.formats.tensor_spec import TensorSpec
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch, Model
from squeeze.models.facts import NARROW_TOLERANCE, Facts
from squeeze.runtimes.base import GENERATE, TASKS, Call, call_of
from squeeze.targets.golden import Arrays, Golden
from squeeze.targets.manifest import Runtime


@dataclass(frozen=True)
class Described:
    """An artifact as a package tells of it.

    Args:
        call: How it is run: a batch in one call, or token after token.
        task_name: What it does, where the call does not say it.
        shows: What its script makes of the outputs.
        model: Name of the file that the runtime is pointed at; one of ``files``.
        files: Model files by their name in the package.
        inputs, outputs: Of the golden run.
        runtime: What the golden output was computed in, or would have been: ``not_run`` says why it was not.
        golden: An input and what the model makes of it.
        tolerance: How far another host may be from the golden output, as a share of its largest value.
        parameters, macs: Of the graph behind the model file; None: not known.
        requirements: What ``run.py`` needs, as pip is told.
    """

    call: Call
    task_name: str | None
    shows: str
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
    not_run: str | None = None


def describe(artifact: Artifact, examples: Batch, source: Model | None = None) -> Described:
    """What a package says of the files that a runtime loads.

    Args:
        examples: The golden input; the outputs are computed here, from the files themselves.
        source: What the files were made from: where their runtime does not run here, the outputs are its.
    """
    runtime, files = registry.load("runtimes", artifact.runtime), artifact.packed()
    inputs, outputs = artifact.signature()
    feed, call = artifact.feed(examples), call_of(artifact.task)
    not_run = artifact.cannot_run()
    answers = artifact.answer(feed) if not_run is None else _answers_of(source, feed, outputs)
    facts = artifact.facts or Facts(artifact.parameters(), NARROW_TOLERANCE, artifact.macs())
    return Described(
        call=call,
        task_name=None if artifact.task.name == TASKS[call] else artifact.task.name,
        shows=artifact.task.shows,
        model=next(name for name, path in files.items() if path == artifact.main),
        files=files,
        inputs=inputs,
        outputs=outputs,
        runtime=Runtime(name=artifact.runtime, version=runtime.version()),
        golden=Golden(feed, answers),
        tolerance=facts.tolerance,
        parameters=facts.parameters,
        macs=facts.macs,
        requirements=(*runtime.requirements(artifact.main), *(["tokenizers"] if call == GENERATE else [])),
        not_run=not_run,
    )


def _answers_of(source: Model | None, feed: Arrays, outputs: Sequence[TensorSpec]) -> Arrays:
    """What the graph answers that a file was made from, by the file's names: both have them in one order."""
    from squeeze.models.onnx_model import as_graph  # onnx_ir takes a second to import

    assert source is not None, "a file that does not run here is packed with what it was made from"
    answers = as_graph(source).answer(list(feed.values()))
    return {spec.name: answer for spec, answer in zip(outputs, answers, strict=True)}
