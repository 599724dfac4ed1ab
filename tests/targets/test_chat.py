"""``python run.py --chat`` answers as transformers does with the model's own chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from language_world import write_folder
from package_script import run_script, unpacked
from test_language_packages import pieces, write_bpe_tokenizer

from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.targets.cpu import Cpu

TEMPLATE = """\
{%- for message in messages -%}<{{ message.role }}>{{ message['content'] }}{{ eos_token }}{%- endfor -%}
{%- if add_generation_prompt -%}<assistant>{%- endif -%}"""
ASKED = ["who are you", "why"]


def write_chatty(folder: Path, eos: int | None = None) -> Path:
    """A tiny Llama of printable tokens with a chat template; ``eos``: the token that ends an answer."""
    write_folder(folder, max_position_embeddings=512)
    write_bpe_tokenizer(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    config = folder / "config.json"
    values = json.loads(config.read_text()) | {"eos_token_id": eos}
    config.write_text(json.dumps(values))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    return folder


def answers_of_transformers(folder: Path, most: int) -> list[str]:
    """What stock transformers says to each message, greedily, the conversation so far before it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    messages: list[dict[str, str]] = []
    for text in ASKED:
        messages.append({"role": "user", "content": text})
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        result = model.generate(**prompt, max_new_tokens=most, do_sample=False, pad_token_id=0)[0]
        new = result[prompt["input_ids"].shape[1] :].tolist()
        if new[-1] == model.generation_config.eos_token_id:
            del new[-1]
        messages.append({"role": "assistant", "content": tokenizer.decode(new)})
    return [message["content"] for message in messages if message["role"] == "assistant"]


def chat(folder: Path, most: int) -> list[str]:
    """The package's own script, in a process that knows nothing of Squeeze."""
    question = "\n".join([*ASKED, ""]) + "\n"
    done = run_script(folder, "--chat", "--tokens", most, input=question, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.removeprefix("> ").removesuffix("\n> ").split("\n> ")


def packed(model: LanguageModel, folder: Path) -> Path:
    folder.mkdir()
    package = Cpu().pack(ExportOnnx().run(model, Context()), pieces(), folder / "tiny.zip")
    return unpacked(package.path, folder)


def test_a_chat_is_the_one_that_transformers_has(tmp_path: Path) -> None:
    model = write_chatty(tmp_path / "model")
    expected = answers_of_transformers(model, 50)
    assert min(map(len, expected)) >= 50
    assert chat(packed(LanguageModel(model), tmp_path / "package"), 50) == expected


def test_an_answer_ends_where_the_model_ends_it(tmp_path: Path) -> None:
    free = answers_of_transformers(write_chatty(tmp_path / "free"), 20)[0]
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "free")
    ending = tokenizer.encode(free, add_special_tokens=False)[9]
    model = write_chatty(tmp_path / "model", ending)
    expected = answers_of_transformers(model, 20)
    assert len(expected[0]) < len(free)
    assert chat(packed(LanguageModel(model), tmp_path / "package"), 20) == expected


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{{ messages.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}", "the chat template fails"),
        ("{{ nothing.at.all }}", "the chat template fails"),
        ("{% for %}", "the chat template fails"),
        (None, "the model has no chat template; give a text to continue instead"),
    ],
    ids=["reaches for Python", "an unknown name", "no template at all", "missing"],
)
def test_a_template_that_cannot_serve_is_one_line(tmp_path: Path, template: str | None, line: str) -> None:
    from squeeze.targets.scripts.shared import Fault
    from squeeze.targets.scripts.tokens import TextPackage

    package = TextPackage.__new__(TextPackage)
    package.model = tmp_path
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(Fault, match=line):
        package.encode_chat([{"role": "user", "content": "hi"}])
