"""What a classifier's script shows: the likeliest classes."""

from __future__ import annotations

import argparse
from typing import Any

from squeeze.targets.scripts.shared import Json


class Classes:
    """The top classes of each example."""

    @staticmethod
    def answer(outputs: Any, options: argparse.Namespace, manifest: Json) -> list[Any]:
        """The classes with the largest logits ``[n, classes]``, with their softmax."""
        import numpy as np

        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        labels = manifest["labels"] or []
        return [
            [
                {"class": int(i), "label": labels[i] if i < len(labels) else str(i), "probability": float(row[i])}
                for i in np.argsort(-logits, kind="stable")[: options.top]
            ]
            for logits, row in zip(outputs, shares, strict=True)
        ]

    @staticmethod
    def lines(example: Any) -> list[str]:
        """One example's answer as a person reads it."""
        return [f"{100 * entry['probability']:6.2f} %  {entry['label']}" for entry in example]
