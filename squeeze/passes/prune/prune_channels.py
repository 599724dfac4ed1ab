"""Structured pruning: channels leave together with everything that is coupled to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Gt, Lt
from pydantic import PositiveInt, field_validator, model_validator

from squeeze.errors import EffectError
from squeeze.formats.grid_kind import GridKind
from squeeze.models import structure
from squeeze.models.base import Model
from squeeze.models.options import Patterns, Unused
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Pass, Preview
from squeeze.passes.prune.materialize import materialized
from squeeze.passes.prune.pruning import Pruning
from squeeze.passes.prune.scores import Importance
from squeeze.passes.prune.selection import Selection, cuttable_layers

Share = Annotated[float, Gt(0), Lt(1)]


class PruneChannels(Pass[TorchModel, TorchModel]):
    """Take the least important channels out of convolutions and linear layers, and of all that is coupled to them.

    Coupling comes from Torch-Pruning's dependency graph (Fang et al., 2023, https://arxiv.org/abs/2301.12900).
    Zero-padded shortcuts become the 1 x 1 convolutions that they are, so residual streams can be cut through them.
    With ``widths: latency`` each cut goes where it loses the least importance per microsecond that ONNX Runtime
    needs on this host (Shen et al., 2021, https://arxiv.org/abs/2110.10811).
    """

    name: ClassVar[str] = "prune_channels"
    refuses: ClassVar[frozenset[str]] = frozenset({"quantized"})
    promises: ClassVar[frozenset[str]] = frozenset({"fewer_parameters", "fewer_bytes"})

    ratio: Share | None = None
    """Share of the channels to remove; either this or macs."""
    macs: str | None = None
    """As in "50 %": share of the multiply-accumulates to keep; either this or ratio."""
    importance: Importance = "l2"
    """How channels are ranked: norm of their weights, first-order loss (taylor), batch-norm scale, or at random."""
    scope: Literal["global", "layer"] = "global"
    """global: channels of all layers compete; layer: the same ratio everywhere."""
    widths: Literal["importance", "latency"] = "importance"
    """latency: cut where ONNX Runtime gains most time on this host per importance lost."""
    drop_branches: bool = False
    """Residual branches may be removed whole: the largest gain in latency."""
    align: PositiveInt = 8
    """Widths are rounded to multiples of this: kernels work in blocks of channels, and 7 cost as much as 8."""
    steps: PositiveInt = 1
    """Rounds of pruning; importance is measured again after each."""
    include: Patterns = ("*",)
    """Layers to cut, by name."""
    exclude: Patterns = ()
    """Layers whose width stays."""
    samples: PositiveInt = 1024
    """Training examples that the taylor importance looks at."""
    latency_table: str | None = None
    """A package's measurements.json or a report.json: the times of that run, for the same widths here."""

    @field_validator("macs")
    @classmethod
    def _is_a_share(cls, value: str | None) -> str | None:
        if value is not None:
            share(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.ratio is None) == (self.macs is None):
            raise ValueError(
                'name one of ratio and macs: ratio: 0.5 takes half the channels, macs: "50 %" half the work'
            )
        if self.scope == "layer" and (self.drop_branches or self.widths == "latency"):
            chooser = "drop_branches" if self.drop_branches else "widths: latency"
            raise ValueError(f"{chooser} chooses over all layers; scope: global would do")
        return self

    def needed(self) -> frozenset[str]:
        """Only taylor looks at data."""
        return frozenset({"train"}) if self.importance == "taylor" else frozenset()

    def reads(self) -> tuple[str, ...]:
        return (self.latency_table,) if self.latency_table else ()

    def faults(self, model: TorchModel) -> Iterator[str]:
        wrong = [f"{self.name}: {line}" for line in self.selection.faults(cuttable_layers(model))]
        yield from wrong
        if not wrong:
            yield from self._fault_of_the_goal(model)

    def unused(self, model: Model, grid: Mapping[str, GridKind] | None) -> Iterator[Unused]:
        if self.importance != "taylor":
            yield Unused("samples", f"goes with importance: taylor; importance {self.importance} looks at no data")
        if self.widths != "latency":
            yield Unused("latency_table", f"goes with widths: latency; widths is {self.widths}")

    def preview(self, model: TorchModel, before: Preview) -> Preview:
        """Prune a copy with weights that mean nothing; exact where widths do not depend on weights."""
        copy = materialized(model)
        facts = self._rehearse(copy)
        structure.apply(model.module, structure.difference(model.module, copy.module))
        model.module.to("meta").eval()
        exact = before.exact and self.scope == "layer"
        return Preview(tuple(facts["widths"]), copy.parameters(), copy.nbytes(), copy.macs(), exact)

    def run(self, model: TorchModel, context: Context) -> TorchModel:
        model.require_floats("pruning")
        context.facts.update(Pruning(self, model, context).run())
        return model

    def _fault_of_the_goal(self, model: TorchModel) -> Iterator[str]:
        """Whether the goal can be reached does not depend on weights, so it is known before they are read."""
        try:
            self._rehearse(materialized(model))
        except EffectError as error:
            yield str(error)

    def _rehearse(self, model: TorchModel) -> dict[str, Any]:
        """Prune without data and without a stopwatch."""
        unmeasured = self.model_copy(update={"importance": "l2", "widths": "importance", "latency_table": None})
        return Pruning(unmeasured, model, Context()).run()

    @property
    def selection(self) -> Selection:
        return Selection(self.include, self.exclude)

    @property
    def macs_share(self) -> float:
        """What may stay, 0 to 1."""
        assert self.macs is not None
        return share(self.macs)

    def goal_text(self) -> str:
        """The goal as the plan has it, for messages."""
        return f"ratio {self.ratio}" if self.ratio is not None else f'macs "{self.macs}"'


def share(text: str) -> float:
    """``"50 %"`` as 0.5; between 0 and 100."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if match is None or not 0 < float(match[1]) < 100:
        raise ValueError(f'"{text}" is no share of the MACs; "50 %" would be')
    return float(match[1]) / 100
