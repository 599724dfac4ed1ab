"""Where a plan's model is: one class for each kind, told apart by the key that names it."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StrictInt, StrictStr, Tag

from squeeze.errors import did_you_mean
from squeeze.models.spec import ModelSpec
from squeeze.plan.section import Complaint, Says, Section, refusal

MOST_AXES, MOST_VALUES = 8, 10**9  # axes and values of one example

WEIGHTS = "model: weights is {value!r}; a path would do"
NO_WEIGHTS = "model: a module needs weights: (a safetensors file or a torch state dict)"
DTYPE = "model: dtype is {value!r}; float32, float16, bfloat16 would do"
PATH = Says("model: {name} is {value!r}; a path or name would do")


def _countable(shape: list[int]) -> list[int]:
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    return shape


def _names(arguments: dict[str, Any]) -> dict[str, Any]:
    if not all(map(str.isidentifier, arguments)):
        raise ValueError("no names of arguments")
    return arguments


Axis = Annotated[StrictInt, Field(ge=1)]
Shape = Annotated[list[Axis], Field(min_length=1, max_length=MOST_AXES), AfterValidator(_countable)]
Input = Annotated[Shape | None, Says("model: input is {value!r}; a shape such as [3, 32, 32] would do")]
Arguments = Annotated[
    Annotated[dict[str, Any], AfterValidator(_names)] | None,
    Says("model: arguments is no mapping of names to values"),
]


class ModelKind(Section):
    """One of the ways to say where a model is."""

    called: ClassVar[str] = "model"

    def spec(self) -> ModelSpec:
        """The specification that the run reads the model from."""
        values: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        values["arguments"] = tuple(sorted((values.get("arguments") or {}).items()))
        values["input"] = tuple(values.get("input") or ()) or None
        return ModelSpec(**values)

    @classmethod
    def unknown(cls, key: str) -> Complaint:
        """A key of another kind says whose it is."""
        if kinds := [kind for kind, other in KINDS.items() if key in other.model_fields]:
            own = next(kind for kind, other in KINDS.items() if other is cls)
            return Complaint(f"model: {key} does not go with {own}; it serves {' and '.join(kinds)}", (key,))
        return _unknown(key)


class HuggingFaceFolder(ModelKind):
    """A Hugging Face folder."""

    hf: Annotated[StrictStr, PATH]
    """Folder with config.json and safetensors, or org/name on the Hugging Face hub."""
    input: Input = None
    """Shape of one example, where neither model nor data says it."""
    revision: Annotated[StrictStr | None, Says("model: revision is {value!r}; a branch, tag or commit would do")] = None
    """Of a model of the hub: a branch, tag or commit; null: the newest."""


class GgufFile(ModelKind):
    """A language model in one file."""

    gguf: Annotated[StrictStr, PATH]
    """A .gguf file."""
    dtype: Annotated[Literal["float32", "float16", "bfloat16"] | None, Says(DTYPE)] = None
    """What weights are stored in; null: the narrowest that holds them exactly."""


class ModuleFactory(ModelKind):
    """A torch module that a function of the user's makes."""

    module: Annotated[StrictStr, PATH]
    """package.module:factory, called with ``arguments``."""
    weights: Annotated[StrictStr, Says(WEIGHTS, NO_WEIGHTS)]
    """safetensors or a torch state dict."""
    input: Input = None
    """Shape of one example, where neither model nor data says it."""
    arguments: Arguments = None
    """What the factory is called with, by name."""


class BuiltinNetwork(ModelKind):
    """A network that ships with Squeeze."""

    builtin: Annotated[StrictStr, PATH]
    """Its name."""
    weights: Annotated[StrictStr | None, Says(WEIGHTS)] = None
    """safetensors or a torch state dict; unless given, the network is trained at first use."""
    input: Input = None
    """Shape of one example, where neither model nor data says it."""


class OnnxFile(ModelKind):
    """An ONNX graph."""

    onnx: Annotated[StrictStr, PATH]
    """A .onnx file."""


KINDS: dict[str, type[ModelKind]] = {
    "hf": HuggingFaceFolder,
    "gguf": GgufFile,
    "module": ModuleFactory,
    "builtin": BuiltinNetwork,
    "onnx": OnnxFile,
}
KEYS = tuple(dict.fromkeys([*KINDS, *(key for kind in KINDS.values() for key in kind.model_fields)]))

CURE = f"one of {', '.join(KINDS)} says where it is, as in model: {{{{hf: ./folder}}}}"


def _kind(value: Any) -> str | None:
    return next((kind for kind in KINDS if kind in value), None) if isinstance(value, dict) else None


def _one_kind(value: Any) -> Any:
    """Faults across all kinds: how many are named, and keys that no kind has."""
    kinds = [kind for kind in KINDS if kind in value] if isinstance(value, dict) else []
    if not isinstance(value, dict) or len(kinds) == 1:
        return value
    count = Complaint(f"model: names {len(kinds)} of {', '.join(KINDS)}; exactly one would do")
    raise refusal([count, *(_unknown(key) for key in value if key not in KEYS)])


def _unknown(key: str) -> Complaint:
    return Complaint(f"model has no '{key}'{did_you_mean(key, KEYS)}", (key,))


AnyKind = Annotated[
    Annotated[HuggingFaceFolder, Tag("hf")]
    | Annotated[GgufFile, Tag("gguf")]
    | Annotated[ModuleFactory, Tag("module")]
    | Annotated[BuiltinNetwork, Tag("builtin")]
    | Annotated[OnnxFile, Tag("onnx")],
    Discriminator(_kind),
    BeforeValidator(_one_kind),
    Says(f"model: is {{value!r}}; {CURE}", missing=f"model: is missing; {CURE}"),
]
