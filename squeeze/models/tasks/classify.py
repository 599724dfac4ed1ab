"""Name the class of an example: a picture, a sentence, an array."""

from __future__ import annotations

from squeeze.models.tasks.cross_entropy import CrossEntropyTask
from squeeze.models.tasks.rows import RowsTask


class Classify(RowsTask, CrossEntropyTask):
    """One logit per class, ``[n, classes]``; the largest is the answer."""

    name = "classify"
    models = "classifiers"
    metrics = ("top1", "loss", "kl", "flips", "size_bytes", "parameters", "macs", "latency")
    shows = "classes"
    temperature = 4.0

    def label_fault(self, highest: int, width: int) -> str | None:
        if highest < width:
            return None
        return f"label {highest} is outside the model's {width} classes, 0 to {width - 1}"
