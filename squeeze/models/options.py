"""Options of a pass, a target or a metric, and which of them do nothing for the model that they are given for.

Whether a model can be given at all is a question of forms, which is not asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict

from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import Model

BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
"""Names, or patterns of names; a single one may stand without a list."""


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Unused(NamedTuple):
    """An option that nothing reads.

    Args:
        reason: What it is for; ends a sentence that begins with its name.
    """

    option: str
    reason: str


class Options(BaseModel):
    """A frozen, closed set of options. One that is set and not read is a fault of the plan, never silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __class_getitem__(cls, forms: Any) -> Any:
        """The class that brackets make has no source, and is not searched for what stands below its options.

        To find that out pydantic (before Python 3.13) looks through all imported modules once for each caller: 0.1 s.
        """
        config = cls.model_config
        cls.model_config = config | ConfigDict(use_attribute_docstrings=False)
        try:
            made = super().__class_getitem__(forms)
        finally:
            cls.model_config = config
        if isinstance(made, type):
            made.model_config = config
        return made

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        """Options that are not read for this model, set or not.

        Args:
            model: Without weights (meta tensors), in the form that the plan starts with.
            grid: What kind of grid each quantized weight lies on by then, by name; None: not known.
        """
        return iter(())

    def set_in_vain(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        """Those of the unused options that the user has set."""
        return (unused for unused in self.unused(model, grid) if unused.option in self.model_fields_set)
