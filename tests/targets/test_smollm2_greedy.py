"""SmolLM2-135M in float32: 50 tokens, each the likeliest, are transformers' own in every runtime of a phone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from language_world import in_shards
from package_script import run_script, unpacked
from test_language_packages import needs, pieces

from squeeze.models.language.language_model import LanguageModel
from squeeze.models.spec import ModelSpec
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.targets.base import Target
from squeeze.targets.genai import Genai
from squeeze.targets.gguf import Gguf
from squeeze.targets.mobile import Mobile

pytestmark = pytest.mark.slow
PROMPT, TOKENS, CONTEXT = "The old lighthouse keeper looked at the sea and", 50, 256


@pytest.fixture(scope="module")
def model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The file's weights as float32."""
    folder = tmp_path_factory.mktemp("smollm2")
    return in_shards(ModelSpec(gguf=str(smollm2), dtype="float32").read(folder, None))


@pytest.fixture(scope="module")
def expected(model: LanguageModel) -> str:
    """What stock transformers writes behind the prompt."""
    import transformers

    whole = transformers.AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model.folder)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    result = whole.generate(**prompt, max_new_tokens=TOKENS, do_sample=False, repetition_penalty=1.0)[0]
    new = result[prompt["input_ids"].shape[1] :].tolist()
    assert len(new) == TOKENS, "the model ends its text too early for this prompt"
    return str(tokenizer.decode(new))


@pytest.mark.parametrize(
    ("target", "modules"),
    [
        pytest.param(Gguf(), ("gguf", "llama_cpp"), id="gguf"),
        pytest.param(Genai(), ("onnxruntime_genai",), id="genai"),
        pytest.param(Mobile(runtime="executorch", context=CONTEXT), ("executorch",), id="pte"),
    ],
)
def test_a_package_writes_what_transformers_writes(
    target: Target[Any], modules: tuple[str, ...], model: LanguageModel, expected: str, tmp_path: Path
) -> None:
    needs(*modules)
    given = ExportOnnx(length=CONTEXT).run(model, Context()) if isinstance(target, Genai) else model
    packed = target.pack(given, pieces(), tmp_path / "smollm2.zip")
    folder = unpacked(packed.path, tmp_path / "unpacked")
    done = run_script(folder, PROMPT, "--tokens", TOKENS, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["tokens"], answer["text"]) == (TOKENS, expected)
