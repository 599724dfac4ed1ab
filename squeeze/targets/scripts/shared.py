"""Shared by all packaged scripts: read the manifest, load the model, compare golden outputs, report faults."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would look up a host when it is imported
HERE = Path(__file__).resolve().parent
Json = dict[str, Any]


class Fault(Exception):
    """The user's fault, shown as one line."""


def exit_code(act: Callable[[], int], folder: Path) -> int:
    """What ``act`` gives; 1 where it cannot, with one line that says why."""
    try:
        return act()
    except Fault as fault:
        print(plain(f"run.py: {fault}"), file=sys.stderr)
        return 1
    except Exception as error:  # exceptions of runtimes, numpy, zipfile and Pillow share no base
        print(plain(f"run.py: {folder}: not as a package should be ({one_line(error, typed=True)})"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def plain(text: str) -> str:
    """Text for a terminal, on one line: what a package says may hold its codes."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


def one_line(error: Exception, typed: bool = False) -> str:
    """An error's message, shortened."""
    return f"{type(error).__name__ + ': ' if typed else ''}{' '.join(str(error).split())}"[:200]


class Package:
    """The unpacked package: its manifest, and its model loaded by the runtime.

    Args:
        runtime: Takes the model's file and a number of threads.
    """

    def __init__(self, folder: Path, runtime: Callable[[Path, int], Any], threads: int) -> None:
        self.folder = folder
        try:
            self.manifest: Json = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            self.file = folder / self.manifest["model"]
            began = time.perf_counter()
            self.runtime = runtime(self.file, threads)
        except ImportError as error:
            raise Fault(f"{error}; README.md says what to install") from error
        except NotImplementedError as error:
            raise Fault(f"{error}: the model is not run on this system") from error
        except Exception as error:  # the runtimes' exception classes share no base
            raise Fault(f"{folder}: cannot load the model ({one_line(error)}); unpack the whole package") from error
        self.load_ms = 1000 * (time.perf_counter() - began)

    def golden(self, part: str) -> Json:
        """The golden arrays by name: ``part`` is ``input`` or ``output``."""
        import numpy as np

        arrays = np.load(self.folder / "golden.npz", allow_pickle=False)
        return {name.partition(".")[2]: arrays[name] for name in arrays.files if name.startswith(f"{part}.")}

    def compared(self, outputs: Json) -> Json:
        """How far outputs are from what the model gave when it was packed, as a share of the largest."""
        import numpy as np

        golden, difference = self.golden("output"), 0.0
        for name, values in outputs.items():
            if values.shape != golden[name].shape:
                raise Fault(f"output {name} has shape {values.shape}; the golden one has {golden[name].shape}")
            expected = golden[name].astype(np.float64)
            gap = np.abs(values.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-12)
            difference = max(difference, float(gap) if np.isfinite(gap) else float("inf"))
        tolerance = self.manifest["tolerance"]
        return {"agrees": difference <= tolerance, "difference": difference, "tolerance": tolerance}


def golden_line(result: Json) -> str:
    """The comparison as a person reads it."""
    word = "agrees" if result["agrees"] else "DIFFERS"
    return f"golden output {word}: difference {result['difference']:.3g}, tolerance {result['tolerance']:.3g}"


def peak_rss_bytes() -> int | None:
    """The most memory this process ever held, where the system tells (Linux)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(kilobytes[0]) if kilobytes else None
