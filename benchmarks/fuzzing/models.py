"""Models: ONNX files, folders of Hugging Face, packed checkpoints, configs of runtimes."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import onnx
import transformers
from language_world import write_folder, write_tokenizer
from onnx import TensorProto, helper, numpy_helper

from benchmarks.fuzzing import TESTS
from benchmarks.fuzzing.door import Door
from benchmarks.fuzzing.mutate import json_text, some_bytes, some_file, some_json
from squeeze.data.text import TextData
from squeeze.formats import compressed_tensors_config
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.onnx_model import OnnxModel
from squeeze.targets.configs import GENAI, check_config, genai_bytes

OPERATORS = ("Loop", "If", "ConstantOfShape", "Tile", "Range", "QLinearConv", "", "x" * 300)
VALUES = ("m.onnx", "../x", "", "0", "40", "-1", "x" * 300)  # of external data
transformers.LlamaForCausalLM, transformers.PreTrainedTokenizerFast  # noqa: B018, imported once, not by each process
AUTOGPTQ = TESTS / "formats" / "autogptq" / "act-order"


class OnnxDoor(Door):
    name = "onnx"

    def write(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        weights = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 4), "b2": (4,)}
        nodes = [
            helper.make_node("Conv", ["image", "w1", "b1"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], "gemm"),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 6, 6])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
            [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        (folder / "m.onnx").write_bytes(model.SerializeToString(deterministic=True))

    def spoil(self, random: Random, folder: Path) -> bool:
        return some_file(random, folder / "m.onnx", self._change)

    def enter(self, folder: Path) -> object:
        return OnnxModel.from_file(folder / "m.onnx").layers()

    def _change(self, random: Random, data: bytes) -> bytes:
        if random.random() < 0.4:
            return some_bytes(random, data)
        model = onnx.ModelProto.FromString(data)
        for _ in range(random.choice((1, 1, 3))):
            self._change_part(random, model)
        return bytes(model.SerializeToString())

    def _change_part(self, random: Random, model: Any) -> None:
        graph = model.graph
        tensor, node = random.choice(graph.initializer), random.choice(graph.node)
        value = random.choice((*graph.input, *graph.output))
        kind = random.randrange(9)
        if kind == 0:
            tensor.dims[:] = [random.choice((-1, 0, 3, 10**6, 2**40, 2**62)) for _ in range(random.randrange(5))]
        elif kind == 1:
            tensor.data_type = random.randrange(40)
        elif kind == 2:
            tensor.data_location = TensorProto.EXTERNAL
            for key in ("location", "offset", "length"):
                tensor.external_data.add(
                    key=key, value=random.choice(("m.onnx", "../x", "", "0", "40", "-1", "x" * 300))
                )
        elif kind == 3:
            node.op_type = random.choice(
                ("Loop", "If", "ConstantOfShape", "Tile", "Range", "QLinearConv", "", "x" * 300)
            )
        elif kind == 4:
            node.input[:] = [
                random.choice(("image", "w1", "c", "logits", "gone", "")) for _ in range(random.randrange(6))
            ]
        elif kind == 5:
            value.type.tensor_type.elem_type = random.randrange(30)
        elif kind == 6:
            value.type.tensor_type.shape.dim[0].dim_value = random.choice((-1, 0, 2**40, 2**62))
        elif kind == 7:
            model.opset_import[0].version = random.choice((-1, 0, 1, 7, 99, 2**40))
        else:
            node.attribute.append(
                helper.make_attribute(random.choice(("axis", "pads", "group")), random.choice((-9, 2**40)))
            )


class LanguageDoor(Door):
    """A tiny Llama in a folder; ``file`` is what is spoiled."""

    file: ClassVar[str]

    def write(self, folder: Path) -> None:
        with redirect_stderr(io.StringIO()):
            write_folder(folder, vocab_size=32, hidden_size=16, intermediate_size=24)
        write_tokenizer(folder)

    def spoil(self, random: Random, folder: Path) -> bool:
        return some_file(random, folder / self.file, self._change)

    def enter(self, folder: Path) -> object:
        return LanguageModel(folder).layers()

    def _change(self, random: Random, data: bytes) -> bytes:
        return json_text(random, json.loads(data))


class ConfigDoor(LanguageDoor):
    name, file = "config", "config.json"


class SafetensorsDoor(LanguageDoor):
    name, file, share = "safetensors", "model.safetensors", 0.5

    def _change(self, random: Random, data: bytes) -> bytes:
        if random.random() < 0.5:
            return some_bytes(random, data[:4096]) + data[4096:]
        length = int.from_bytes(data[:8], "little")
        header = json_text(random, json.loads(data[8 : 8 + length]))
        return len(header).to_bytes(8, "little") + header + data[8 + length :]


class TokenizerDoor(LanguageDoor):
    name, file = "tokenizer", "tokenizer.json"

    def spoil(self, random: Random, folder: Path) -> bool:
        file = folder / random.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json"))
        some_file(random, file, self._change)
        (folder / "a.txt").write_text("some words of a text.\n" * 20)
        return False

    def enter_good(self, folder: Path) -> None:
        (folder / "a.txt").write_text("some words of a text.\n" * 20)
        self.enter(folder)

    def enter(self, folder: Path) -> object:
        return TextData(text="a.txt", length=8).open(folder, folder)


class GenaiDoor(Door):
    """The config of ONNX Runtime GenAI in a package."""

    name = "genai"

    def write(self, folder: Path) -> None:
        caches = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
        present = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
        sizes = dict.fromkeys(("head_size", "num_key_value_heads", "num_attention_heads"), 4)
        decoder = {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            **sizes,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask"} | caches,
            "outputs": {"logits": "logits"} | present,
        }
        model = {"type": "decoder", "vocab_size": 32, "context_length": 64, "decoder": decoder}
        model |= {"eos_token_id": 1, "pad_token_id": 1}
        search = {"do_sample": False, "max_length": 64, "past_present_share_buffer": True}
        (folder / GENAI).write_bytes(genai_bytes({"model": model, "search": search}))

    def spoil(self, random: Random, folder: Path) -> bool:
        file = folder / GENAI
        if random.random() < 0.2:
            values = json.loads(file.read_bytes())
            self._forbidden(random, values)
            file.write_bytes(genai_bytes(values))
            return True
        spelled = random.random() < 0.7  # as our exports write it, so that more than the spelling is judged
        change = json.loads(file.read_bytes())
        file.write_bytes(genai_bytes(some_json(random, change)) if spelled else json_text(random, change))
        return False

    def enter(self, folder: Path) -> object:
        return check_config(folder / GENAI, f"package: {GENAI}")

    def _forbidden(self, random: Random, values: Any) -> None:
        """What makes GenAI load a library, or write or read another file."""
        options = values["model"]["decoder"]["session_options"]
        holder = random.choice((values, values["model"], values["model"]["decoder"], options, values["search"]))
        key = random.choice(("custom_ops_library", "enable_profiling", "config_entries", "ep_context_file_path"))
        holder[key] = random.choice(("libevil.so", "../../x", {"session.load": "1"}))


class PackedDoor(Door):
    """GPTQ's own checkpoint, or the config of compressed-tensors."""

    name, share = "packed", 0.1

    def write(self, folder: Path) -> None:
        shutil.copytree(AUTOGPTQ, folder, dirs_exist_ok=True)
        weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
        group = {"targets": ["re:.*proj$", "Linear"], "weights": weights, "format": "pack-quantized"}
        (folder / "packed.json").write_text(
            json.dumps({"config_groups": {"group_0": group}, "format": "pack-quantized"})
        )

    def spoil(self, random: Random, folder: Path) -> bool:
        names = [path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")]
        return some_file(random, folder / random.choice(names), self._change) and False

    def enter(self, folder: Path) -> object:
        values = json.loads((folder / "packed.json").read_text()) if (folder / "packed.json").is_file() else {}
        if isinstance(values, dict):
            config = compressed_tensors_config.read_config(values)
            config.of("model.layers.0.mlp.down_proj")
        model = LanguageModel(folder)
        return [model.tensor(name) for name in list(model.grid)[:2]]

    def _change(self, random: Random, data: bytes) -> bytes:
        if data[:1] != b"{":
            return some_bytes(random, data[:4096]) + data[4096:]
        values = json.loads(data)
        if random.random() < 0.3:
            values["dynamic"] = {f"+:{self._pattern(random)}": {"bits": random.choice((4, 7, 4.0))}}
            values["bits"] = 4
        return json.dumps(some_json(random, values) if random.random() < 0.7 else values).encode()

    def _pattern(self, random: Random) -> str:
        return "".join(random.choices(("(", ")", "a+", ".*", "$", "{9,999}", "(?!", "\\1", "[", "model", "|"), k=6))
