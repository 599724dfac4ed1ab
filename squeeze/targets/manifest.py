"""What a package says about itself: ``manifest.json``, its schema and the package's digest.

The digest is the sha256 of the manifest without the digest itself. The manifest lists name, sha256 and size of every
other file, so the digest covers the whole package; only ``measurements.json``, which one host's clock wrote, stays out.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, NonNegativeInt

from squeeze.formats.tensor_spec import Record, TensorSpec
from squeeze.runtimes.base import PREDICT, Call

MANIFEST = "manifest.json"
MEASUREMENTS = "measurements.json"
GOLDEN = "golden.npz"
PLAN = "plan.yaml"
LEDGER = "ledger.json"
RUN = "run.py"
README = "README.md"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileSum(Record):
    """One file of the package."""

    sha256: Sha256
    size: NonNegativeInt


class Runtime(Record):
    """What the package was verified in when it was made, unless the manifest says that it was not run."""

    name: str = "onnxruntime"
    version: str


class Manifest(Record):
    """Everything that a reader must know to check and to run a package.

    Args:
        task: ``predict`` answers a batch in one call, ``generate`` continues a text.
        task_name: What the model does, as registered; absent for classifiers and language models.
        model: The file that the runtime loads.
        tolerance: Largest golden difference allowed, as a share of the largest golden output.
        preprocessing: How raw pixels become the model's input, as ``Dataset.preprocessing()`` says it.
        parameters, macs: As counted on the graph that the model file was built from; None: not known.
        not_run: Why the model file gave no answers when the package was made: then the golden output is what the graph
            answers that it was made from. Absent where it was run.
    """

    schema_version: Literal[1] = 1
    name: str
    target: str
    task: Call = PREDICT
    task_name: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$", exclude_if=lambda name: name is None)
    runtime: Runtime
    model: str
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    tolerance: Annotated[float, Field(ge=0, le=0.1)]
    preprocessing: dict[str, JsonValue]
    labels: tuple[str, ...] | None
    parameters: NonNegativeInt | None
    macs: NonNegativeInt | None
    not_run: str | None = Field(default=None, exclude_if=lambda reason: reason is None)
    provenance: dict[str, JsonValue]
    files: dict[str, FileSum]
    digest: Sha256 | Literal[""] = ""

    def computed_digest(self) -> str:
        """What ``digest`` must be: the same for the same content, whatever zip tool packed it."""
        content = self.model_dump(mode="json", exclude={"digest"})
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def sealed(self) -> Manifest:
        """This manifest with its digest filled in."""
        return self.model_copy(update={"digest": self.computed_digest()})


def canonical_json(value: Any) -> bytes:
    """One spelling for one value: sorted keys, no free space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def readable_json(value: Any) -> bytes:
    """The same for people: sorted and indented, ends with a newline."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
