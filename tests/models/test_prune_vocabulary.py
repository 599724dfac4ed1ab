"""Language models with fewer tokens: any text is still read, and what stays is said as before."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_world import write_folder, write_tokenizer
from tiny import faults
from tokenizer_world import TEXT
from vocabulary_world import CHAT, KINDS, WORDS, cut, tokens_of, write_world

from squeeze.algorithms.vocabulary import least_tokens, merged_parts, needed_tokens
from squeeze.api import load
from squeeze.data.recut import recut, same_text
from squeeze.data.token_dataset import TokenDataset
from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.tokenizer import read_tokenizer
from squeeze.passes.base import Context, Preview
from squeeze.passes.prune.prune_vocabulary import PruneVocabulary
from squeeze.run import run


@cache
def tokenizers(kind: str) -> tuple[Any, Any]:
    """Before and after, as stock transformers reads them."""
    import tempfile

    from transformers import AutoTokenizer

    folder = Path(tempfile.mkdtemp(prefix="vocabulary-"))
    pruned, _ = cut(write_world(folder, KINDS[kind]()))
    return AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(pruned.folder)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: f"{text} {WORDS}"))
def test_every_text_is_read_in_tokens_that_stay_and_comes_back_as_before(kind: str, text: str) -> None:
    before, after = tokenizers(kind)
    assert len(after) < len(before)
    numbers_before, numbers_after = (one(text, add_special_tokens=False)["input_ids"] for one in (before, after))
    assert max(numbers_after) < len(after)
    assert len(numbers_after) >= len(before(WORDS, add_special_tokens=False)["input_ids"])
    assert after.decode(numbers_after) == before.decode(numbers_before)
    if kind == "byte-level BPE":
        assert after.decode(numbers_after) == text


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_stock_transformers_opens_the_folder_and_gives_the_logits_of_the_tokens_that_stay(
    tmp_path: Path, tied: bool
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dense = write_world(tmp_path, KINDS["byte-level BPE"](), tie_word_embeddings=tied)
    pruned, lent = cut(dense)
    before, after = AutoTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(pruned.folder)
    text = torch.tensor([before(WORDS)["input_ids"]])
    rows = [before.convert_tokens_to_ids(token) for token in after.convert_ids_to_tokens(range(len(after)))]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path)(text).logits[..., rows]
        logits = AutoModelForCausalLM.from_pretrained(pruned.folder)(torch.tensor([after(WORDS)["input_ids"]])).logits
    assert torch.allclose(logits, expected, atol=1e-5)  # the text is cut as before: its tokens all stay
    assert lent.facts["tokens"] == [len(before) + 4, len(after)]
    assert pruned.parameters() == dense.parameters() - (2 - tied) * 64 * (len(before) + 4 - len(after))


def test_numbers_of_tokens_are_told_anew_wherever_a_config_names_them(tmp_path: Path) -> None:
    dense = write_world(tmp_path, KINDS["SentencePiece's BPE"]())
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"suppress_tokens": [*range(130)], "max_length": 40}))
    names = read_tokenizer(tmp_path).convert_ids_to_tokens(range(dense.tokens_known - 4))
    pruned, _ = cut(dense)
    tokenizer = read_tokenizer(pruned.folder)
    config, generation = (
        json.loads((pruned.folder / f"{n}.json").read_text()) for n in ("config", "generation_config")
    )
    last, stays = tokenizer.convert_tokens_to_ids(names[-1]), tokenizer.get_vocab()
    suppressed = [stays[name] for name in names[:130] if name in stays]
    assert 2 < len(suppressed) < 130
    assert config["vocab_size"] == len(tokenizer)
    assert (config["bos_token_id"], config["pad_token_id"], config["eos_token_id"]) == (last, last, [2, last])
    assert generation["eos_token_id"] == [2, last]
    assert (generation["suppress_tokens"], generation["max_length"]) == (suppressed, 40)
    assert tokenizer(WORDS)["input_ids"][0] == tokenizer.bos_token_id  # which a template puts there


def test_as_many_tokens_stay_as_asked_for_and_those_of_chats_among_them(tmp_path: Path) -> None:
    dense = write_world(tmp_path, KINDS["byte-level BPE"]())
    (tmp_path / "chat_template.jinja").write_text(CHAT)
    pruned, _ = cut(dense, tokens=310)
    assert (pruned.vocabulary, len(read_tokenizer(pruned.folder))) == (310, 310)
    used = {token for token in read_tokenizer(tmp_path).tokenize(CHAT) if len(token) > 1}
    assert used
    assert used <= set(read_tokenizer(pruned.folder).get_vocab())
    outline = LanguageModel(tmp_path)
    preview = PruneVocabulary(tokens=310).preview(outline, Preview((), dense.parameters(), dense.nbytes(), None))
    assert preview.parameters == pruned.parameters() == outline.parameters()
    smaller, _ = cut(dense, keep="90 %")
    assert smaller.vocabulary == round(0.9 * dense.vocabulary)


def test_the_least_used_leaf_leaves_and_its_parts_take_over_its_uses() -> None:
    """0 to 3 are letters, 4 = 01, 5 = 23, 6 = 45; 4 is used by nothing but 6."""
    parts = [(), (), (), (), (0, 1), (2, 3), (4, 5)]
    assert needed_tokens(parts, [9, 9, 9, 9, 0, 2, 1], range(4), None) == list(range(7))
    assert needed_tokens(parts, [9, 9, 9, 9, 0, 2, 1], range(4), 6) == [0, 1, 2, 3, 4, 5]
    assert needed_tokens(parts, [9, 9, 9, 9, 0, 2, 1], range(4), 5) == [0, 1, 2, 3, 5]  # 4 has 1 of 6's, 5 has 3
    assert needed_tokens(parts, [9, 9, 9, 9, 0, 2, 0], range(4), None) == [0, 1, 2, 3, 5]
    assert least_tokens(parts, {6}) == set(range(7))


def test_the_parts_of_a_token_are_those_of_its_own_last_merge() -> None:
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("ab", "c"): 2, ("a", "bc"): 3}
    assert merged_parts("abc", ranks) == ["a", "bc"]  # bc is merged before ab ever is
    assert merged_parts("ab", ranks) == ["a", "b"]
    assert merged_parts("abcd", ranks) == ["abcd"]


def test_the_same_text_is_scored_and_a_pass_sees_it_in_tokens_that_are_left(tmp_path: Path) -> None:
    dense = write_world(tmp_path, KINDS["byte-level BPE"]())
    data = tokens_of(tmp_path, TEXT * 2)
    pruned, _ = cut(dense)
    tokenizer, old = read_tokenizer(pruned.folder), read_tokenizer(tmp_path)
    windows = same_text(data, dense, pruned)
    for sequence, window in zip(data.tokens, windows.windows, strict=True):
        (part,) = window.parts
        assert tokenizer.decode(part.tokens[: part.start]) == old.decode(sequence[:1])
        assert tokenizer.decode(part.tokens) == old.decode(sequence)
        assert len(part.tokens) - part.start >= len(sequence) - 1
    again = recut(TokenDataset("chosen from a text", data.tokens), dense, pruned)
    assert again.tokens.shape[1] == data.tokens.shape[1]
    assert again.tokens.max() < pruned.vocabulary


PLAN = """\
model: {hf: .}
data:
  calibrate: {text: calibrate.txt, length: 8}
  evaluate: {text: evaluate.txt, length: 8}
