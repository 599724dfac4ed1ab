"""From a plan document to a :class:`Plan`: every part by its name, every option by its type, all faults at once."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from squeeze import registry
from squeeze.budget import ALIASES, BYTES, Bound, parse_bound
from squeeze.data.sources import DataSource
from squeeze.errors import Fault, PlanError, SqueezeError, did_you_mean
from squeeze.evaluate.metrics import Metric
from squeeze.models.language.skeleton import is_language_folder
from squeeze.models.spec import ModelSpec
from squeeze.plan.document import Document, Place
from squeeze.plan.options import option_faults
from squeeze.plan.plan import (
    DEFAULT_METRICS,
    LANGUAGE_METRICS,
    ROLES,
    Branch,
    Plan,
    Step,
    equivalence_margins,
    primary_metrics,
)
from squeeze.targets.base import Target

T = TypeVar("T")
Options = TypeVar("Options", bound=BaseModel)

KEYS = (
    "model",
    "data",
    "metrics",
    "budget",
    "primary",
    "equivalence",
    "memory",
    "passes",
    "targets",
    "vars",
    "seed",
    "threads",
    "strict",
)
MODEL_KINDS = ("hf", "module", "builtin", "onnx")
MODEL_KEY_SERVES = {
    "weights": ("module", "builtin"),
    "input": ("hf", "module", "builtin"),
    "arguments": ("module",),
}
MODEL_KEYS = (*MODEL_KINDS, *MODEL_KEY_SERVES)
MOST_AXES, MOST_VALUES = 8, 10**9  # of one example
MOST_SEED = 2**32 - 1  # what every library's generator takes


def parse(document: Document) -> Plan:
    """Make the plan.

    Raises:
        PlanError: every fault of its parts. Whether the parts fit together is checked later.
    """
    parser = Parser(document)
    plan = parser.plan()
    if parser.faults:
        raise PlanError(document.located(parser.faults), document.file)
    return plan


class Parser:
    """Reads one document and collects what is wrong with it."""

    def __init__(self, document: Document) -> None:
        self.document, self.values = document, document.values
        self.code_folder = str(document.root)
        self.faults: list[Fault] = []

    def plan(self) -> Plan:
        """Every part in turn; a part that is wrong leaves a fault and something harmless in its place."""
        self._unknown_keys(self.values, KEYS, (), "a plan")
        metrics = self._metrics()
        primary = self._primary(metrics)
        return Plan(
            self._steps(self.values.get("passes"), ("passes",)),
            self._branches(),
            model=self._model(),
            data=self._data(),
            metrics=metrics,
            budget=self._budget(metrics),
            primary=primary,
            equivalence=self._equivalence(metrics, primary),
            seed=self._number("seed", 0, least=0, most=MOST_SEED),
            threads=self._number("threads", os.cpu_count() or 1, least=1),
            memory_bytes=self._memory(),
            strict=self._flag("strict"),
            name=_stem(self.document.file),
            file=self.document.file,
            root=self.document.root,
            document=self.document,
        )

    def fault(self, place: Place, message: str) -> None:
        """Note what is wrong."""
        self.faults.append(Fault(place, message))

    def _model(self) -> ModelSpec | None:
        value = self.values.get("model")
        kinds = ", ".join(MODEL_KINDS)
        if not isinstance(value, dict):
            reason = "missing" if value is None else repr(value)
            self.fault(
                ("model",), f"model: is {reason}; one of {kinds} says where it is, as in model: {{hf: ./folder}}"
            )
            return None
        self._unknown_keys(value, MODEL_KEYS, ("model",), "model")
        named = [kind for kind in MODEL_KINDS if kind in value]
        if len(named) != 1:
            self.fault(("model",), f"model: names {len(named)} of {kinds}; exactly one would do")
            return None
        if not isinstance(value[named[0]], str):
            self.fault(("model", named[0]), f"model: {named[0]} is {value[named[0]]!r}; a path or name would do")
            return None
        return self._model_spec(value, named[0])

    def _model_spec(self, value: dict[str, Any], kind: str) -> ModelSpec | None:
        arguments, shape, weights = value.get("arguments") or {}, value.get("input"), value.get("weights")
        if kind == "module" and weights is None:
            self.fault(("model",), "model: a module needs weights: (a safetensors file or a torch state dict)")
        if weights is not None and not isinstance(weights, str):
            self.fault(("model", "weights"), f"model: weights is {weights!r}; a path would do")
            return None
        for key, kinds in MODEL_KEY_SERVES.items():
            if key in value and kind not in kinds:
                self.fault(("model", key), f"model: {key} does not go with {kind}; it serves {' and '.join(kinds)}")
        if not isinstance(arguments, dict) or not all(map(str.isidentifier, arguments)):
            self.fault(("model", "arguments"), "model: arguments is no mapping of names to values")
            return None
        if shape is not None and not _is_shape(shape):
            self.fault(("model", "input"), f"model: input is {shape!r}; a shape such as [3, 32, 32] would do")
            return None
        known = {kind: value[kind], "weights": weights, "input": tuple(shape) if shape else None}
        return ModelSpec(**known, arguments=tuple(sorted(arguments.items())))

    def _data(self) -> dict[str, DataSource]:
        value = self._mapping("data", {})
        self._unknown_keys(value, ROLES, ("data",), "data")
        sources = {role: self._source(value[role], ("data", role)) for role in ROLES if role in value}
        return {role: source for role, source in sources.items() if source}

    def _source(self, value: Any, place: Place) -> DataSource | None:
        if not isinstance(value, dict):
            self.fault(place, f"{_dotted(place)}: names no source; {{folder: path}} or {{npz: path}} would")
            return None
        known = registry.entries("data")
        kinds = [key for key in value if key in known or ":" in str(key)]
        if len(kinds) != 1:
            near = did_you_mean(next(iter(value), ""), known)
            reason = f"names {' and '.join(kinds)}; one of them would do" if kinds else f"names no data source{near}"
            self.fault(place, f"{_dotted(place)}: {reason}")
            return None
        cls = self._try(lambda: registry.load("data", kinds[0], self.code_folder), place)
        if cls is None:
            return None
        options = {cls.kind if key == kinds[0] else key: inner for key, inner in value.items()}
        return self._options(cls, options, place, f"{_dotted(place)}: {kinds[0]}")

    def _metrics(self) -> tuple[Metric, ...]:
        value = self.values.get("metrics")
        if value is None:
            return LANGUAGE_METRICS if self._is_language() else DEFAULT_METRICS
        if not isinstance(value, list):
            self.fault(("metrics",), "metrics: is no list; [top1, kl, size_bytes, latency] would do")
            return ()
        found = [self._metric(item, ("metrics", index)) for index, item in enumerate(value)]
        names = [metric.label if metric else None for metric in found]
        for index, name in enumerate(names):
            if name in names[:index] and name is not None:
                self.fault(("metrics", index), f"metrics: '{name}' stands twice; scores are known by their names")
        return tuple(metric for metric in found if metric)

    def _is_language(self) -> bool:
        model = self.values.get("model")
        folder = model.get("hf") if isinstance(model, dict) else None
        return isinstance(folder, str) and is_language_folder(self.document.root / folder)

    def _metric(self, item: Any, place: Place) -> Metric | None:
        name, options = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
        if not isinstance(name, str):
            self.fault(place, f"metrics: {item!r} is no metric; a name, or {{latency: {{batch: 1}}}} would do")
            return None
        name = ALIASES.get(name, name)
        cls = self._try(lambda: registry.load("metrics", name, self.code_folder), place)
        if cls is not None and isinstance(options, dict) and isinstance(options.get("data"), dict):
            source = self._source(options["data"], (*place, name, "data"))
            if source is None:
                return None
            options = options | {"data": source}
        return self._options(cls, options or {}, place, name) if cls else None

    def _budget(self, metrics: tuple[Metric, ...]) -> tuple[Bound, ...]:
        known = {metric.label: metric for metric in metrics}
        found = [self._bound(name, text, known) for name, text in self._mapping("budget", {}).items()]
        return tuple(bound for bound in found if bound)

    def _bound(self, name: str, text: Any, known: dict[str, Metric]) -> Bound | None:
        place = ("budget", name)
        metric = ALIASES.get(name, name)
        if metric not in known:
            self.fault(place, f"budget: '{name}' is not among the plan's metrics{did_you_mean(metric, known)}")
            return None
        return self._try(lambda: parse_bound(known[metric], text), place)

    def _primary(self, metrics: tuple[Metric, ...]) -> tuple[str, ...] | None:
        value = self.values.get("primary")
        names = [value] if isinstance(value, str) else value
        if names is None:
            return None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            self.fault(("primary",), f"primary: is {value!r}; the name of a metric would do, or a list of names")
            return None
        return self._try(lambda: primary_metrics(names, metrics), ("primary",))

    def _equivalence(self, metrics: tuple[Metric, ...], primary: tuple[str, ...] | None) -> dict[str, str]:
        margins, judged = self._mapping("equivalence", {}), primary_metrics(primary, metrics)
        good = {}
        for name, text in margins.items():
            place = ("equivalence", str(name))
            if self._try(lambda: equivalence_margins({str(name): text}, metrics, judged), place) is not None:  # noqa: B023
                good[str(name)] = str(text)
        return good

    def _steps(self, value: Any, place: Place) -> tuple[Step, ...]:
        if value is None:
            value = []
        if not isinstance(value, list):
            self.fault(place, f"{_dotted(place)}: is no list; each pass is an element that begins with '- pass:'")
            return ()
        found = [self._step(item, (*place, index)) for index, item in enumerate(value)]
        return tuple(step for step in found if step)

    def _step(self, item: Any, place: Place) -> Step | None:
        if not isinstance(item, dict) or not isinstance(item.get("pass"), str):
            self.fault(place, f"{_dotted(place)}: is no pass; '- pass: NAME' and its options would be")
            return None
        name = item["pass"]
        cls = self._try(lambda: registry.load("passes", name, self.code_folder), place)
        options = {key: value for key, value in item.items() if key != "pass"}
        pass_ = self._options(cls, options, place, name) if cls else None
        return Step(pass_, place, self.document.line(place)) if pass_ else None

    def _branches(self) -> tuple[Branch, ...]:
        value = self.values.get("targets")
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault(("targets",), "targets: is no list; each target is an element that begins with '- target:'")
            return ()
        found = [self._branch(item, ("targets", index)) for index, item in enumerate(value)]
        branches = [branch for branch in found if branch]
        for index, branch in enumerate(branches):
            if branch.name in {other.name for other in branches[:index]}:
                self.fault(branch.place, f"targets: '{branch.name}' stands twice; name: would tell the two apart")
        return tuple(branches)

    def _branch(self, item: Any, place: Place) -> Branch | None:
        named = isinstance(item, dict) and ("target" in item or "name" in item)
        if not named or not isinstance(item.get("target", ""), str):
            self.fault(place, f"{_dotted(place)}: is no target; '- target: cpu' would be, or '- name:' to measure only")
            return None
        name = str(item.get("name", item.get("target")))
        if not name.replace("-", "").replace("_", "").isalnum():
            self.fault(
                (*place, "name"), f"targets: name '{name}' becomes a file name; letters, digits, - and _ would do"
            )
        steps = self._steps(item.get("passes"), (*place, "passes"))
        if "target" not in item:
            self._unknown_keys(item, ("name", "passes", "target"), place, f"branch {name}")
            return Branch(name, None, steps, place)
        target = self._target(item, place)
        return Branch(name, target, steps, place) if target else None

    def _target(self, item: dict[str, Any], place: Place) -> Target[Any] | None:
        cls = self._try(lambda: registry.load("targets", item["target"], self.code_folder), place)
        options = {key: value for key, value in item.items() if key not in ("target", "passes", "name")}
        target: Target[Any] | None = self._options(cls, options, place, item["target"]) if cls else None
        return target

    def _memory(self) -> int | None:
        value = self.values.get("memory")
        if value is None:
            return None
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMG]i?B|B)", str(value).strip())
        if match is None or not float(match[1]):
            self.fault(("memory",), f"memory: '{value!s:.40}' cannot be read; 4GB or 1500MB would do")
            return None
        return int(float(match[1]) * BYTES[match[2]])

    def _number(self, name: str, default: int, least: int, most: int = 1024) -> int:
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.fault((name,), f"{name}: is {value!r}; a whole number from {least} to {most} would do")
            return default
        return value

    def _flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            self.fault((name,), f"{name}: is {value!r}; true or false would do")
        return bool(value)

    def _mapping(self, name: str, default: dict[str, Any]) -> dict[str, Any]:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, dict):
            self.fault((name,), f"{name}: is no mapping of names to values")
            return default
        return value

    def _unknown_keys(self, value: dict[str, Any], known: tuple[str, ...], place: Place, what: str) -> None:
        for key in value:
            if key not in known:
                self.fault((*place, str(key)), f"{what} has no '{key}'{did_you_mean(str(key), known)}")

    def _try(self, make: Callable[[], T], place: Place) -> T | None:
        """What ``make`` gives, or its complaint as a fault here."""
        try:
            return make()
        except SqueezeError as error:
            self.fault(place, str(error))
            return None

    def _options(self, cls: type[Options], values: Any, place: Place, what: str) -> Options | None:
        if not isinstance(values, dict):
            self.fault(place, f"{what}: options are {values!r}; a mapping of names to values would do")
            return None
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            self.faults += option_faults(error, cls, place, what)
            return None


def _is_shape(value: Any) -> bool:
    """Sizes of one example that can be multiplied without a number that no tensor can hold."""
    sizes = value if isinstance(value, list) and value and len(value) <= MOST_AXES else [None]
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes)
    return whole and math.prod(sizes) <= MOST_VALUES


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _stem(file: str) -> str:
    return file.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml") or "plan"
