"""A perplexity named by a convention is what that convention's own code gives with plain float32 transformers."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from language_world import open_with_bos, write_folder, write_tokenizer
from tiny import faults

from squeeze.api import compress, load
from squeeze.data.text import TextData, TokenDataset
from squeeze.data.windows import WindowDataset
from squeeze.errors import DataError
from squeeze.evaluate.endings import score_endings
from squeeze.evaluate.perplexity import BitsPerByte, Perplexity, TextMetric
from squeeze.evaluate.tokens import score_tokens
from squeeze.evaluate.windows import WindowScores
from squeeze.models.language.language_model import LanguageModel
from squeeze.progress import Progress
from squeeze.report.markdown import markdown_report
from squeeze.run.reporting import report_of

FOX = " \n = fox = \n \n the quick brown fox jumps.\n over the lazy dog.\n"
TEXT = 2 * (FOX + " \n = dog = \n \n a lazy dog; d\u00e9j\u00e0 vu.\n")


@pytest.fixture(params=["BOS", "no BOS"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    write_tokenizer(write_folder(tmp_path / "model"))
    if request.param == "BOS":
        open_with_bos(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


class Plain:
    """transformers and its tokenizer, and nothing of ours."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)

    def nll(self, read: list[int], targets: list[int]) -> float:
        """Of the last tokens that are asked for, in nats."""
        with torch.no_grad():
            logits = self.model(torch.tensor([read])).logits[0, -len(targets) :]
        return float(torch.nn.functional.cross_entropy(logits.double(), torch.tensor(targets), reduction="sum"))


def gptq(plain: Plain, text: str, length: int) -> float:
    """GPTQ's llama_eval on rows as datasets.load_dataset("wikitext") gives them."""
    rows = [line + "\n" if line.strip() else "" for line in text.split("\n")[:-1]]
    tokens = plain.tokenizer("\n\n".join(rows))["input_ids"]
    count, nlls = len(tokens) // length, []
    for index in range(count):
        window = tokens[index * length : (index + 1) * length]
        nlls.append(plain.nll(window[:-1], window[1:]) / (length - 1) * length)
    return math.exp(sum(nlls) / (count * length))


def llama_cpp(plain: Plain, text: str, length: int) -> float:
    """perplexity() of llama.cpp: the first half of each chunk is context."""
    tokens, first = plain.tokenizer(text.removesuffix("\n"))["input_ids"], length // 2
    adds_bos = plain.tokenizer("a")["input_ids"][0] == plain.tokenizer.bos_token_id
    total, count = 0.0, 0
    for start in range(0, len(tokens) - length + 1, length):
        chunk = tokens[start : start + length]
        if adds_bos:
            chunk[0] = plain.tokenizer.bos_token_id
        total += plain.nll(chunk[:-1], chunk[first + 1 :])
        count += length - first - 1
    return math.exp(total / count)


def lm_eval(plain: Plain, text: str, length: int) -> float:
    """word_perplexity of loglikelihood_rolling over the documents."""
    documents = [part for part in re.split(r"\n(?= = \w+ = \n)", text) if part.strip()]
    total, words = 0.0, 0
    for document in documents:
        tokens = plain.tokenizer(document, add_special_tokens=False)["input_ids"]
        bos, eos = plain.tokenizer.bos_token_id, plain.tokenizer.eos_token_id
        prefix = eos if bos is None else bos
        first = min(length, len(tokens))
        total += plain.nll([prefix, *tokens[: first - 1]], tokens[:first])
        while first < len(tokens):
            count = min(len(tokens) - first, length)
            end = first + count
            total += plain.nll(tokens[end - length - 1 : end - 1], tokens[first:end])
            first = end
        words += len(re.split(r"\s+", document))
    return math.exp(total / words)


def opened(folder: Path, length: int = 16) -> TokenDataset:
    return TextData(text="text.txt", length=length).open(folder, folder / "model")


def windows(folder: Path, metric: TextMetric) -> WindowDataset:
    data = metric.cut(opened(folder))
    assert isinstance(data, WindowDataset)
    return data


def scored(folder: Path, metric: TextMetric) -> tuple[float, WindowDataset]:
    data = windows(folder, metric)
    scores = WindowScores.of(score_endings(LanguageModel(folder / "model"), data, Progress(), "score"), data)
    mean = metric.values(scores, None, scores).mean(keepdims=True)
    return float(metric.shown(mean)[0]), data


@pytest.mark.parametrize("theirs", [gptq, llama_cpp, lm_eval])
@pytest.mark.parametrize("length", [16, 21])
def test_a_convention_gives_what_its_own_code_gives(folder: Path, theirs: Any, length: int) -> None:
    convention = {"gptq": "gptq", "llama_cpp": "llama.cpp", "lm_eval": "lm-eval"}[theirs.__name__]
    ours, _ = scored(folder, Perplexity(convention=convention, length=length))  # type: ignore[arg-type]
    assert ours == pytest.approx(theirs(Plain(folder / "model"), TEXT, length), rel=1e-4)


