"""Multiply-accumulates that nobody counted are unknown: never 0, and never a budget that is kept."""

import pytest

from squeeze.evaluate.evidence.facts import ModelFacts
from squeeze.evaluate.metrics import Macs
from squeeze.models.language.artifact import LanguageFacts
from squeeze.models.language.runtimes.onnx_decoder import OnnxDecoder


@pytest.fixture
def opened(tmp_path):
    return lambda macs: _opened(tmp_path, macs)


def _opened(folder, macs):
    model = object.__new__(OnnxDecoder)
    model.folder, model.facts = folder, LanguageFacts(7, 0.1, macs)
    return model


def test_a_language_artifact_says_the_work_of_the_model_it_was_made_from(opened):
    assert Macs().value(opened(9)) == 9


def test_unknown_work_is_no_reading_rather_than_zero(opened):
    class Subject:
        model = opened(None)

    assert Macs().value(Subject.model) is None
    assert ModelFacts.reading(object.__new__(ModelFacts), Macs(), Subject) is None
