"""A .gguf file as a Hugging Face folder: config and tokenizer from its metadata, blocks where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from squeeze.models.language.from_gguf.convert import convert
from squeeze.work import work_folder

_FOLDERS: dict[tuple[str, int, int, str | None, bool], Path] = {}


def folder_of(file: Path, dtype: str | None = None, outline: bool = False) -> Path:
    """The file as a folder of this process; made once for as long as the file stays the same.

    Args:
        dtype, outline: As in :func:`convert`.
    """
    status = file.stat() if file.is_file() else None
    key = (str(file.resolve()), status.st_size if status else 0, status.st_mtime_ns if status else 0, dtype, outline)
    if key not in _FOLDERS or not _FOLDERS[key].is_dir():
        folder = work_folder("gguf")
        try:
            convert(file, folder, dtype, outline)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _FOLDERS[key] = folder
    return _FOLDERS[key]
