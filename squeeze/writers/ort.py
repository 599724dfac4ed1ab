"""ONNX to ONNX Runtime's own format, which the small mobile builds load: optimized once, here, for ARM.

Equal models give equal bytes: the optimization level and the platform's switches are fixed, and no path is written.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from squeeze.errors import ModelError, all_lines
from squeeze.formats.ort_canonical import required_operators, sorted_resolver
from squeeze.models.onnx_model import OnnxModel
from squeeze.work import temporary_folder
from squeeze.writers.base import Writer

OPERATORS = "required_operators.config"


def write_ort(onnx_data: bytes, out: Path) -> None:
    """Optimize the graph and write it as ``.ort``.

    All optimizations run, as ONNX Runtime's own converter has it, but for the one that fits x86 only (NCHWc);
    signed 8-bit activations stay as they are, since ARM's kernels like them. The optimized graph is written as ONNX
    first and turned into ``.ort`` from there: in one step, what was optimized away leaves its descriptions behind, a
    tenth of a small file.

    Raises:
        ModelError: The runtime does not take the model.
    """
    with temporary_folder("ort") as folder:
        optimized = folder / "optimized.onnx"
        _convert(onnx_data, optimized, out.name, optimize=True)
        _convert(short_names(optimized.read_bytes()), out, out.name, optimize=False)
    out.write_bytes(sorted_resolver(out.read_bytes()))


def short_names(onnx_data: bytes) -> bytes:
    """An optimized graph whose inner values are called by their number, since names are stored again and again.

    Nodes, inputs and outputs keep theirs; shapes that the runtime infers are left out.
    """
    import onnx

    model = onnx.load_model_from_string(onnx_data)
    if any(attribute.HasField("g") or attribute.graphs for node in model.graph.node for attribute in node.attribute):
        return onnx_data  # a branch or a loop may read any value by its name
    del model.graph.value_info[:]
    names = {value.name: value.name for value in (*model.graph.input, *model.graph.output)}
    ends = frozenset(names)
    numbered = (f"v{number}" for number in count())
    new = (short for short in numbered if short not in ends)
    tensors = [tensor.name for tensor in model.graph.initializer]
    for name in (*tensors, *(name for node in model.graph.node for name in (*node.input, *node.output) if name)):
        if name not in names:
            names[name] = next(new)
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [name and names[name] for name in values]
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    return bytes(model.SerializeToString())


def _convert(onnx_data: bytes, out: Path, where: str, optimize: bool) -> None:
    """``out`` ends in ``.onnx`` or ``.ort``, which says the format; ``where`` names it in messages."""
    import onnxruntime as ort

    levels = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(out)
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4  # platform-dependent optimizations are chosen on purpose
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.save_model_format", out.suffix[1:].upper())
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    try:
        ort.InferenceSession(
            onnx_data, options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:  # ONNX Runtime's own exception classes share no base
        raise ModelError(f"{where}: ONNX Runtime cannot convert the model ({all_lines(error)})") from error


def operator_list(ort_file: Path) -> str:
    """The operators that the model needs, in the form that ONNX Runtime's ``--include_ops_by_config`` reads."""
    lines = [
        f"{domain};{opset};{','.join(sorted(operators))}"
        for domain, opsets in sorted(required_operators(ort_file.read_bytes()).items())
        for opset, operators in sorted(opsets.items())
    ]
    return "\n".join([f"# operators of {ort_file.name}", *lines]) + "\n"


class OrtWriter(Writer[OnnxModel]):
    """``model.ort``, and the list of operators for a runtime built with those only."""

    name = "ort"
    timed_as = "ort"

    def write(self, model: OnnxModel, folder: Path) -> Path:
        file = folder / "model.ort"
        write_ort(model.data, file)
        (folder / OPERATORS).write_text(operator_list(file))
        return file
