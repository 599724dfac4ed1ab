"""What a packed model makes of its golden input, in its runtime.

A classifier's or an encoder's needs ONNX Runtime and numpy only, so that the child of a stranger's package starts fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze.errors import ModelError, VerifyError
from squeeze.models.ort_session import open_session
from squeeze.targets.golden import Arrays, Golden, npz_bytes


def golden_answer(scratch: Path, folder: str, task: str, model: str, runtime: str, where: str) -> dict[str, Any]:
    """In a child: the outputs for the golden input, written to ``scratch`` as ``arrays.npz``."""
    from squeeze.targets.child import ARRAYS
    from squeeze.targets.manifest import GOLDEN

    golden = Golden.from_npz((Path(folder) / GOLDEN).read_bytes(), f"{where}: {GOLDEN}")
    found = outputs(Path(folder), task, model, runtime, golden, where)
    (scratch / ARRAYS).write_bytes(npz_bytes(found))
    return {}


def outputs(folder: Path, task: str, model: str, runtime: str, golden: Golden, where: str) -> Arrays:
    """What the model of an opened package makes of the golden input."""
    if task == "generate":
        from squeeze.targets import generator

        return generator.answer(folder, runtime, golden, where)
    return predict(folder / model, golden, where)


def predict(model: Path, golden: Golden, where: str) -> Arrays:
    """All outputs for the golden input, on one thread, so that the same host gives the same bits.

    Raises:
        VerifyError: the runtime refuses the model or its input.
    """
    try:
        session = open_session(model, 1, where)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(golden.inputs)), strict=True))
    except ModelError as error:
        raise VerifyError(str(error)) from error
    except Exception as error:  # ONNX Runtime's own exception classes share no base
        reason = " ".join(str(error).split())[:200]
        raise VerifyError(f"{where}: {model.name} does not take the golden input ({reason})") from error
