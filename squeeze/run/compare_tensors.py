"""Where does a packaged model leave the original? What both compute on the way, layer by layer.

The original's graph is the float ONNX file that it exports to; a package's file is run by its own runtime, which shows
its inner values, in a confined process. Values are matched by name and shape: an export gives the same names each time,
and passes keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from squeeze import registry
from squeeze.data.base import Dataset
from squeeze.errors import UsageError, VerifyError, first_line
from squeeze.models.base import Model
from squeeze.models.onnx_model import OnnxModel, as_graph
from squeeze.models.ort_session import feed
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.plan.check import example_shapes
from squeeze.plan.plan import AnyPass, Plan
from squeeze.progress import Progress
from squeeze.run.original import read_original
from squeeze.run.package_examples import arrays_of, evaluation_examples
from squeeze.store import Store
from squeeze.targets import child
from squeeze.targets.confined import SCORING, Limits
from squeeze.targets.golden import Arrays, npz_bytes, read_npz
from squeeze.targets.verify import Package
from squeeze.work import temporary_folder

EXAMPLES, AT_ONCE = 16, 8  # examples compared; and computed together, which bounds memory
TOLERANCE = 0.10  # error of a layer that is shown as its leaving, 20 dB below the values
ORIGINAL = "original.onnx"
MOVING = ("Pad", "Slice", "Flatten", "Reshape", "Transpose", "Concat", "Identity", "Squeeze", "Unsqueeze")
WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
VALUES_IN_CHILD = "squeeze.targets.answers:inner_values"
WHO = "compare-tensors"


@dataclass(frozen=True)
class LayerError:
    """How far one value of a packaged model is from the original's.

    Args:
        value: Its name in the ONNX graph.
        layer: The layer with weights that it comes from, or the node itself.
        operator: What makes it in the original.
        error: Root mean square of the difference, as a share of the original's root mean square.
        growth: ``error`` beside the largest error among the compared values it is made from; None: among none.
    """

    value: str
    layer: str
    operator: str
    error: float
    growth: float | None


@dataclass(frozen=True)
class Compared:
    """All values that both models have, in the order of the original's graph.

    Args:
        not_compared: How many of the original's values the file does not show, or in another shape.
    """

    runtime: str
    examples: int
    tolerance: float
    layers: tuple[LayerError, ...]
    not_compared: int

    @property
    def first(self) -> LayerError | None:
        """The first that is further off than the tolerance."""
        return next((layer for layer in self.layers if layer.error > self.tolerance), None)


def compare_tensors(
    package: Package,
    plan: Plan,
    examples: int = EXAMPLES,
    tolerance: float = TOLERANCE,
    progress: Progress | None = None,
    store: Store | None = None,
    limits: Limits = SCORING,
) -> Compared:
    """Run the original and the package on some of the plan's evaluation data and compare what lies between.

    Args:
        tolerance: Of a layer's error, as a share of its values.
        store: Where an original that is trained or converted lies already; None: a temporary one.

    Raises:
        UsageError: the model goes on with a text, the plan names no data, or the two share no value.
        ModelError: the runtime shows outputs only, or the original has no ONNX form.
        VerifyError: a limit was reached.
    """
    progress, data = progress or Progress(), evaluation_examples(package, plan, examples, WHO)
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder("tensors"))
        originals = store or Store(folder / "store", progress)
        stack.enter_context(originals.run())  # no prune takes it while it is read
        read = read_original(plan.model, plan.root, example_shapes(plan), originals, plan.threads, progress)
        graph = _as_graph(read, progress)
        (folder / ORIGINAL).write_bytes(graph.data)
        nodes = _nodes(folder / ORIGINAL)
        progress.say(f"comparing {package.path} with the original on {len(data)} examples")
        pair = _Pair(package, graph, folder, tuple(nodes), limits)
        sums = [pair.squares(data.subset(part)) for part in _parts(len(data), graph.fixed_batch)]
    layers = tuple(_layers(nodes, _relative(sums)))
    if not layers:
        raise UsageError(
            f"{package.path}: shares no inner value with the model of {plan.file}: none of the same name and shape; "
            "a package made by this plan does, where nothing is pruned"
        )
    name = package.manifest.runtime.name
    return Compared(name, len(data), tolerance, layers, len(nodes) - len(layers))


def _parts(examples: int, fixed: int | None) -> Iterator[np.ndarray]:
    """Indices that are computed together; a graph that takes one number of examples gets the last one repeatedly."""
    size = fixed or AT_ONCE
    for start in range(0, examples, size):
        part = np.arange(start, start + size)
        yield np.minimum(part, examples - 1) if fixed else part[part < examples]


def _as_graph(original: Model, progress: Progress) -> OnnxModel:
    """The original as a float ONNX graph."""
    if ExportOnnx.gives(original.form) is not None:
        export: AnyPass = ExportOnnx()
        original = export.run(original, Context(progress=progress))
    if original.form != OnnxModel.form:
        raise UsageError(f"{WHO} takes originals that export to ONNX; a model of form '{original.form}' does not")
    return as_graph(original)


def _nodes(file: Path) -> dict[str, onnx.NodeProto]:
    """By the name of their first output, in the order of the graph."""
    graph = onnx.load_model(file, load_external_data=False).graph
    return {node.output[0]: node for node in graph.node if node.op_type != "Constant"}


@dataclass(frozen=True)
class _Pair:
    """A package's model and the original's graph, whose file lies in ``folder``."""

    package: Package
    graph: OnnxModel
    folder: Path
    names: tuple[str, ...]
    limits: Limits

    def squares(self, data: Dataset) -> dict[str, np.ndarray]:
        """Per value, float64 ``[2]``: sums of squares of the difference and of the original, where shapes agree."""
        ours, theirs = self._of_original(data), self._of_package(data)
        alike = [name for name in ours if name in theirs and theirs[name].shape == ours[name].shape]
        return {name: _squares(ours[name], theirs[name]) for name in alike}

    def _of_original(self, data: Dataset) -> Arrays:
        file, batch = self.folder / ORIGINAL, data.batch(np.arange(len(data)))
        runtime = registry.load("runtimes", "onnxruntime")
        values: Arrays = runtime.values(file, feed(self.graph.inputs, batch, str(file)), self.names, str(file))
        return values

    def _of_package(self, data: Dataset) -> Arrays:
        package, fed = self.package, self.folder / "feed.npz"
        fed.write_bytes(npz_bytes(arrays_of(package, data)))
        arguments = {
            "folder": str(package.folder.resolve()),
            "model": package.manifest.model,
            "runtime": package.manifest.runtime.name,
            "fed": str(fed),
            "names": self.names,
            "where": str(package.path),
        }
        where, folders = str(package.path), [*package.temporary(), self.folder]
        answer = child.call(VALUES_IN_CHILD, arguments, self.limits, package.model_bytes(), where, folders=folders)
        try:
            return read_npz(answer.arrays)
        except Exception as error:  # zipfile and numpy's header parser raise whatever hostile bytes lead them to
            raise VerifyError(f"{where}: no values that can be read ({first_line(error)})") from None


def _squares(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    original = ours.astype(np.float64)
    return np.array([((theirs - original) ** 2).sum(), (original**2).sum()])


def _relative(sums: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Root mean square errors as a share; 0 where both are 0 everywhere."""
    total = {name: sum((one[name] for one in sums), np.zeros(2)) for name in sums[0]}
    return {
        name: float(np.sqrt(apart / size)) if size else float("inf") if apart else 0.0
        for name, (apart, size) in total.items()
    }


def _layers(nodes: Mapping[str, onnx.NodeProto], errors: Mapping[str, float]) -> Iterator[LayerError]:
    """In the graph's order, so that all that a value is made from is known; values that only move are left out."""
    nearest: dict[str, float] = {}  # by value: its error, or the largest of the nearest that were compared before it
    layers: dict[str, str] = {}  # by value: the layer that it comes from
    for value, node in nodes.items():
        before = max((nearest[name] for name in node.input if name in nearest), default=0.0)
        own = str(node.name)
        first = node.input[0] if len(node.input) else ""
        layers[value] = own if node.op_type in WITH_WEIGHTS else layers.get(first, "")
        nearest[value] = errors.get(value, before)
        if value in errors and node.op_type not in MOVING:
            growth = errors[value] / before if before else None
            yield LayerError(value, layers[value] or own, node.op_type, errors[value], growth)
