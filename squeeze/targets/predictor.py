"""Models that answer a batch in one call (images, encoders), run by ONNX Runtime."""

from __future__ import annotations

from typing import Any

from squeeze.models.artifact import Artifact, Facts
from squeeze.models.base import Batch
from squeeze.models.ort_session import dtype, feed, fixed_batch, parts
from squeeze.targets.answers import predict
from squeeze.targets.described import Described
from squeeze.targets.golden import Golden
from squeeze.targets.manifest import Runtime, TensorSpec

NARROW_TOLERANCE = 5e-2  # a rounding that falls the other way moves a quantized output by whole steps


def describe(artifact: Artifact, examples: Batch) -> Described:
    """What a package says of an ``.onnx`` or ``.ort`` file."""
    root = artifact.file.parent
    session = artifact.session(1)
    facts = artifact.facts or Facts(artifact.parameters(), artifact.macs(), NARROW_TOLERANCE)
    return Described(
        task="predict",
        model=artifact.file.name,
        files={path.relative_to(root).as_posix(): path for path in (*artifact.files, *artifact.beside)},
        inputs=[_spec(value) for value in session.get_inputs()],
        outputs=[_spec(value) for value in session.get_outputs()],
        runtime=Runtime(version=runtime_version()),
        golden=_golden(artifact, examples),
        tolerance=facts.tolerance,
        parameters=facts.parameters,
        macs=facts.macs,
        requirements=("onnxruntime", "numpy"),
    )


def runtime_version() -> str:
    """Of the ONNX Runtime that is installed here."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _golden(artifact: Artifact, batch: Batch) -> Golden:
    inputs = feed(artifact.inputs, batch, str(artifact.file))
    if size := fixed_batch(artifact.session(1)):
        inputs = next(parts(inputs, len(batch), size))
    return Golden(inputs, predict(artifact.file, Golden(inputs, {}), artifact.file.name))


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, (int, str)) else f"d{place}" for place, size in enumerate(value.shape))
    return TensorSpec(name=value.name, shape=shape, dtype=dtype(value))
