"""A file in two places: linked where the file system can, so that large weights are not copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_or_copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), target)  # a hub's cache holds links
    except OSError:
        shutil.copyfile(file, target)
