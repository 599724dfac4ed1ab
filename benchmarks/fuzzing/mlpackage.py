"""Packages of Core ML: their protobuf, their blobs, their list."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.fuzzing.door import Door
from benchmarks.fuzzing.models import OnnxDoor
from benchmarks.fuzzing.mutate import json_text, some_bytes, some_file, some_json
from squeeze.algorithms.affine import quantize_symmetric
from squeeze.formats.mil_arithmetic import computed
from squeeze.formats.mlpackage import MANIFEST, MODEL, PACKAGE, WEIGHTS, coremltools, read_mlpackage
from squeeze.formats.onnx_grid import store_grid
from squeeze.formats.onnx_layer import weight_matrix
from squeeze.models.onnx_model import OnnxModel
from squeeze.writers.coreml import CoreMlWriter

NUMBERS = (0, 1, 3, 63, 64, 128, 2**20, 2**31 - 1, 2**40, 2**62)
KINDS = ("conv", "linear", "const", "pad", "reshape", "custom_layer", "while_loop", "constexpr_lut_to_dense", "")


class MlPackageDoor(Door):
    name = "mlpackage"

    def write(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            OnnxDoor().write(Path(work))
            graph_model = OnnxModel.from_file(Path(work) / "m.onnx").copy_ir()
        for node in list(graph_model.graph):
            if node.op_type == "Conv":
                store_grid(node, quantize_symmetric(weight_matrix(node), 8))
        CoreMlWriter().write(OnnxModel(graph_model), folder)

    def spoil(self, random: Random, folder: Path) -> bool:
        changes = {MODEL: self._change, WEIGHTS: some_bytes, MANIFEST: self._list}
        name = random.choice((MODEL, MODEL, MODEL, WEIGHTS, MANIFEST))
        return some_file(random, folder / PACKAGE / name, changes[name])

    def enter(self, folder: Path) -> object:
        return computed(read_mlpackage(folder / PACKAGE), {"image": np.ones((1, 3, 6, 6), np.float32)})

    def _list(self, random: Random, data: bytes) -> bytes:
        return json_text(random, some_json(random, json.loads(data)))

    def _change(self, random: Random, data: bytes) -> bytes:
        if random.random() < 0.4:
            return some_bytes(random, data)
        model = coremltools().proto.Model_pb2.Model.FromString(data)
        (block,) = model.mlProgram.functions["main"].block_specializations.values()
        for _ in range(random.choice((1, 1, 3))):
            self._change_part(random, block.operations, random.choice(block.operations))
        return bytes(model.SerializeToString())

    def _change_part(self, random: Random, operations: Any, operation: Any) -> None:
        kind = random.randrange(7)
        if kind == 0:
            operation.type = random.choice(KINDS)
        elif kind == 1:
            operations.append(operation)
        elif kind == 2 and len(operations) > 1:
            operations.remove(operation)
        elif kind == 3 and operation.inputs:
            argument = operation.inputs[random.choice(sorted(operation.inputs))]
            argument.arguments[0].name = random.choice(operations).outputs[0].name
        elif kind == 4:
            dimensions = operation.outputs[0].type.tensorType.dimensions
            if dimensions:
                random.choice(dimensions).constant.size = random.choice(NUMBERS)
        elif operation.attributes:
            self._change_value(random, operation.attributes[random.choice(sorted(operation.attributes))])

    def _change_value(self, random: Random, value: Any) -> None:
        kind, tensor = random.randrange(4), value.type.tensorType
        if kind == 0:
            value.blobFileValue.offset = random.choice(NUMBERS)
        elif kind == 1:
            value.blobFileValue.fileName = random.choice(("", "/dev/zero", "@model_path/weights/weight.bin"))
        elif kind == 2:
            tensor.dataType = random.choice((0, 1, 2, 11, 12, 14, 21, 22, 25, 31))
        elif tensor.dimensions:
            random.choice(tensor.dimensions).constant.size = random.choice(NUMBERS)
