"""What a model does: it names a class, embeds, or continues a text."""

from __future__ import annotations

from typing import Literal

Task = Literal["classify", "embed", "generate"]

WORDS: dict[Task, str] = {"classify": "classifiers", "embed": "encoders", "generate": "language models"}
