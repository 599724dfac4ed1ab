"""A MIL program as a ``.mlpackage`` folder: the same program gives the same bytes.

coremltools' own way to a package gives random identifiers to what lies in it; ours follow from the names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from squeeze.formats.mlpackage import MANIFEST, MODEL, PACKAGE, WEIGHTS
from squeeze.work import temporary_folder

AUTHOR = "com.apple.CoreML"
SPECIFICATION = {"iOS17": 8, "iOS18": 9}  # the number of the format, by the first system that reads it


def write_mlpackage(program: Any, target: str, folder: Path) -> Path:
    """Write a program of coremltools' builder; gives the model's file.

    Args:
        target: The first system that must take it, such as ``iOS17``.
        folder: Where ``model.mlpackage`` appears, whole.
    """
    from coremltools.converters.mil.backend.mil.load import load

    with temporary_folder("coreml") as work:
        package, blobs = work / PACKAGE, work / "weights"
        blobs.mkdir()
        model = load(program, str(blobs), specification_version=SPECIFICATION[target])
        file, weights = package / MODEL, package / WEIGHTS
        weights.parent.mkdir(parents=True)
        file.write_bytes(model.SerializeToString(deterministic=True))
        if (blobs / weights.name).is_file():  # a program of few numbers has none
            shutil.move(blobs / weights.name, weights)
        (package / MANIFEST).write_text(json.dumps(_manifest(), indent=4, sort_keys=True) + "\n")
        shutil.move(package, folder / PACKAGE)
    return folder / PACKAGE / MODEL


def _manifest() -> dict[str, Any]:
    """Which of the files is the model, in Apple's words."""
    root = _identifier("model.mlmodel")
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            root: _item("model.mlmodel", "CoreML Model Specification"),
            _identifier("weights"): _item("weights", "CoreML Model Weights"),
        },
        "rootModelIdentifier": root,
    }


def _item(name: str, description: str) -> dict[str, str]:
    return {"author": AUTHOR, "description": description, "name": name, "path": f"{AUTHOR}/{name}"}


def _identifier(name: str) -> str:
    return str(uuid5(NAMESPACE_DNS, f"{name}.{AUTHOR}")).upper()
