"""ONNX to ONNX Runtime's own format, which the small mobile builds load: optimized once, here, for ARM.

Equal models give equal bytes: the optimization level and the platform's switches are fixed, and no path is written.
"""

from __future__ import annotations

from pathlib import Path

from squeeze.errors import ModelError
from squeeze.formats.ort_canonical import required_operators, sorted_resolver
from squeeze.models.onnx_model import OnnxModel
from squeeze.writers.base import Writer

OPERATORS = "required_operators.config"


def write_ort(onnx_data: bytes, out: Path) -> None:
    """Optimize the graph and write it as ``.ort``.

    All optimizations run, as ONNX Runtime's own converter has it, but for the one that fits x86 only (NCHWc);
    signed 8-bit activations stay as they are, since ARM's kernels like them.

    Raises:
        ModelError: The runtime does not take the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(out)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # platform-dependent optimizations are chosen on purpose
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    try:
        ort.InferenceSession(
            onnx_data, options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:  # ONNX Runtime's own exception classes share no base
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{out.name}: ONNX Runtime cannot convert the model ({reason})") from error
    out.write_bytes(sorted_resolver(out.read_bytes()))


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

    def write(self, model: OnnxModel, folder: Path) -> Path:
        file = folder / "model.ort"
        write_ort(model.data, file)
        (folder / OPERATORS).write_text(operator_list(file))
        return file
