"""Run the packaged model beside this file; needs onnxruntime and numpy only (and Pillow for pictures).

    python run.py --golden          run the golden input, compare with the golden output
    python run.py input.npy         an array that is the model's input, with or without the batch dimension
    python run.py picture.jpg       a picture, prepared as manifest.json says

It checks the model's answer, not the files; `squeeze verify` checks both.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would look up a host when it is imported
HERE = Path(__file__).resolve().parent
Json = dict[str, Any]
PRODUCTS = (  # y = MatMulInteger(x, w): x uint8 [1, 4], w int8 [4, 1], all 127
    "CAg6WAoYCgF4CgF3EgF5Ig1NYXRNdWxJbnRlZ2VyEgFnKg8IBAgBEANCAXdKBH9/f39aEwoBeBIOCgwIAhIICgIIAQoCCARiEwoBeRIOCgwIBhIICgII"
    "AQoCCAFCBAoAEA0="
)


class Fault(Exception):
    """The user's fault, shown as one line."""


def main(arguments: list[str] | None = None) -> int:
    """Read arguments, run, print; 0 done, 1 cannot, 2 wrong arguments, 4 the golden output differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", help="an .npy array or a picture")
    parser.add_argument("--golden", action="store_true", help="run the golden input and compare")
    parser.add_argument("--top", type=int, default=5, help="how many classes to show (5)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, default=HERE, help="the unpacked package (where this file lies)")
    chosen = parser.parse_args(arguments)
    if bool(chosen.input) == chosen.golden:
        parser.error("give an input file, or --golden")
    try:
        result = golden(chosen) if chosen.golden else classify(chosen)
    except Fault as fault:
        print(plain(f"run.py: {fault}"), file=sys.stderr)
        return 1
    except Exception as error:  # what onnxruntime, numpy, zipfile and Pillow make of damaged files shares no base
        reason = f"{type(error).__name__}: {error}"
        print(plain(f"run.py: {chosen.folder}: not as a package should be ({reason[:200]})"), file=sys.stderr)
        return 1
    result["peak_rss_bytes"] = peak_rss_bytes()
    print(json.dumps(result) if chosen.json else "\n".join(map(plain, lines(result))))
    return 0 if result.get("agrees", True) else 4


def plain(text: str) -> str:
    """Text for a terminal, on one line: a package's labels may hold its codes."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


def golden(chosen: argparse.Namespace) -> Json:
    """Compare what the model makes of the golden input with what it made of it when it was packed."""
    import numpy as np

    manifest, session, load_ms = open_model(chosen)
    arrays = np.load(chosen.folder / "golden.npz", allow_pickle=False)
    feed = {name.removeprefix("input."): arrays[name] for name in arrays.files if name.startswith("input.")}
    names = [output["name"] for output in manifest["outputs"]]
    difference = 0.0
    for name, found in zip(names, session.run(names, feed), strict=True):
        expected = arrays[f"output.{name}"]
        if found.shape != expected.shape:
            raise Fault(f"output {name} has shape {found.shape}; the golden one has {expected.shape}")
        gap = np.abs(found.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-12)
        difference = max(difference, float(gap) if np.isfinite(gap) else float("inf"))
    agrees = difference <= manifest["tolerance"]
    return {"agrees": agrees, "difference": difference, "tolerance": manifest["tolerance"], "load_ms": load_ms}


def classify(chosen: argparse.Namespace) -> Json:
    """The top classes of each example of the input."""
    import numpy as np

    manifest, session, load_ms = open_model(chosen)
    spec = manifest["inputs"][0]
    array = read_input(Path(chosen.input), spec, manifest["preprocessing"])
    try:
        logits = session.run(None, {spec["name"]: array})[0]
    except Exception as error:  # onnxruntime's exception classes share no base
        raise Fault(f"{chosen.input}: the model refuses it: {' '.join(str(error).split())[:200]}") from error
    logits = np.asarray(logits, np.float64).reshape(len(array), -1)
    return {"examples": [top(row, chosen.top, manifest["labels"]) for row in logits], "load_ms": load_ms}


def top(logits: Any, count: int, labels: list[str] | None) -> list[Json]:
    """The classes with the largest logits, with their softmax."""
    import numpy as np

    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = np.argsort(-logits, kind="stable")[:count]
    names = [labels[i] if labels and i < len(labels) else str(i) for i in best]
    return [{"class": int(i), "label": n, "probability": float(shares[i])} for i, n in zip(best, names, strict=True)]


