"""Language models, run by whichever runtime their files are for: a golden prompt and what the model says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from squeeze.errors import ModelError, VerifyError
from squeeze.models.base import Batch
from squeeze.models.language.artifact import LanguageArtifact, LanguageFacts, runtime_class
from squeeze.targets.described import Described
from squeeze.targets.golden import Arrays, Golden
from squeeze.targets.manifest import Manifest, Runtime, TensorSpec

MODEL_FOLDER = "model"  # of the package: what the runtime is pointed at, or at the folder itself
UNKNOWN = LanguageFacts(None, 0.0)  # who only runs the files need not know what they were made from
PROMPT, PROMPT_LOG, NEXT_LOG = "input_ids", "prompt_log_probabilities", "next_log_probabilities"


def describe(artifact: LanguageArtifact, prompt: Batch) -> Described:
    """What a package says of a language model's files."""
    inputs = {PROMPT: prompt.inputs[PROMPT].numpy()[:1].astype(np.int64)}
    place = {path: f"{MODEL_FOLDER}/{path.relative_to(artifact.folder).as_posix()}" for path in artifact.files}
    return Described(
        task="generate",
        model=place[artifact.main],
        files={name: path for path, name in place.items()},
        inputs=[TensorSpec(name=PROMPT, shape=(1, "length"), dtype="int64")],
        outputs=[
            TensorSpec(name=PROMPT_LOG, shape=("length - 1",), dtype="float32"),
            TensorSpec(name=NEXT_LOG, shape=(artifact.vocabulary,), dtype="float32"),
        ],
        runtime=Runtime(name=artifact.runtime, version=artifact.version()),
        golden=Golden(inputs, _log_probabilities(artifact, inputs[PROMPT][0].tolist())),
        tolerance=artifact.facts.tolerance,
        parameters=artifact.facts.parameters,
        macs=artifact.facts.macs,
        requirements=artifact.requirements(),
    )


def load(folder: Path, manifest: Manifest, keeper: object) -> LanguageArtifact:
    """The model of an opened package, to be run by its own runtime."""
    facts = LanguageFacts(manifest.parameters, manifest.tolerance, manifest.macs or None)  # a 0 is an unknown of old
    return runtime_class(manifest.runtime.name)(folder / MODEL_FOLDER, facts, keeper)


def answer(folder: Path, runtime: str, golden: Golden, where: str) -> Arrays:
    """What the model of an opened package says of its golden prompt.

    Raises:
        VerifyError: the runtime refuses the model or the prompt.
    """
    prompt = golden.inputs.get(PROMPT)
    if prompt is None or prompt.ndim != 2 or prompt.shape[0] != 1 or prompt.shape[1] < 2 or prompt.dtype.kind != "i":
        raise VerifyError(f"{where}: the golden input holds no prompt; input_ids [1, length] would be one")
    try:
        model = runtime_class(runtime)(folder / MODEL_FOLDER, UNKNOWN)
        return _log_probabilities(model, prompt[0].tolist())
    except ModelError as error:
        raise VerifyError(str(error)) from error


def _log_probabilities(artifact: LanguageArtifact, prompt: list[int]) -> Arrays:
    """Of the prompt's tokens, and of every token that may follow; on one thread, so that they repeat."""
    artifact.require_installed(artifact.main.name)
    artifact.threads = 1
    prompt_log, following = artifact.log_probabilities(prompt)
    return {PROMPT_LOG: prompt_log, NEXT_LOG: following}
