"""Parts of a plan file that name a registered class: passes, targets, metrics, sources of data.

Only the class that a plan names is loaded, and its options are read by it; the schema lists all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from squeeze import registry
from squeeze.budget import ALIASES
from squeeze.errors import SqueezeError, did_you_mean
from squeeze.plan.options import option_faults
from squeeze.plan.plan import AnyPass
from squeeze.plan.section import Complaint, complaints_of, refusal
from squeeze.targets.base import Target

Schema = dict[str, Any]
Options = TypeVar("Options", bound=BaseModel)
TEXT: Schema = {"type": "string"}
ANY_PASS, ANY_SOURCE = "AnyPass", "AnySource"  # printed once by `squeeze schema`, in $defs


class Part(ABC):
    """An annotation of a field: how its value is read, and what the schema says of it."""

    @abstractmethod
    def read(self, value: Any, folder: str | None) -> Any:
        """What a value of the plan stands for; ``folder`` is where the plan's own modules lie.

        Raises:
            ValidationError: every fault of it, as complaints.
        """

    @abstractmethod
    def schema(self, handler: GetJsonSchemaHandler) -> Schema:
        """JSON schema of the value."""

    def name(self, value: Any, item: Any) -> str | None:
        """What the part is known by: as written, or as read; ``item`` is None where it could not be."""
        return None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        def read(value: Any, info: ValidationInfo) -> Any:
            return self.read(value, info.context)

        return core_schema.with_info_plain_validator_function(read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        return self.schema(handler)


@dataclass(frozen=True)
class ListOf(Part):
    """A list, every element of which is read, whatever the others are.

    Args:
        no_list: What would be right where it is none.
        twice: What to say where two elements have one name; None: they may.
    """

    item: Part
    no_list: str
    twice: str | None = None

    def read(self, value: Any, folder: str | None) -> tuple[Any, ...] | None:
        """None: the plan names none."""
        if value is None:
            return None
        if not isinstance(value, list):
            raise refusal([Complaint(f"is no list; {self.no_list}", (), 0)])
        complaints: list[Complaint] = []
        items: list[Any] = []
        names: set[str] = set()
        for index, element in enumerate(value):
            item = None
            try:
                item = self.item.read(element, folder)
                items.append(item)
            except ValidationError as error:
                complaints += complaints_of(error, index)
            name = self.item.name(element, item)
            if self.twice and name in names:
                complaints.append(Complaint(self.twice.format(name=name), (index,)))
            names |= {name} if name is not None else set()
        if complaints:
            raise refusal(complaints)
        return tuple(items)

    def schema(self, handler: GetJsonSchemaHandler) -> Schema:
        return {"type": "array", "items": self.item.schema(handler)}


class PassPart(Part):
    """``{pass: gptq, bits: 4}``."""

    def read(self, value: Any, folder: str | None) -> AnyPass:
        if not isinstance(value, dict) or not isinstance(value.get("pass"), str):
            raise refusal([Complaint("is no pass; '- pass: NAME' and its options would be", (), 0)])
        cls = _load("passes", value["pass"], folder)
        pass_: AnyPass = _options(cls, _without(value, "pass"), value["pass"])
        return pass_

    def schema(self, handler: GetJsonSchemaHandler) -> Schema:
        return {"title": ANY_PASS, "oneOf": list(_class_schemas("passes", "pass", {}, handler))}


PASSES = ListOf(PassPart(), "each pass is an element that begins with '- pass:'")


@dataclass(frozen=True)
class BranchPart:
    """What a plan says of one branch.

    Args:
        target: None: it is only measured.
    """

    name: str
    target: Target[Any] | None
    passes: tuple[AnyPass, ...]


class TargetPart(Part):
    """``{target: cpu, name: desk, passes: [...]}``, or without a target to measure only."""

    def read(self, value: Any, folder: str | None) -> BranchPart:
        name = self.name(value, None)
        if name is None or not isinstance(value.get("target", ""), str):
            message = "is no target; '- target: cpu' would be, or '- name:' to measure only"
            raise refusal([Complaint(message, (), 0)])
        complaints: list[Complaint] = []
        if not name.replace("-", "").replace("_", "").isalnum():
            message = f"targets: name '{name}' becomes a file name; letters, digits, - and _ would do"
            complaints.append(Complaint(message, ("name",)))
        passes, target = (), None
        try:
            passes = PASSES.read(value.get("passes"), folder) or ()
        except ValidationError as error:
            complaints += complaints_of(error, "passes")
        try:
            target = self._target(name, value, folder)
        except ValidationError as error:
            complaints += complaints_of(error)
        if complaints:
            raise refusal(complaints)
        return BranchPart(name, target, passes)

    def name(self, value: Any, item: BranchPart | None) -> str | None:
        has_name = isinstance(value, dict) and ("target" in value or "name" in value)
        return str(value.get("name", value.get("target"))) if has_name else None

    def _target(self, name: str, value: dict[str, Any], folder: str | None) -> Target[Any] | None:
        options = _without(value, "target", "passes", "name")
        if "target" in value:
            target: Target[Any] = _options(_load("targets", value["target"], folder), options, value["target"])
            return target
        if options:
            known = ("name", "passes", "target")
            raise refusal(
                Complaint(f"branch {name} has no '{key}'{did_you_mean(key, known)}", (key,)) for key in options
            )
        return None

    def schema(self, handler: GetJsonSchemaHandler) -> Schema:
        more = {"name": TEXT, "passes": PASSES.schema(handler)}
        measured = {"type": "object", "additionalProperties": False, "required": ["name"], "properties": more}
        return {"oneOf": [*_class_schemas("targets", "target", more, handler), measured]}


class SourcePart(Part):
    """``{npz: file, samples: 100}``: one key names the kind of source, and is an option of it, too."""

    def read(self, value: Any, folder: str | None) -> Any:
        if not isinstance(value, dict):
            raise refusal([Complaint("names no source; {folder: path} or {npz: path} would", (), 0)])
        known = registry.entries("data")
        kinds = [key for key in value if key in known or ":" in str(key)]
        if len(kinds) != 1:
            near = did_you_mean(next(iter(value), ""), known)
            reason = f"names {' and '.join(kinds)}; one of them would do" if kinds else f"names no data source{near}"
            raise refusal([Complaint(reason, (), 0)])
        cls = _load("data", kinds[0], folder)
        options = {cls.kind if key == kinds[0] else key: inner for key, inner in value.items()}
        try:
            return _options(cls, options, kinds[0])
        except ValidationError as error:
            raise refusal(c._replace(inside=len(c.place)) for c in complaints_of(error)) from None

    def schema(self, handler: GetJsonSchemaHandler) -> Schema:
        sources = [_schema(registry.load("data", name), handler) for name in registry.entries("data")]
        return {"title": ANY_SOURCE, "oneOf": sources}


SOURCE = SourcePart()


class MetricPart(Part):
    """``top1`` or ``{latency: {batch: 1}}``."""

    def read(self, value: Any, folder: str | None) -> Any:
        written, options = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (value, {})
        if not isinstance(written, str):
            message = f"metrics: {value!r} is no metric; a name, or {{latency: {{batch: 1}}}} would do"
            raise refusal([Complaint(message)])
        name = ALIASES.get(written, written)
        cls = _load("metrics", name, folder)
        try:
            if isinstance(options, dict) and isinstance(options.get("data"), dict):
                options = options | {"data": self._data(options["data"], folder)}
            return _options(cls, options or {}, name)
        except ValidationError as error:
            raise refusal(complaints_of(error, written)) from None

    def name(self, value: Any, item: Any) -> str | None:
        return item.label if item is not None else None

    def _data(self, value: dict[str, Any], folder: str | None) -> Any:
        try:
            return SOURCE.read(value, folder)
        except ValidationError as error:
            raise refusal(complaints_of(error, "data")) from None

    def schema(self, handler: GetJsonSchemaHandler) -> Schema:
        options = {name: _schema(registry.load("metrics", name), handler) for name in registry.entries("metrics")}
        source = SOURCE.schema(handler)
        for schema in options.values():
            if "data" in schema.get("properties", {}):
                schema["properties"] = schema["properties"] | {"data": source}
        alone = [name for name, schema in options.items() if not schema.get("required")]
        return {"anyOf": [{"enum": [*alone, *ALIASES]}, *(_configured(*item) for item in options.items())]}


def _configured(name: str, options: Schema) -> Schema:
    return {"type": "object", "properties": {name: options}, "required": [name], "additionalProperties": False}


def _load(kind: registry.Kind, name: str, folder: str | None) -> type[Any]:
    try:
        return registry.load(kind, name, folder)
    except SqueezeError as error:
        raise refusal([Complaint(str(error))]) from None


def _options(cls: type[Options], values: Any, name: str) -> Options:
    """The class with its options; each that it refuses is a complaint."""
    if not isinstance(values, dict):
        raise refusal([Complaint(f"{name}: options are {values!r}; a mapping of names to values would do")])
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        faults = option_faults(error, cls, (), name)
        raise refusal(Complaint(fault.message, fault.path) for fault in faults) from None


def _without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if key not in keys}


def _class_schemas(kind: registry.Kind, key: str, more: Schema, handler: GetJsonSchemaHandler) -> Iterator[Schema]:
    """One schema per registered class: the key that names it, its options, and what else may stand there."""
    for name in registry.entries(kind):
        schema = _schema(registry.load(kind, name), handler)
        properties = {key: {"const": name}} | schema.get("properties", {}) | more
        yield schema | {"properties": properties, "required": [key, *schema.get("required", [])]}


def _schema(cls: type[BaseModel], handler: GetJsonSchemaHandler) -> Schema:
    return dict(handler.resolve_ref_schema(handler(cls.__pydantic_core_schema__)))