metrics: [bits_per_byte, parameters]
passes:
  - {pass: prune_vocabulary}
  - {pass: gptq, group_size: 16}
"""


def write_texts(folder: Path) -> None:
    (folder / "calibrate.txt").write_text(f"{WORDS} " * 12)
    (folder / "evaluate.txt").write_text("they were happy: there is a time, upon 10 cats\n\n\n" * 8)
    (folder / "plan.yaml").write_text(PLAN)


def test_bits_per_byte_is_of_the_same_bytes_and_a_quantizer_follows(tmp_path: Path) -> None:
    write_world(tmp_path, KINDS["byte-level BPE"]())
    write_texts(tmp_path)
    rows = run(load(tmp_path / "plan.yaml"), store=tmp_path / "store").ledger.rows
    assert [row.name for row in rows] == ["original", "prune_vocabulary", "gptq"]
    bits = [row.scores["bits_per_byte"] for row in rows]
    assert all(one.value is not None and 0 < one.value < 20 for one in bits)
    assert bits[1].to_original is not None
    assert bits[1].value != bits[0].value
    parameters = [row.scores["parameters"].value or 0 for row in rows]
    assert parameters[1] < parameters[0]
    assert parameters[2] == parameters[1]


def test_a_text_whose_tokens_all_stay_surprises_less_without_the_others(tmp_path: Path) -> None:
    """The same tokens, fewer to choose from: every probability grows."""
    from squeeze.evaluate.endings import score_endings
    from squeeze.progress import Progress

    dense = write_world(tmp_path, KINDS["byte-level BPE"]())
    data = tokens_of(tmp_path, f"{WORDS} " * 8)
    pruned, _ = cut(dense)
    before, after = (
        score_endings(model, same_text(data, dense, model), Progress(), "score") for model in (dense, pruned)
    )
    assert (after.log_probability > before.log_probability).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"tokens": 5000}, r"tokens: 5000 is no fewer than the \d+ that the model has; there is nothing to cut"),
        ({"tokens": 100}, r"tokens: 100 is fewer than the \d+ that bytes, special tokens and chats need"),
        ({"keep": "1 %"}, r"keep: 1 %, 3 tokens, is fewer than the \d+ that bytes"),
    ],
)
def test_a_number_of_tokens_that_cannot_be_is_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    dense = write_world(tmp_path, KINDS["byte-level BPE"]())
    (fault,) = PruneVocabulary(**options).faults(dense)
    assert fault.startswith("prune_vocabulary: ")
    with pytest.raises(ModelError, match=line):
        cut(dense, **options)


def test_a_tokenizer_of_another_kind_or_none_is_refused_by_name(tmp_path: Path) -> None:
    dense = LanguageModel(write_folder(tmp_path))
    (fault,) = PruneVocabulary().faults(dense)
    assert "no tokenizer.json here, whose tokens could be cut" in fault
    write_tokenizer(tmp_path)
    (fault,) = PruneVocabulary().faults(dense)
    assert "a tokenizer of type WordLevel; those of type BPE and Unigram can be cut" in fault


def test_a_text_that_uses_every_token_leaves_nothing_to_cut(tmp_path: Path) -> None:
    tokenizer = KINDS["byte-level BPE"]()
    write_world(tmp_path, tokenizer)
    dense = LanguageModel(write_folder(tmp_path, vocab_size=tokenizer.get_vocab_size()))
    every = TokenDataset("all", np.arange(dense.vocabulary)[None])
    with pytest.raises(ModelError, match=r"the text uses all \d+ tokens; tokens: a smaller number would cut"):
        PruneVocabulary().run(dense, Context(calibration_data=every))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  calibrate: {text: calibrate.txt, length: 8}\n", "", "prune_vocabulary needs data.calibrate"),
        ("prune_vocabulary}", "prune_vocabulary, text: train}", "prune_vocabulary needs data.train"),
        ("prune_vocabulary}", "prune_vocabulary, keep: lots}", '"lots" is no share of the tokens; "30 %" would be'),
        ("prune_vocabulary}", 'prune_vocabulary, keep: "30 %", tokens: 300}', "name one of keep and tokens"),
        (
            "[bits_per_byte,",
            "[perplexity,",
            r"perplexity says nothing of .* prune_vocabulary \(line 7\) leaves; bits_per",
        ),
        ("[bits_per_byte,", "[kl,", "kl says nothing of a model with other tokens"),
        (
            "pass: gptq, group_size: 16",
            "pass: distill",
            r"distill must come before prune_vocabulary .*with other tokens",
        ),
        ("- {pass: prune", "- {pass: rtn, group_size: 16}\n  - {pass: prune", "prune_vocabulary must come before rtn"),
    ],
    ids=["no text", "no training text", "no share", "two goals", "per token", "kl", "teacher", "quantized"],
)
def test_what_a_plan_asks_for_wrongly_is_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    import re

    write_world(tmp_path, KINDS["byte-level BPE"]())
    write_texts(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN.replace(old, new))
    assert any(re.search(line, fault) for fault in faults(tmp_path / "plan.yaml")), faults(tmp_path / "plan.yaml")
