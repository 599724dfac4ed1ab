"""A matplotlib figure as part of a page: SVG text in the page's own colours and font, the same bytes every time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand-ins that no other drawing uses, each replaced by a variable of the page's style sheet.
INK, SOFT, FAINT, BETTER, WORSE, NEUTRAL = "#0a0a0a", "#010101", "#020202", "#030303", "#040404", "#050505"
LINES = ("#060606", "#070707", "#080808", "#090909")
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    FAINT: "--line",
    BETTER: "--better",
    WORSE: "--worse",
    NEUTRAL: "--neutral",
} | {color: f"--series-{number}" for number, color in enumerate(LINES, 1)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "svg.hashsalt": "squeeze",
    "text.parse_math": False,  # a layer or target may be called "$x"
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "grid.color": FAINT,
    "xtick.bottom": False,
    "ytick.left": False,
}


class Drawing:
    """A figure while it is drawn, its SVG once it is."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def drawing(width: float, height: float, prefix: str) -> Iterator[Drawing]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # independent of the user's matplotlibrc
        matplotlib.rcParams.update(STYLE)
        warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks: the browser draws the text
        picture = Drawing(Figure(figsize=(width, height), layout="constrained"))
        FigureCanvasSVG(picture.figure)
        yield picture
        buffer = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
        picture.svg = _page_svg(buffer.getvalue(), prefix)


def _page_svg(svg: str, prefix: str) -> str:
    """The ``<svg>`` element alone, in the page's colours and font, its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*" width="[^"]*"', r"\1\2", svg, count=1
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (?:bold |700 )?([\d.]+)px [^;\"]*", _font, svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg


def _font(match: re.Match[str]) -> str:
    weight = "; font-weight: 600" if match[0].startswith(("font: bold", "font: 700")) else ""
    return f"font-size: {match[1]}px{weight}"