def lines(result: Json) -> list[str]:
    """The result as a person reads it."""
    if "agrees" in result:
        word = "agrees" if result["agrees"] else "DIFFERS"
        return [f"golden output {word}: difference {result['difference']:.3g}, tolerance {result['tolerance']:.3g}"]
    shown = []
    for number, classes in enumerate(result["examples"]):
        shown += [f"example {number}"] if len(result["examples"]) > 1 else []
        shown += [f"{100 * entry['probability']:6.2f} %  {entry['label']}" for entry in classes]
    return shown


def open_model(chosen: argparse.Namespace) -> tuple[Json, Any, float]:
    """The manifest, the loaded model and the milliseconds that loading took."""
    try:
        manifest: Json = json.loads((chosen.folder / "manifest.json").read_text(encoding="utf-8"))
        start = time.perf_counter()
        session = open_session(str(chosen.folder / manifest["model"]), chosen.threads)
    except ImportError as error:
        raise Fault(f"{error}; 'pip install onnxruntime numpy' would give it") from error
    except Exception as error:  # onnxruntime's exception classes share no base
        reason = " ".join(str(error).split())[:200]
        raise Fault(f"{chosen.folder}: cannot load the model ({reason}); unpack the whole package") from error
    return manifest, session, 1000 * (time.perf_counter() - start)


def open_session(model: str, threads: int) -> Any:
    """ONNX Runtime on the model, with exact int8 products where this CPU's fast ones overflow: x86 without VNNI."""
    import numpy as np

    session = loaded(base64.b64decode(PRODUCTS), threads, exact=False)
    if session.run(None, {"x": np.full((1, 4), 255, np.uint8)})[0].item() == 4 * 255 * 127:
        return loaded(model, threads, exact=False)
    try:
        return loaded(model, threads, exact=True)
    except Exception:  # onnxruntime has no exact ones where int8 weights or zero points are shared
        session = loaded(model, threads, exact=False)
        print("run.py: int8 products overflow on this CPU: outputs are off by more than rounding", file=sys.stderr)
        return session


def loaded(model: str | bytes, threads: int, exact: bool) -> Any:
    """One session."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def peak_rss_bytes() -> int | None:
    """The most memory this process ever held, where the system tells (Linux)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(kilobytes[0]) if kilobytes else None


def read_input(path: Path, spec: Json, preprocessing: Json) -> Any:
    """The model's input ``[n, ...]`` from an array file or a picture."""
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_picture(path, spec, preprocessing)
    except (OSError, ValueError) as error:
        raise Fault(f"{path}: cannot be read ({error}); an .npy array or a picture would do") from error
    wanted = spec["shape"]
    if array.ndim == len(wanted) - 1:
        array = array[None]
    fits = array.ndim == len(wanted) and all(
        isinstance(w, str) or w == s for w, s in zip(wanted, array.shape, strict=True)
    )
    if not fits:
        raise Fault(f"{path}: gives shape {list(array.shape)}; the model takes {wanted}")
    return np.ascontiguousarray(array, dtype=spec["dtype"])


def read_picture(path: Path, spec: Json, steps: Json) -> Any:
    """``[c, h, w]``: resize, centre crop, scale, normalize, as the evaluation data was prepared."""
    import numpy as np

    try:
        from PIL import Image
    except ImportError as error:
        raise Fault(
            f"{path}: pictures need Pillow; 'pip install pillow' would give it, an .npy array does without"
        ) from error
    if not steps:
        raise Fault(f"{path}: the package does not say how pictures are prepared; an .npy array would do")
    channels = steps.get("channels") or spec["shape"][1]
    image = Image.open(path).convert("L" if channels == 1 else "RGB")
    interpolation = Image.Resampling[steps.get("interpolation", "bilinear").upper()]
    if steps.get("resize"):
        image = image.resize(resized(image.size, steps["resize"]), interpolation)
    if steps.get("crop"):
        height, width = sides(steps["crop"])
        if image.width < width or image.height < height:
            raise Fault(f"{path}: {image.height} x {image.width} pixels; at least {height} x {width} are needed")
        left, upper = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, upper, left + width, upper + height))
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    result = pixels.astype(np.float32) * np.float32(steps.get("scale", 1 / 255))
    if normalize := steps.get("normalize"):
        mean, std = (np.asarray(normalize[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
        result = (result - mean) / std
    return result


def sides(side: Any) -> tuple[int, int]:
    """Height and width."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def resized(size: tuple[int, int], side: Any) -> tuple[int, int]:
    """Width and height after a resize; one number is the shorter side."""
    if not isinstance(side, int):
        return side[1], side[0]
    short = min(size)
    return round(size[0] * side / short), round(size[1] * side / short)


if __name__ == "__main__":
    sys.exit(main())