def test_what_is_cut_says_context_stride_bos_and_tokens(folder: Path) -> None:
    bos = "BOS" if opened(folder).name.endswith("BOS") else ""
    names = [windows(folder, Perplexity(convention=c)).name for c in ("gptq", "llama.cpp", "lm-eval")]
    assert names == [
        f"text:text.txt, gptq: context 16, stride 16, {'BOS once' if bos else 'no BOS'}",
        f"text:text.txt, llama.cpp: context 16, stride 16, {'BOS in each' if bos else 'no BOS'}, second halves scored",
        f"text:text.txt, lm-eval: context 16, stride 16, {bos or 'EOS'} before each document",
    ]
    assert windows(folder, Perplexity(convention="gptq")).scored_tokens % 15 == 0
    first = windows(folder, Perplexity(convention="llama.cpp", limit=2))
    assert first.scored_tokens == 14
    assert first.name.endswith(", the first 2 of 12")


def test_bits_per_byte_count_the_bytes_of_what_is_scored(folder: Path) -> None:
    bits, data = scored(folder, BitsPerByte(convention="lm-eval"))
    per_byte, _ = scored(folder, Perplexity(convention="lm-eval", per="byte"))
    assert bits == pytest.approx(math.log2(per_byte))
    assert sum(one.size_bytes or 0 for one in data.windows) == len(TEXT.encode()) - TEXT.count("\n = ") - 1


def test_bits_per_byte_of_the_plans_own_cut_are_those_of_its_text(folder: Path) -> None:
    data = opened(folder, 9)
    scores = score_tokens(LanguageModel(folder / "model"), data, folder, None, Progress(), "score")
    assert data.size_bytes is not None
    bits = BitsPerByte().values(scores, None, scores).mean()
    assert bits == pytest.approx(scores.nll.sum() / np.log(2) / data.size_bytes.sum(), rel=1e-5)
    assert (data.size_bytes >= 8).all()
    assert data.size_bytes.sum() > 8 * len(data)  # accents take two bytes


PLAN = """\
model: {hf: ./model}
data: {evaluate: {text: text.txt, length: 16}}
metrics: METRICS
passes: [{pass: rtn, bits: 2, group_size: 16}]
"""


def test_a_run_shows_each_convention_with_its_cut(tmp_path: Path) -> None:
    write_tokenizer(write_folder(tmp_path / "model"))
    (tmp_path / "text.txt").write_text(TEXT)
    metrics = "[perplexity, kl, flips, {perplexity: {convention: llama.cpp}}, {bits_per_byte: {convention: llama.cpp}}]"
    (tmp_path / "plan.yaml").write_text(PLAN.replace("METRICS", metrics))
    run = compress(load(tmp_path / "plan.yaml"), store=tmp_path / "store")
    text = markdown_report(report_of(run, tmp_path))
    assert re.search(
        r"perplexity:llama.cpp: 12 examples of text:text.txt, llama.cpp: context 16, .* 84 tokens sc", text
    )
    assert "Scored in torch: float32 activations, head and logits: original, rtn." in text
    assert re.search(r"KL floor \d\.\de-\d\d: what an unchanged model reads on this host", text)
    assert re.search(r"\| rtn \| flips \|.*\| floor 0\.00 % \|", text)
    row = run.ledger.rows[1]
    assert row.scores["perplexity:llama.cpp"].value != row.scores["perplexity"].value
    assert row.scores["bits_per_byte:llama.cpp"].scored_on == row.scores["perplexity:llama.cpp"].scored_on


BAD = {
    "unknown": ("{perplexity: {convention: gptqq}}", "convention.*'gptq', 'llama.cpp' or 'lm-eval'"),
    "length alone": ("{perplexity: {length: 8}}", "perplexity: length is of a convention; data.evaluate has its own"),
    "short": ("{perplexity: {convention: llama.cpp, length: 2}}", "length: 2 leaves nothing to score; 3 or more"),
    "word": ("{perplexity: {per: word}}", "per: word is of convention: lm-eval; token or byte would do"),
    "long": ("{perplexity: {convention: gptq, length: 99999}}", "99999 tokens are more than the 2048 that the model"),
    "limit": ("{bits_per_byte: {convention: gptq, limit: 0}}", "limit is 0; input should be greater than 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_convention_cannot_do_is_a_fault_of_the_plan(tmp_path: Path, name: str) -> None:
    metric, message = BAD[name]
    write_tokenizer(write_folder(tmp_path / "model"))
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "plan.yaml").write_text(PLAN.replace("METRICS", f"[{metric}]"))
    (messages,) = faults(tmp_path / "plan.yaml")
    assert re.search(message, messages), messages


def test_a_text_that_cannot_be_cut_so_is_named(tmp_path: Path) -> None:
    write_tokenizer(write_folder(tmp_path / "model"))
    (tmp_path / "text.txt").write_text("abcdefgh" * 3)
    with pytest.raises(DataError, match=r"text\.txt: too short for one window of 25 tokens; a smaller length would do"):
        windows(tmp_path, Perplexity(convention="gptq", length=25))
    with pytest.raises(DataError, match=r"text\.txt: llama\.cpp wants two windows of 16 tokens"):
        windows(tmp_path, Perplexity(convention="llama.cpp"))
    with pytest.raises(DataError, match="perplexity:gptq: text is no text file to cut anew"):
        Perplexity(convention="gptq").cut(TokenDataset("text", np.zeros((2, 8), np.int64)))
    (tmp_path / "text.jsonl").write_text('{"text": "abcdefgh abcdefgh abcdefgh"}\n' * 2)
    data = TextData(text="text.jsonl", length=16).open(tmp_path, tmp_path / "model")
    with pytest.raises(DataError, match=r"text\.jsonl: llama\.cpp reads one plain text; a \.txt would do"):
        Perplexity(convention="llama.cpp").cut(data)
