"""The README of a package: its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources

from squeeze.errors import printable
from squeeze.report import text
from squeeze.report.markdown import escaped
from squeeze.targets.manifest import Manifest


@dataclass(frozen=True)
class Score:
    """One line of the card's table, worded by whoever knows the ledger.

    Args:
        metric: ``"top-1"``.
        value: The package's own score, ``"80.4 %"``.
        original: The original model's, ``"80.7 %"``.
        delta: The difference with its 95 % interval, ``"-0.3 [-0.7, +0.1]"``.
        verdict: ``better``, ``worse``, ``not told apart (could be -0.72 to +0.04 points)`` and so on.
        data: What it was scored on, ``"4998 examples of test_jpg"``.
    """

    metric: str
    value: str
    original: str = ""
    delta: str = ""
    verdict: str = ""
    data: str = ""


def model_card(
    manifest: Manifest,
    size_bytes: int,
    scores: Sequence[Score],
    files: list[str],
    requirements: Sequence[str],
    apps: Sequence[str] = (),
) -> str:
    """The card as markdown; the same package gives the same card."""
    from jinja2 import Environment, StrictUndefined

    source = resources("squeeze.targets").joinpath("card.md.j2").read_text()
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable)
    environment.filters |= {"code": _code, "as_is": _AsIs}
    return environment.from_string(source).render(
        m=manifest,
        size=text.size(size_bytes),
        scores=scores,
        model_files=files,
        requirements=requirements,
        apps=apps,
        parameters=text.whole(manifest.parameters),
        macs=text.whole(manifest.macs),
    )


class _AsIs(str):
    """What stands in code, which markdown shows letter by letter."""


def _code(words: object) -> _AsIs:
    return _AsIs("`" + printable(str(words)).replace("`", "'").replace("|", "\\|") + "`")


def _printable(value: object) -> str:
    """Names of models, inputs and licences are anybody's: no line break, no HTML, no code of a terminal."""
    return value if isinstance(value, _AsIs) else escaped(printable(str(value)))
