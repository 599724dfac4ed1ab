"""A packed model's outputs for its golden input, in its runtime.

What answers in one call needs its runtime and numpy only, so that the child of a stranger's package starts fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze import registry
from squeeze.errors import ModelError, VerifyError, first_line
from squeeze.runtimes.base import GENERATE, Call
from squeeze.targets.child import ARRAYS
from squeeze.targets.golden import Arrays, Golden, npz_bytes, read_npz


def golden_answer(scratch: Path, folder: str, call: Call, model: str, runtime: str, where: str) -> dict[str, Any]:
    """In a child: the outputs for the golden input, written to ``scratch`` as ``arrays.npz``."""
    from squeeze.targets.manifest import GOLDEN

    golden = Golden.from_npz((Path(folder) / GOLDEN).read_bytes(), f"{where}: {GOLDEN}")
    (scratch / ARRAYS).write_bytes(npz_bytes(outputs(Path(folder) / model, call, runtime, golden, where)))
    return {}


def inner_values(
    scratch: Path, folder: str, model: str, runtime: str, fed: str, names: list[str], where: str
) -> dict[str, Any]:
    """In a child: values by name that the model computes on the way, for the arrays in ``fed``, as ``arrays.npz``."""
    feed = read_npz(Path(fed).read_bytes())
    values = registry.load("runtimes", runtime).values(Path(folder) / model, feed, names, where)
    (scratch / ARRAYS).write_bytes(npz_bytes(values))
    return {}


def outputs(file: Path, call: Call, runtime: str, golden: Golden, where: str) -> Arrays:
    """What the model of an opened package makes of the golden input, on one thread.

    Where the runtime does not run on this system, it is what the file says to compute by its format's documentation.

    Raises:
        VerifyError: the runtime refuses the model or its input.
    """
    try:
        if call == GENERATE:
            return _log_probabilities(file, runtime, golden, where)
        runtime_class = registry.load("runtimes", runtime)
        opened = runtime_class.open(file, 1, where)
    except ModelError as error:
        raise VerifyError(str(error)) from error
    try:
        run = opened.run if runtime_class.cannot_run() is None else opened.documented
        return dict(zip((spec.name for spec in opened.outputs), run(dict(golden.inputs)), strict=True))
    except ModelError as error:
        reason = first_line(error)[:200]
        raise VerifyError(f"{where}: {file.name} does not take the golden input ({reason})") from error


def _log_probabilities(file: Path, runtime: str, golden: Golden, where: str) -> Arrays:
    from squeeze.models.facts import Facts
    from squeeze.models.language.artifact import PROMPT

    prompt = golden.inputs.get(PROMPT)
    if prompt is None or prompt.ndim != 2 or prompt.shape[0] != 1 or prompt.shape[1] < 2 or prompt.dtype.kind != "i":
        raise VerifyError(f"{where}: the golden input holds no prompt; input_ids [1, length] would be one")
    unknown = Facts(None, 0.0)  # running the files needs no facts of the source model
    answer: Arrays = registry.load("runtimes", runtime).decoder(file.parent, unknown).answer(golden.inputs)
    return answer
