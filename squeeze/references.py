"""``package.module:name``: how a plan, an entry point or a registry names code, and how it is imported."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from squeeze.errors import ModelError, did_you_mean, first_line

_folders: dict[str, Path] = {}  # folder of each module imported from beside a plan, by top-level name


def resolve(reference: str, folder: str | None = None) -> Any:
    """Import ``package.module:name``, looking into ``folder`` too.

    Raises:
        ModelError: no such module or name, or importing it raised.
    """
    module_name, colon, attribute = reference.partition(":")
    if not (module_name and colon and attribute):
        raise ModelError(f"'{reference}' is not of the form 'package.module:name'")
    module = _imported(module_name, reference, folder)
    if not hasattr(module, attribute):
        raise ModelError(f"{reference}: '{module_name}' has no '{attribute}'{did_you_mean(attribute, vars(module))}")
    return getattr(module, attribute)


def _imported(name: str, reference: str, folder: str | None) -> ModuleType:
    beside = None if folder is None else Path(folder).resolve()
    if beside is not None:
        _forget_other(name, beside)
    with importable(folder):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ModelError(f"{reference}: cannot import '{name}' ({first_line(error)})") from error
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise ModelError(f"{reference}: importing '{name}' raised {raised_where(error, __file__)}") from error
    if beside is not None and Path(module.__file__ or "").resolve().is_relative_to(beside):
        _folders[name.partition(".")[0]] = beside
    return module


def _forget_other(name: str, folder: Path) -> None:
    """A module of the same name beside another plan is another module: one process may carry out both plans."""
    top = name.partition(".")[0]
    if _folders.get(top, folder) == folder:
        return
    if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
        for loaded in [known for known in sys.modules if known == top or known.startswith(f"{top}.")]:
            del sys.modules[loaded]
        importlib.invalidate_caches()


def raised_where(error: BaseException, caller: str) -> str:
    """``KeyError: 'x' (nets.py:6)``: what the user's own code raised, and where unless in ``caller``."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({Path(error.filename or '').name}:{error.lineno})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if last.filename == caller else f" ({Path(last.filename).name}:{last.lineno})"
    return f"{type(error).__name__}: {first_line(error)}{where}"


@contextmanager
def importable(folder: str | None) -> Iterator[None]:
    """Find modules in ``folder`` too, for as long as the ``with`` lasts."""
    if folder is None or folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
