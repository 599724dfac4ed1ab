"""Where questions for language models come from: minimal pairs, multiple choice, texts whose last word is asked for.

Files are ``.jsonl`` (an object per line) or ``.json`` (a list of objects).
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from squeeze.data.choices import ChoiceDataset, Ending, Question, in_tokens, open_tokenizer
from squeeze.data.sources import DataSource
from squeeze.errors import DataError, did_you_mean, first_line
from squeeze.formats.regular import parse_json, require_regular

Entry = dict[str, Any]


class ChoiceSource(DataSource):
    """Questions in files; which ones, ``skip``, ``samples`` and ``seed`` decide."""

    several: ClassVar[bool] = True  # whether questions list several endings; False: one ending to predict

    @abstractmethod
    def question(self, entry: Entry, where: str) -> Question:
        """One question from one JSON object; ``where`` is for messages."""

    def open(self, root: Path, model: Path | None = None) -> ChoiceDataset:
        files = _files(root / self.where())
        questions = [self.question(entry, where) for file in files for entry, where in _entries(file)]
        if not questions:
            raise DataError(f"{self.where()}: holds no questions")
        name = f"{self.kind}:{Path(self.where()).name}"
        chosen = [questions[index] for index in self.chosen(len(questions))]
        return in_tokens(name, chosen, open_tokenizer(model, self.where()))


class PairsData(ChoiceSource):
    """Minimal pairs such as BLiMP's: one sentence that is good and one that is not; a file or a folder of them."""

    kind = "pairs"

    pairs: str
    """A `.jsonl` or `.json` file, or a folder of them."""
    good: str = "sentence_good"
    """The field with the sentence that should be likelier."""
    bad: str = "sentence_bad"
    """The field with the other one."""

    def question(self, entry: Entry, where: str) -> Question:
        return Question(tuple(Ending("", _text(entry, field, where)) for field in (self.good, self.bad)))


class QuestionsData(ChoiceSource):
    """Multiple choice: ``question``, ``options``, ``answer`` (a number from 0, or the option), or the instruction form.

    The instruction form ("..: How? Answer1: so Answer2: thus Answer format: answer1/answer2") is taken apart, and its
    options are scored as texts, not by their labels. A ``_`` in the question is filled by each option, and what
    follows it is scored.
    """

    kind = "questions"

    questions: str
    """A `.jsonl` or `.json` file, or a folder of them."""

    def question(self, entry: Entry, where: str) -> Question:
        prompt, options, answer = _instruction(entry, where) if "instruction" in entry else _plain(entry, where)
        if len(options) < 2:
            raise DataError(f"{where}: {len(options)} options; two or more would leave something to choose")
        if not 0 <= answer < len(options):
            raise DataError(f"{where}: the answer is none of the {len(options)} options")
        return Question(tuple(_ending(prompt, option) for option in options), answer)


class LastWordsData(ChoiceSource):
    """Texts such as LAMBADA's, whose last word is to be found from all before it."""

    kind = "last_words"
    several = False

    last_words: str
    """A `.jsonl` or `.json` file, or a folder of them."""
    field: str = "text"
    """The field with the text."""

    def question(self, entry: Entry, where: str) -> Question:
        text = _text(entry, self.field, where).rstrip()
        before, _, word = text.rpartition(" ")
        if not before or not word:
            raise DataError(f"{where}: '{text[:40]}' is one word; a text before it would let it be found")
        return Question((Ending(before, f" {word}"),))


def _ending(question: str, option: str) -> Ending:
    """The option behind the question; where the question has a blank, what follows it once it is filled."""
    before, blank, after = question.partition("_")
    if blank and after.strip():
        return Ending(before + option, f" {after.strip()}")
    return Ending(f"Question: {question}\nAnswer:", f" {option}")


def _plain(entry: Entry, where: str) -> tuple[str, list[str], int]:
    options, answer = entry.get("options"), entry.get("answer")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{where}: 'options' is {json.dumps(options)[:40]}; a list of texts would do")
    if isinstance(answer, str) and answer in options:
        answer = options.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise DataError(f"{where}: 'answer' is {json.dumps(answer)[:40]}; the number of an option from 0 on would do")
    return _text(entry, "question", where), options, answer


INSTRUCTION = re.compile(r"^[^:]*: (?P<asked>.*?)\s*(?P<label>[A-Za-z]+)1:\s(?P<options>.*?)\s*Answer format:", re.S)


def _instruction(entry: Entry, where: str) -> tuple[str, list[str], int]:
    """Take "Please choose ...: How? Answer1: so Answer2: thus Answer format: ..." apart."""
    match = INSTRUCTION.match(_text(entry, "instruction", where))
    if match is None:
        raise DataError(f"{where}: the instruction holds no 'Answer1: ... Answer format:', which tells the options")
    label, answer = match["label"], _text(entry, "answer", where)
    options = re.split(rf"\s*{label}\d+:\s", match["options"])
    number = answer.lower().removeprefix(label.lower())
    if not (number.isdecimal() and len(number) <= 9):
        raise DataError(f"{where}: 'answer' is '{answer[:40]}'; {label.lower()}1 would do")
    return match["asked"].strip(), [option.strip() for option in options], int(number) - 1


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".json"))
    if not files:
        raise DataError(f"{path}: no .jsonl or .json file here")
    return files


def _entries(path: Path) -> Iterator[tuple[Entry, str]]:
    require_regular(path, DataError)
    try:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else []
        values = [parse_json(line) for line in lines if line.strip()] if path.suffix == ".jsonl" else parse_json(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({first_line(error)})") from None
    if not isinstance(values, list):
        raise DataError(f"{path}: holds a {type(values).__name__}; a list of objects, or .jsonl, would do")
    for number, entry in enumerate(values, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is no JSON object")
        yield entry, f"{path}: entry {number}"


def _text(entry: Entry, field: str, where: str) -> str:
    if field not in entry:
        raise DataError(f"{where}: no '{field}'{did_you_mean(field, entry)}")
    if not isinstance(entry[field], str) or not entry[field].strip():
        raise DataError(f"{where}: '{field}' is {json.dumps(entry[field])[:40]}; a text would do")
    return str(entry[field])
