"""The files of ``app/`` in a package, made from its manifest: the same manifest gives the same bytes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files as resources
from math import prod
from typing import Any

from squeeze.errors import printable
from squeeze.formats.tensor_spec import TensorSpec
from squeeze.runtimes.base import GENERATE
from squeeze.targets.apps.picture import Picture, picture_of
from squeeze.targets.manifest import MEASUREMENTS, Manifest

TARGET = "mobile"
FOLDER = "app/"
LANGUAGES = {"kt": "Model.kt", "swift": "Model.swift"}
MEASURE, PHONE = "measure.sh", "phone.py"
APP_FILES = frozenset(FOLDER + name for name in (*LANGUAGES.values(), MEASURE, PHONE))
TOOLS = {  # the benchmark tool of each runtime, and how it is called
    "onnxruntime": ("onnxruntime_perf_test", "-I -s -m times -r $runs -x $threads $model"),
    "litert": ("benchmark_model", "--graph=$model --num_threads=$threads --num_runs=$runs --use_xnnpack=true"),
    "executorch": ("executor_runner", "--model_path=$model --num_executions=$runs --cpu_threads=$threads"),
}


@dataclass(frozen=True)
class Names:
    """One element type.

    Args:
        kotlin: Its array.
        buffer: The buffer of ``java.nio`` that ONNX Runtime takes.
        swift: The element of an array.
        ort: Its ``ORTTensorElementDataType``.
        litert: What ``TensorBuffer`` calls writing it.
    """

    kotlin: str
    buffer: str
    swift: str
    ort: str
    litert: str


DTYPES: Mapping[str, Names] = {
    "float32": Names("FloatArray", "FloatBuffer", "Float", "float", "writeFloat"),
    "int32": Names("IntArray", "IntBuffer", "Int32", "int32", "writeInt"),
    "int64": Names("LongArray", "LongBuffer", "Int64", "int64", "writeLong"),
}


@dataclass(frozen=True)
class Argument:
    """An input as a function of an app takes it.

    Args:
        parameter: What the function calls it.
        shape: Sizes as Kotlin and Swift write them; a free one follows from how many numbers there are.
    """

    spec: TensorSpec
    parameter: str
    shape: tuple[str, ...]

    @property
    def types(self) -> Names:
        """What its numbers are called in each language and runtime."""
        return DTYPES[self.spec.dtype]


def app_files(manifest: Manifest) -> dict[str, bytes]:
    """By their names in the package; none where the runtime has no examples or an input no type in them."""
    if manifest.target != TARGET:
        return {}
    arguments = list(_arguments(manifest))
    if len(arguments) < len(manifest.inputs) and manifest.task != GENERATE:
        return {}
    kind = f"{manifest.runtime.name}_text" if manifest.task == GENERATE else manifest.runtime.name
    values = {"m": manifest, "arguments": arguments, "output": manifest.outputs[0], "picture": _picture(manifest)}
    made = {FOLDER + name: _rendered(f"{kind}.{language}.j2", values) for language, name in LANGUAGES.items()}
    if manifest.runtime.name in TOOLS and manifest.task != GENERATE:
        tool, call = TOOLS[manifest.runtime.name]
        measured = {"m": manifest, "tool": tool, "call": call, "phone": PHONE, "measurements": MEASUREMENTS}
        made[FOLDER + MEASURE] = _rendered(f"{MEASURE}.j2", measured)
        made[FOLDER + PHONE] = resources("squeeze.targets.apps").joinpath(PHONE).read_text()
    return {name: text.encode() for name, text in sorted(made.items()) if text}


def _arguments(manifest: Manifest) -> Iterator[Argument]:
    if manifest.task == GENERATE:
        return  # a text's tokens, whose call the template knows
    for place, spec in enumerate(manifest.inputs):
        name = "input" if len(manifest.inputs) == 1 else f"input{place}"
        shape = _shape_of(spec, name)
        if spec.dtype in DTYPES and shape is not None:
            yield Argument(spec, name, shape)


def _shape_of(spec: TensorSpec, parameter: str) -> tuple[str, ...] | None:
    """The sizes of one example, the first of which counts examples; None where two of the others are free.

    One free size is what the parameter's numbers fill.
    """
    fixed = [size for size in spec.shape[1:] if isinstance(size, int)]
    if len(spec.shape) - 1 - len(fixed) > 1:
        return None
    rest = prod(fixed)
    count = f"{parameter}.SIZE" if rest == 1 else f"{parameter}.SIZE / {rest}"
    return ("1", *(str(size) if isinstance(size, int) else count for size in spec.shape[1:]))


def _picture(manifest: Manifest) -> Picture | None:
    one = manifest.inputs[0] if len(manifest.inputs) == 1 and manifest.task != GENERATE else None
    return picture_of(one, manifest.preprocessing) if one is not None else None


def _rendered(template: str, values: dict[str, Any]) -> str:
    """The text; nothing where there is no such template."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def source(name: str) -> str | None:
        file = resources("squeeze.targets.apps").joinpath(name)
        return file.read_text() if file.is_file() else None

    environment = Environment(
        loader=FunctionLoader(source), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"kotlin": kotlin, "swift": swift, "shell": shlex.quote, "line": _line}
    environment.keep_trailing_newline = True
    return "" if source(template) is None else environment.get_template(template).render(values)


def kotlin(text: object) -> str:
    """A string of Kotlin: names are anybody's, and may hold quotes, line breaks and templates."""
    return json.dumps(str(text)).replace("$", "\\$")


def swift(text: object) -> str:
    letters = (
        f"\\{one}" if one in '"\\' else one if " " <= one <= "~" else f"\\u{{{ord(one):x}}}" for one in str(text)
    )
    return f'"{"".join(letters)}"'


def _line(text: object) -> str:
    """Words for a comment: one line, and no end of a comment in it."""
    return printable(str(text)).replace("*/", "* /")
