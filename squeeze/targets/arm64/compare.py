"""A package's model run twice by the same script: on this processor and on an emulated one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from squeeze.errors import VerifyError, first_line
from squeeze.targets.arm64.root import Arm64Root
from squeeze.targets.confined import Limits
from squeeze.targets.golden import Arrays, npz_bytes, read_npz
from squeeze.targets.last_line import last_line
from squeeze.targets.script import script
from squeeze.targets.verify import Package
from squeeze.work import temporary_folder

EMULATED = Limits(seconds=600.0, base_bytes=4 << 30)  # an emulator is some twenty times slower than the processor
INPUTS, OUTPUTS = "inputs.npz", "outputs.npz"


@dataclass(frozen=True)
class OnProcessor:
    """What a package answers on one processor.

    Args:
        golden_difference: From the golden output, as a share of its largest value.
        outputs: Of the examples, by name; None: there were none.
    """

    golden_difference: float
    outputs: Arrays | None


def on_processor(package: Package, inputs: Arrays | None, root: Arm64Root | None, limits: Limits) -> OnProcessor:
    """The golden input and some examples, by our script for this package, in a confined process.

    Args:
        inputs: Examples by the names of the model's inputs; None: the golden input only.
        root: None: on this machine's own processor.

    Raises:
        VerifyError: the model does not run there, or says something that cannot be read.
    """
    manifest = package.manifest
    with temporary_folder("processor") as folder:
        file = folder / "run.py"
        file.write_text(script(manifest.task, manifest.runtime.name, "numbers"))
        place = ["--folder", str(package.folder.resolve()), "--json"]

        def answer(arguments: Sequence[str]) -> dict[str, object]:
            words = [*arguments, *place]
            own = [sys.executable, "-I", str(file), *words]
            command = own if root is None else root.command(package.runtime(), file, words)
            return last_line(command, limits, package, [folder])

        difference = answer(["--golden"]).get("difference")
        if not isinstance(difference, (int, float)):
            raise VerifyError(f"{package.path}: its script says {difference!r:.40}, not how far golden outputs differ")
        if inputs is None:
            return OnProcessor(float(difference), None)
        (folder / INPUTS).write_bytes(npz_bytes(inputs))
        answer([str(folder / INPUTS), "--outputs", str(folder / OUTPUTS)])
        return OnProcessor(float(difference), _outputs(folder / OUTPUTS, package, len(next(iter(inputs.values())))))


def _outputs(file: Path, package: Package, examples: int) -> Arrays:
    """Read as data only: the process ran a stranger's model."""
    try:
        arrays = read_npz(file.read_bytes())
    except Exception as error:  # zipfile and numpy's header parser raise whatever hostile bytes lead them to
        raise VerifyError(f"{package.path}: no outputs that can be read ({first_line(error)})") from None
    for spec in package.manifest.outputs:
        if spec.name not in arrays or len(arrays[spec.name]) != examples:
            raise VerifyError(f"{package.path}: output {spec.name} is not there for each of {examples} examples")
    return arrays
