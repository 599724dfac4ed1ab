"""A Core ML ``.mlpackage`` read back: what goes in and out, constants, operations; by coremltools' own readers.

What is read is data: nothing is run or compiled, and Core ML itself is not needed. How such a package is written is the
business of ``squeeze.writers``.
"""

from __future__ import annotations

import logging
import warnings
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.errors import ModelError, all_lines
from squeeze.formats.mil_program import CONSTANT, WIDTHS, Operation, Program
from squeeze.formats.regular import parse_json, require_regular
from squeeze.formats.tensor_spec import TensorSpec

PACKAGE = "model.mlpackage"
DATA = "Data/com.apple.CoreML"
MODEL = f"{DATA}/model.mlmodel"
WEIGHTS = f"{DATA}/weights/weight.bin"
MANIFEST = "Manifest.json"
STORED_WEIGHTS = "@model_path/weights/weight.bin"  # how a model calls the file of its weights
ARRAYS = {
    "FLOAT16": np.float16,
    "FLOAT32": np.float32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT4": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
}
BLOBS = {"FLOAT16": "fp16", "FLOAT32": "float", "INT8": "int8", "UINT8": "uint8", "INT4": "int4"}  # file of weights
Array = np.ndarray[Any, Any]


def coremltools() -> Any:
    """The package, imported without its lines about versions of other packages and about macOS.

    It imports ExecuTorch where that is installed, and no user can act on what that warns of its own code.
    """
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import coremltools
    finally:
        logger.setLevel(before)
    return coremltools


def root_of(file: Path) -> Path:
    """The ``.mlpackage`` folder that a model's file lies in."""
    return file.parents[len(Path(MODEL).parts) - 1]


def read_mlpackage(folder: Path) -> Program:
    """Read a ``.mlpackage`` folder and check that its parts fit together.

    Raises:
        ModelError: it is none, or something in it does not fit; in one line.
    """
    try:
        return _read(folder)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except Exception as error:  # protobuf's and the blob reader's exceptions share no base
        raise ModelError(f"{folder}: not a Core ML package that can be read ({all_lines(error)})") from error


def _read(folder: Path) -> Program:
    for name in (MANIFEST, MODEL, WEIGHTS):
        require_regular(folder / name)
    _require_manifest(folder / MANIFEST)
    tools = coremltools()
    model = tools.proto.Model_pb2.Model()
    model.ParseFromString((folder / MODEL).read_bytes())
    if model.WhichOneof("Type") != "mlProgram" or list(model.mlProgram.functions) != ["main"]:
        raise ModelError("holds no program with the one function 'main'; an ML program would be right")
    fed, given = model.description.input, model.description.output
    program = Program(tuple(map(_described, fed)), tuple(map(_described, given)))
    reader = _Reader(program, folder / WEIGHTS)
    function = model.mlProgram.functions["main"]
    (block,) = function.block_specializations.values()
    for value in function.inputs:
        reader.define(value.name)
    for operation in block.operations:
        reader.add(operation)
    for name in (*block.outputs, *(spec.name for spec in program.outputs)):
        reader.require(name, "the outputs")
    return program


def _require_manifest(file: Path) -> None:
    """Core ML loads what the package's own list calls its root: it must be the file that is read here."""
    values = parse_json(file.read_text())
    root = values["itemInfoEntries"][values["rootModelIdentifier"]]["path"]
    if root != Path(MODEL).relative_to("Data").as_posix():
        raise ModelError(f"{MANIFEST} calls {root!r} the model; {Path(MODEL).relative_to('Data')} would be right")


