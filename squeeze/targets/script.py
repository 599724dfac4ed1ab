"""The ``run.py`` of a package, put together from plain modules in ``scripts/`` and the classes of its runtime.

The modules know how a script is called and what it shows, the classes how their runtime runs a file. What comes out is
one file without Squeeze that reads from top to bottom.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from importlib.resources import files as resources
from typing import Any

from squeeze import registry
from squeeze.errors import UsageError
from squeeze.runtimes.base import GENERATE, Call

ANSWER_CLASSES = {"classes": "Classes", "numbers": "Numbers"}  # the class in the module of that name


def script(call: Call, runtime: str, shows: str) -> str:
    """The whole script.

    Args:
        runtime: Registered name.
        shows: What is made of the outputs of one call: ``classes`` or ``numbers``.

    Raises:
        UsageError: the runtime brings nothing to run such files with.
    """
    classes: tuple[type[Any], ...] = registry.load("runtimes", runtime).script.get(call, ())
    if not classes:
        raise UsageError(f"runtime '{runtime}': its script has no classes that {call}; Runtime.script would name them")
    names = ["shared", "tokens", "text"] if call == GENERATE else ["shared", shows, "pictures", "sentences", "rows"]
    sources = [resources("squeeze.targets.scripts").joinpath(f"{name}.py").read_text() for name in names]
    arguments = classes[-1].__name__ if call == GENERATE else f"{classes[-1].__name__}, {ANSWER_CLASSES[shows]}"
    first, *rest = [_body(source) for source in sources]
    parts = [first, *(textwrap.dedent(inspect.getsource(one)).rstrip() for one in classes), *rest]
    code = "\n\n\n".join([*parts, f'if __name__ == "__main__":\n    sys.exit(main({arguments}))'])
    modules = [inspect.getsource(sys.modules[one.__module__]) for one in classes]
    doc = ast.get_docstring(ast.parse(sources[-1]), clean=False)
    imports = "\n".join(_imports([*sources, *modules], code))
    return f'"""{doc}"""\n\nfrom __future__ import annotations\n\n{imports}\n\n{code}\n'


def _body(source: str) -> str:
    """A module without its docstring and its imports, which stand at its top."""
    last = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)][-1]
    return "\n".join(source.splitlines()[last.end_lineno :]).strip()


def _imports(sources: list[str], code: str) -> Iterator[str]:
    """The lines that import from the standard library what the code names."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    whole: set[str] = set()
    parts: dict[str, set[str]] = {}
    for node in (node for source in sources for node in ast.parse(source).body):
        if isinstance(node, ast.Import):
            whole |= {name.name for name in node.names} & used & sys.stdlib_module_names
        if isinstance(node, ast.ImportFrom) and (module := str(node.module)).split(".")[0] in sys.stdlib_module_names:
            parts.setdefault(module, set()).update({name.name for name in node.names} & used)
    yield from (f"import {name}" for name in sorted(whole))
    yield from (f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(parts.items()) if names)
