"""A pass: one step of a plan. It is its options; ``run`` does it; the class says what it must change.

What a pass may use while it runs comes with :class:`Context`. Whether it kept its promises is checked
by the run, not here.
"""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import model_validator

from squeeze.errors import DataError, ModelError, SqueezeError
from squeeze.formats.grid_kind import GridKind
from squeeze.models.base import ADAPTER, Model, forms_of
from squeeze.models.options import Options
from squeeze.passes.effort import Amount, Work
from squeeze.progress import Progress
from squeeze.work import work_folder

if TYPE_CHECKING:
    from torch import Tensor

    from squeeze.data.base import Dataset
    from squeeze.models.spec import ModelSpec
    from squeeze.store import Journal, Store
    from squeeze.training.peers import Leader, Peers

In = TypeVar("In", bound=Model)
Out = TypeVar("Out", bound=Model)
OTHER_TOKENS = "with other tokens"  # a mark: what is counted per token is no longer the original's
Holds = Callable[[GridKind], str | None]  # why what comes behind a pass cannot hold such a grid; None: it can


@dataclass
class Context:
    """What a run lends a pass.

    Args:
        seed: Where all of the pass's randomness comes from.
        threads: Processor threads that the pass and the stopwatch may use.
        calibration_data, train_data: Set when the plan names them; read them as ``calibration`` / ``train``.
        original: Reads the original model afresh: one in memory would have been changed by the passes before.
        journal: Finished pieces of this pass, for resume.
        progress: Where to show how far along the pass is.
        root: Folder that relative paths in options start from.
        memory_bytes: Peak that the plan allows; None: whatever there is.
        store: Where what several passes or runs share is kept; None: nowhere.
        original_key: The original's in it.
        helpers: Calls the other processes of a launcher to a training; told whether it asks the original. None: this
            one was started alone.
        peers: The processes of the training that is under way; None: this one alone.
        facts: What the pass wants the report to say (coverage, widths, losses); JSON values only, no timings.
        measured: Timings of this host that the pass took; kept out of everything whose bytes must not vary.
    """

    seed: int = 0
    threads: int = 1
    calibration_data: Dataset | None = None
    train_data: Dataset | None = None
    original: Callable[[], Model] | None = None
    journal: Journal | None = None
    progress: Progress = field(default_factory=Progress)
    root: Path = field(default_factory=Path.cwd)
    memory_bytes: int | None = None
    store: Store | None = None
    original_key: str = ""
    helpers: Callable[[bool], AbstractContextManager[Leader]] | None = None
    peers: Peers | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def work_folder(self) -> Path:
        """A new empty folder for work in progress, owned by the run and gone with it."""
        return work_folder("pass")

    def model_folder(self) -> Path:
        """The folder of a model that is written piece by piece: a killed run finds the finished ones there again."""
        return (self.journal.folder if self.journal else self.work_folder()) / "model"

    def spill(self, size_bytes: int) -> Path | None:
        """A file for activations of that size, where a quarter of the plan's memory would not hold them."""
        if self.memory_bytes is None or size_bytes <= self.memory_bytes / 4:
            return None
        return self.disk_folder() / "activations"

    def disk_folder(self) -> Path:
        """A folder for what memory would not hold: in the store, where there is one."""
        folder = self.journal.folder if self.journal else self.work_folder()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self, piece: str) -> dict[str, Tensor] | None:
        """What an earlier try has kept of a piece of this pass; None: it has not come so far."""
        return self.journal.get(piece) if self.journal is not None else None

    def keep(self, piece: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished piece, so that a killed run goes on behind it."""
        if self.journal is not None:
            self.journal.put(piece, tensors)

    @property
    def calibration(self) -> Dataset:
        """The plan's ``data.calibrate``."""
        if self.calibration_data is None:
            raise DataError("this pass needs data.calibrate, which the plan does not name")
        return self.calibration_data

    @property
    def train(self) -> Dataset:
        """The plan's ``data.train``."""
        if self.train_data is None:
            raise DataError("this pass needs data.train, which the plan does not name")
        return self.train_data

    def load_original(self) -> Model:
        """The original model, read afresh: a teacher that no pass has touched."""
        if self.original is None:
            raise SqueezeError("this run lends no original model; a plan's run does")
        return self.original()

    def load_model(self, spec: ModelSpec) -> Model:
        """Another model, such as a teacher that an option names; same inputs as the original."""
        return spec.read(self.root, {"image": self.load_original().inputs[0].shape})


@dataclass(frozen=True)
class Preview:
    """What a pass expects to do, worked out without weights.

    Args:
        touched: Names of the layers that it will change.
        parameters, nbytes, macs: Of the model after the pass, as far as they can be known before; None: unknown.
        exact: False where the numbers depend on the weights.
        grid: What kind of grid each quantized weight will lie on by then, by name.
    """

    touched: tuple[str, ...]
    parameters: int | None
    nbytes: int
    macs: int | None
    exact: bool = True
    grid: Mapping[str, GridKind] = field(default_factory=dict)


class Pass(Options, ABC, Generic[In, Out]):
    """One step of a plan: a frozen set of options and what is done with them.

    ``class Prune(Pass[TorchModel, TorchModel])``: the brackets are the forms that go in and out, read by mypy
    and by ``plan.check`` alike. ``Pass[A | B, C | D]`` takes two forms: of an A it makes a C, of a B a D.
    ``Pass[TorchStage, TorchStage]`` takes a torch model wherever its weights lie, and leaves them there.
    """

    name: ClassVar[str]
    renamed: ClassVar[Mapping[str, str]] = {}  # old name of an option: its new one; accepted for one version
    ways: ClassVar[tuple[tuple[type[Model], type[Model]], ...]]  # from the brackets: form in, form out
    needs: ClassVar[frozenset[str]] = frozenset()
    leaves: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[frozenset[str]] = frozenset()
    promises: ClassVar[frozenset[str]] = frozenset()
    extra: ClassVar[str | None] = None
    trains: ClassVar[bool] = False  # whether it makes up for what passes before it took out of the weights
    links_tables: ClassVar[bool] = False  # whether tables of a decoder that it leaves alone stay in their files

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        for base in cls.__mro__:
            args = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
            args = args * 2 if len(args) == 1 else args  # the form of a base that gives what it takes
            inputs, outputs = (forms_of(arg) for arg in args) if len(args) == 2 else ((), ())
            outputs = outputs * len(inputs) if len(outputs) == 1 else outputs
            if inputs and len(inputs) == len(outputs):
                cls.ways = tuple(zip(inputs, outputs, strict=True))
                break

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for old, new in cls.renamed.items():
            if old in values:
                message = f"{cls.name}: option '{old}' is now '{new}'; the old name ends with the next version"
                warnings.warn(message, FutureWarning, stacklevel=3)
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    @classmethod
    def gives(cls, form: str) -> type[Model] | None:
        """What becomes of a model of that form; None where the pass does not take it."""
        return next((output for source, output in cls.ways if source.form == form), None)

    @abstractmethod
    def run(self, model: In, context: Context) -> Out:
        """Do it. May change ``model`` in place and return it; raises ``SqueezeError`` when it cannot."""

    def needed(self) -> frozenset[str]:
        """What this pass with these options needs of a plan: some of ``calibration``, ``train``, ``teacher``."""
        return type(self).needs

    def refused(self) -> frozenset[str]:
        """The marks of weights that this pass with these options does not take; none changes what has an adapter."""
        return type(self).refuses | {ADAPTER}

    def left(self) -> frozenset[str]:
        """The marks that this pass with these options leaves on the weights."""
        return type(self).leaves

    def memory_bytes(self, model: In, tokens: int, limit: int | None, nbytes: int | None = None) -> int | None:
        """The peak that the pass will take on ``model`` (meta tensors), by its shapes; None: not known.

        Args:
            tokens: Calibration tokens, as far as the plan says how many; of a pass that trains, those of one sequence.
            limit: The plan's memory; what does not fit is put on disk, where the pass can do so.
            nbytes: What the model takes by then, where passes before have made it smaller.
        """
        return None

    def saving(self, model: In, tokens: int, limit: int) -> str | None:
        """Options with which :meth:`memory_bytes` would stay under a limit that it exceeds; None: it knows of none."""
        return None

    def work(self, model: In, data: Amount | None) -> Work | None:
        """What the pass will do on ``model`` (meta tensors), for an estimate of its time; None: it cannot tell.

        Args:
            data: What it is calibrated or trained on; None: it needs none, or the plan does not say how much.
        """
        return None

    def repetitions(self) -> int:
        """How many times the run does it, each with other calibration samples; what goes on is the first."""
        return 1

    def keeps(self, model: In) -> str | None:
        """What the pass leaves in the store beside its model, in words with its bytes; None: nothing."""
        return None

    def once(self) -> Self:
        """The same pass done a single time: what one repetition's result depends on."""
        return self

    def settled(self, model: Model) -> Self:
        """The same pass with the options filled in that the plan leaves to the model's task."""
        return self

    def reads(self) -> tuple[str, ...]:
        """Files and folders that the options name: their content is part of what made the result."""
        return ()

    def faults(self, model: In) -> Iterator[str]:
        """What is wrong with these options for this model, found on a model without weights (meta tensors)."""
        return iter(())

    def fault_of(self, work: Callable[[], object]) -> Iterator[str]:
        """What some work on a model without weights fails with, as a line of :meth:`faults`; none: it can be done."""
        try:
            work()
        except (ModelError, DataError) as error:
            yield f"{self.name}: {error}"

    def faults_before(self, model: In, holds: Holds) -> Iterator[str]:
        """The same, knowing what comes behind the pass: what a fault offers instead must fit that too."""
        return self.faults(model)

    def warnings(self, model: In) -> Iterator[str]:
        """Consequences of these options that are probably unintended: reported before the run, never refused."""
        return iter(())

    def preview(self, model: In, before: Preview) -> Preview:
        """What the pass will do to ``model`` (meta tensors; may be changed in place), for ``check --explain``."""
        return replace(before, touched=())

    def promised(self, before: Model) -> frozenset[str]:
        """What the pass promises of this very model: fewer than ``promises`` where there is less to win."""
        return type(self).promises

    def grid_faults(self, grid: Mapping[str, GridKind], model: Model | None = None) -> Iterator[str]:
        """Which of the grids that weights of ``model`` lie on by then this pass cannot hold, and what it could."""
        return iter(())

    def check_effect(self, before: Model, after: Model, facts: dict[str, Any]) -> Sequence[str]:
        """Promises of this pass's own beyond the shared ones; each broken one is a line."""
        return ()

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values, defaults included: what the store's key is made of."""
        return self.model_dump(mode="json")