class _Reader:
    def __init__(self, program: Program, weights: Path) -> None:
        from coremltools.libmilstoragepython import _BlobStorageReader

        self.program, self.known = program, set[str]()
        self.blobs = _BlobStorageReader(str(weights)) if weights.is_file() else None

    def define(self, name: str) -> None:
        """Note a value; raises ``ModelError`` where there is one of that name already."""
        if name in self.known:
            raise ModelError(f"'{name}' is defined twice")
        self.known.add(name)

    def require(self, name: str, reader: str) -> None:
        """Raise ``ModelError`` where no value of that name is known yet."""
        if name not in self.known:
            raise ModelError(f"{reader}: '{name}' is read and not defined before")

    def add(self, operation: Any) -> None:
        if operation.blocks or len(operation.outputs) != 1:
            raise ModelError(f"{operation.type} with programs of its own, or not one output; Squeeze writes none such")
        output = operation.outputs[0]
        if operation.type == CONSTANT:
            self._constant(output.name, operation.attributes["val"])
            return
        reads = {name: self._bound(output.name, name, argument) for name, argument in operation.inputs.items()}
        for name, value in operation.attributes.items():
            if name != "name":
                reads[name] = (self._own(output.name, name, value),)
        self.define(output.name)
        shape, dtype = _shape(output.type.tensorType), _dtype(output.type.tensorType)
        self.program.operations.append(Operation(operation.type, output.name, shape, dtype, reads))

    def _bound(self, output: str, parameter: str, argument: Any) -> tuple[str, ...]:
        names = []
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                names.append(self._own(output, parameter, binding.value))
            else:
                self.require(binding.name, output)
                names.append(binding.name)
        return tuple(names)

    def _own(self, output: str, parameter: str, value: Any) -> str:
        """A constant that stands in its operation."""
        name = f"{output}.{parameter}"
        self._constant(name, value)
        return name

    def _constant(self, name: str, value: Any) -> None:
        self.define(name)
        self.program.dtypes[name] = _dtype(value.type.tensorType)
        self.program.constants[name] = self._value(name, value)

    def _value(self, name: str, value: Any) -> Any:
        tensor = value.type.tensorType
        dtype, shape = _dtype(tensor), _shape(tensor)
        if value.WhichOneof("value") == "blobFileValue":
            if value.blobFileValue.fileName != STORED_WEIGHTS:
                where = f"lies in {value.blobFileValue.fileName!r}; {STORED_WEIGHTS} would be right"
                raise ModelError(f"'{name}' {where}")
            if self.blobs is None or dtype not in BLOBS:
                raise ModelError(f"'{name}' of {dtype} lies in a file of weights that is not there or not readable")
            array = np.asarray(getattr(self.blobs, f"read_{BLOBS[dtype]}_data")(value.blobFileValue.offset))
            array = array.view(np.float16) if dtype == "FLOAT16" else array
        else:
            stored = value.immediateValue.tensor
            kind = stored.WhichOneof("value")
            if dtype == "STRING":
                return str(stored.strings.values[0])
            values = getattr(stored, kind).values
            array = _from_bytes(values, dtype, shape) if kind == "bytes" else np.array(values)
        if array.size != (count := prod(shape)):
            raise ModelError(f"'{name}' holds {array.size} numbers; its shape {list(shape)} wants {count}")
        return array.astype(ARRAYS[dtype]).reshape(shape)


def _from_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    """Numbers of a byte or of half a byte, the lower half first."""
    if WIDTHS.get(dtype) != 4:
        return np.frombuffer(data, ARRAYS[dtype])
    halves = np.frombuffer(data, np.uint8)
    both = np.stack([halves & 15, halves >> 4], axis=1).reshape(-1)[: prod(shape)].astype(np.int8)
    return np.where(both > 7, both - 16, both)


def _described(feature: Any) -> TensorSpec:
    """An input or output of the model; raises ``ModelError`` where it is of a kind that is not written here."""
    if feature.type.WhichOneof("Type") != "multiArrayType":
        raise ModelError(f"'{feature.name}' is no array of numbers; a multiArrayType would be right")
    array = feature.type.multiArrayType
    dtype = {65552: "float16", 65568: "float32"}.get(array.dataType)
    if dtype is None:
        raise ModelError(f"'{feature.name}' is of another type than FLOAT16 or FLOAT32")
    return TensorSpec(name=feature.name, shape=tuple(int(size) for size in array.shape), dtype=dtype)


def _dtype(tensor: Any) -> str:
    """As the format calls it."""
    field_ = tensor.DESCRIPTOR.fields_by_name["dataType"]
    return str(field_.enum_type.values_by_number[tensor.dataType].name)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(each.constant.size) for each in tensor.dimensions)
