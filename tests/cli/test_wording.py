"""Types of options as ``squeeze passes NAME`` and its like show them: no trace of Python."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, PositiveInt

from squeeze import registry
from squeeze.cli.wording import default_in_words, type_in_words

KINDS: tuple[registry.Kind, ...] = ("passes", "targets", "metrics", "data")


class Options(BaseModel):
    share: Annotated[float, Gt(0), Lt(1)] | None = None
    parts: tuple[Literal["heads", "channels"], ...] = ("heads",)
    count: PositiveInt
    least: Annotated[int, Ge(0)] = 0
    names: dict[str, str] = {}
    all: bool = True


@pytest.mark.parametrize(
    ("option", "words", "default"),
    [
        ("share", "number, above 0 and below 1, or null", "= null"),
        ("parts", "list of heads | channels", '= ["heads"]'),
        ("count", "integer, above 0", "required"),
        ("least", "integer, from 0", "= 0"),
        ("names", "{text: text}", "= {}"),
        ("all", "true or false", "= true"),
    ],
)
def test_an_option_is_shown_as_a_plan_would_write_it(option: str, words: str, default: str) -> None:
    field = Options.model_fields[option]
    assert (type_in_words(field), default_in_words(field)) == (words, default)


@pytest.mark.parametrize("kind", KINDS)
def test_no_option_of_ours_is_shown_in_python_s_words(kind: registry.Kind) -> None:
    for name in registry.BUILTIN[kind]:
        for option, field in registry.load(kind, name).model_fields.items():
            words = f"{type_in_words(field)} {default_in_words(field)}"
            assert not re.search(r"[\[<]class|function|Optional|Union|Annotated|None|typing|object at", words), option
