"""``squeeze inspect``: a model's graph."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from squeeze.cli.options import json_option, show_json
from squeeze.errors import ModelError, UsageError
from squeeze.formats.regular import require_regular

if TYPE_CHECKING:
    from squeeze.models.base import Model

EPILOG = """\b
Examples:
  squeeze inspect ./my-hugging-face-folder
  squeeze inspect model.onnx
  squeeze inspect digits-cnn
  squeeze inspect mymodels:resnet20 --input 3,32,32"""


@click.command("inspect", epilog=EPILOG)
@click.argument("model")
@click.option("--input", "shape", help="Shape of one example, as 3,32,32, where the model does not say it.")
@json_option
def command(model: str, shape: str | None, as_json: bool) -> None:
    """Show MODEL: a Hugging Face folder, a .onnx file, a plan (.yaml), module:factory, or a builtin.

    Layers with parameters, multiply-accumulates, bytes and their share, and which layers must be pruned together.
    No weights are loaded.
    """
    from squeeze.cli.show import show_model

    try:
        outline = _outline(model, _shape(shape))
        layers = outline.layers()
    except ModelError as error:
        raise UsageError(f"{model}: {error}") from error
    coupled = _coupled(outline)
    if as_json:
        rows = [asdict(layer) for layer in layers]
        show_json({"model": model, "form": outline.form, "layers": rows, "coupled": coupled})
    else:
        show_model(model, outline, coupled)


def _coupled(outline: Model) -> list[dict[str, Any]]:
    """Which layers lose outputs, and which inputs, when one of their channels goes."""
    from squeeze.models.torch_model import in_memory
    from squeeze.passes.prune.coupling import CouplingGraph
    from squeeze.passes.prune.materialize import materialized
    from squeeze.passes.prune.prune_channels import PruneChannels
    from squeeze.passes.prune.shortcuts import convolve_shortcuts

    if PruneChannels.gives(outline.form) is None:
        return []
    model = materialized(in_memory(outline))
    convolve_shortcuts(model)
    groups = CouplingGraph(model).coupled()
    return [
        {"channels": g.channels, "writers": g.writers, "readers": g.readers, "output": g.feeds_output} for g in groups
    ]


def _outline(model: str, shape: tuple[int, ...] | None) -> Model:
    from squeeze.api import load
    from squeeze.models.source import BUILTINS
    from squeeze.models.spec import ModelSpec
    from squeeze.plan.check import example_shapes

    path = Path(model)
    require_regular(path, UsageError)
    if path.suffix in (".yaml", ".yml"):
        plan = load(path)
        if plan.model is None:
            raise UsageError(f"{model}: the plan names no model")
        return plan.model.outline(plan.root, example_shapes(plan))
    if path.suffix in (".onnx", ".gguf") and path.is_file():
        spec = ModelSpec(onnx=model) if path.suffix == ".onnx" else ModelSpec(gguf=model)
    elif path.is_dir():
        spec = ModelSpec(hf=model, input=shape)
    elif ":" in model:
        if shape is None:
            raise UsageError(f"{model}: the shape of one example is not known; --input 3,32,32 would say it")
        spec = ModelSpec(module=model, input=shape)
    elif model in BUILTINS:
        spec = ModelSpec(builtin=model)
    else:
        known = f"plan, module:factory or builtin ({', '.join(BUILTINS)})"
        raise UsageError(f"{model}: no such folder, .onnx or .gguf file, {known}")
    return spec.outline(Path.cwd())


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    whole = len(parts) <= 8 and all(part.strip().isdecimal() and len(part) < 10 for part in parts)
    if not whole or not 0 < math.prod(map(int, parts)) <= 10**9:
        raise UsageError(f"--input {text[:40]}: not a shape; 3,32,32 would be one")
    return tuple(int(part) for part in parts)
