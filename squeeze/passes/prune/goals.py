"""What a plan may say of how much goes: a share of the parts, or what the whole model may keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Gt, Lt
from pydantic import BaseModel, ConfigDict, model_validator

from squeeze.algorithms.monotone import rising_curve
from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.measure.decode import BytesRead, Costs, DecodeTable, Sizes, measuring_bytes, token_cost
from squeeze.models import counts
from squeeze.models.base import Model
from squeeze.models.options import Unused
from squeeze.models.torch_stage import TorchStage
from squeeze.passes.base import Context
from squeeze.passes.prune.times import keep_times, known_times
from squeeze.surgery.goal import Count, Goal, Size, TimeShare
from squeeze.surgery.widths import Units, Widths

MEASURED = 6  # widths


FORESEEN = BytesRead()  # in place of times, while nothing is measured


def weight_bytes(model: TorchStage) -> int:
    """Of a model that may have no weights yet, as they are stored dense."""
    return counts.nbytes(model) if model.blocks else model.nbytes()


class SizeGoal(BaseModel):
    """One goal of several."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    goals: ClassVar[tuple[str, ...]] = ("ratio", "parameters", "size")
    example: ClassVar[str] = 'ratio: 0.25, parameters: "75 %" or size: "200 MB"'

    ratio: Annotated[float, Gt(0), Lt(1)] | None = None
    parameters: Count | None = None
    """Or what the whole model may keep, as in "75 %" of what it has, or "100M"."""
    size: Size | None = None
    """Or the bytes that its weights may keep before anything quantizes them, as in "75 %" or "200 MB"."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if sum(getattr(self, name) is not None for name in self.goals) != 1:
            every = f"{', '.join(self.goals[:-1])} and {self.goals[-1]}"
            raise ValueError(f"name one of {every}: {self.example}")
        return self

    @property
    def goal(self) -> Goal | None:
        """What the whole model may keep; None: the plan says it of its parts."""
        if self.parameters is not None:
            return Goal("parameters", self.parameters)
        return Goal("size", self.size) if self.size is not None else None

    def counted(self) -> counts.Counted:
        """How the goal counts a model, of one that counts parameters or bytes."""
        return counts.parameters if self.parameters is not None else counts.nbytes


class DecodeGoal(SizeGoal):
    """Time for one token may be the goal too."""

    goals: ClassVar[tuple[str, ...]] = (*SizeGoal.goals, "decode")
    example: ClassVar[str] = 'ratio: 0.25, parameters: "75 %", size: "200 MB" or decode: "70 %"'

    decode: TimeShare | None = None
    """Or the share of the time for one token that may stay, as in "70 %". Measured in ONNX Runtime on this host: blocks
    in 4 bits, the head in 8, 256 tokens before, one thread."""
    latency_table: str | None = None
    """Of decode: a package's measurements.json or a report.json: the times of that run, for the same choice here."""

    @property
    def goal(self) -> Goal | None:
        return Goal("decode", self.decode) if self.decode is not None else super().goal

    def reads(self) -> tuple[str, ...]:
        return (self.latency_table,) if self.latency_table else ()

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.decode is None:
            yield Unused("latency_table", "goes with decode, which is not named")

    def require_tokens(self, model: TorchStage) -> None:
        """Raise ``ModelError`` for a goal of time of what writes no tokens."""
        if self.decode is not None and not model.blocks:
            raise ModelError(f"decode: {self.decode} is of language models; parameters or size would do here")

    def measuring_bytes(self, model: Sizes) -> int:
        """Memory beside the process's own that measuring takes."""
        return 0 if self.decode is None else measuring_bytes(model)

    @contextmanager
    def times(self, context: Context) -> Iterator[DecodeTable]:
        """Seconds for one token, measured when asked for; those that are given or that a killed run measured are known.

        What was measured is kept in the end.
        """
        table = DecodeTable(known_times(self.latency_table, context))
        yield table
        keep_times(table.seconds, context)


class TokenCosts:
    """Of a token, by the units that stay: measured at a few widths, and rising in between, whatever a busy host says.

    Args:
        align: The fewest intermediate channels.
    """

    def __init__(self, widths: Widths[Any], costs: Costs, align: int) -> None:
        self.widths, self.costs = widths, costs
        most = widths.units.get("intermediate", 0)
        inner = {round(place / align) * align for place in np.linspace(align, most, MEASURED)[:-1]}
        self.places = sorted({place for place in inner if place < most} | {most})
        self.curves: dict[int | None, Callable[[float], float]] = {}

    def __call__(self, units: Units) -> float:
        heads = units.get("heads")
        if "intermediate" not in self.widths.units:
            return token_cost(self.widths.built(units), self.costs)
        if heads not in self.curves:
            every: list[Units] = [{**units, "intermediate": place} for place in self.places]
            measured = [token_cost(self.widths.built(one), self.costs) for one in every]
            self.curves[heads] = rising_curve(self.places, measured)
        return self.curves[heads](units["intermediate"])
