"""Which layers a pass works on: ``include`` and ``exclude`` patterns over layer names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from squeeze.errors import did_you_mean
from squeeze.models.options import matches


def select(names: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Names that match a pattern of ``include`` and none of ``exclude``, in their order."""
    return [name for name in names if matches(name, include) and not matches(name, exclude)]


def selection_faults(names: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> Iterator[str]:
    """A line for each pattern that matches nothing, and one where nothing is left to do."""
    unmatched = False
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                unmatched = True
                yield f'{option} "{pattern}" matches no layer{did_you_mean(pattern.replace("*", ""), names)}'
    if not unmatched and not select(names, include, exclude):
        yield "include and exclude together leave no layer; a layer that exclude does not match would do"
