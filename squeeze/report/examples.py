"""``examples.npz`` beside a report: every score of every row, example by example, so that two runs can be paired.

Arrays: ``0/top1`` is ``[examples]`` of row 0; ``units/top1`` numbers the independent unit of each example, where not
each is one.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeeze.errors import SqueezeError, UsageError, first_line
from squeeze.formats.regular import require_regular
from squeeze.ledger import Ledger
from squeeze.work import owned_folder

FILE, UNITS = "examples.npz", "units"
KINDS = "bfiu"  # numpy kinds: bool, int, unsigned, float
LARGEST_BYTES = 2 * 10**9
Arrays = dict[str, NDArray[np.generic]]


def write_examples(ledger: Ledger, out: Path) -> None:
    """Write what the ledger's scores are the means of, whole or not at all."""
    arrays: Arrays = {}
    for number, row in enumerate(ledger.rows):
        for label, score in row.scores.items():
            if score.values is not None:
                arrays[f"{number}/{label}"] = score.values
            if score.unit_numbers is not None:
                arrays[f"{UNITS}/{label}"] = score.unit_numbers
    with owned_folder(out) as parts:
        with zipfile.ZipFile(parts / FILE, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
        (parts / FILE).replace(out / FILE)


def read_examples(out: Path) -> Arrays:
    """What :func:`write_examples` left beside a report.

    Raises:
        UsageError: there is none.
        SqueezeError: it is damaged, or holds other things than numbers.
    """
    path = out / FILE
    if not path.exists():
        raise UsageError(f"{out}: no {FILE} there; squeeze run again writes one, from what the store holds")
    require_regular(path, UsageError)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_BYTES:
                raise SqueezeError(f"{path}: more than {LARGEST_BYTES:,} bytes; run the plan again to write it anew")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise SqueezeError(
            f"{path}: not whole ({first_line(error, 100)}); run the plan again to write it anew"
        ) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in KINDS:
            shape = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "no array"
            raise SqueezeError(f"{path}: {name:.100} is {shape}; one number per example would do")
    return arrays
