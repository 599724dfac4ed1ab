"""Read what a runtime's benchmark tool printed on a phone, and note its numbers in measurements.json.

    TOOL ... | python3 phone.py --tool benchmark_model --threads 2 --device "Google Pixel 8" --file measurements.json

``app/measure.sh`` calls it. Every number is one that the tool prints; milliseconds and bytes throughout.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
MS, US = 1000.0, 0.001  # milliseconds in a second, and in a microsecond


def perf_test(text: str) -> dict[str, float]:
    """Of ``onnxruntime_perf_test -s``: percentiles in seconds, an average in milliseconds."""
    return found(
        text,
        median_ms=(rf"P50 Latency(?:: | is ){NUMBER}", MS),
        p90_ms=(rf"P90 Latency(?:: | is ){NUMBER}", MS),
        average_ms=(rf"Average inference time cost(?: total)?:\s*{NUMBER} ms", 1),
        load_ms=(rf"Session creation time cost:\s*{NUMBER} s", MS),
        peak_bytes=(rf"Peak working set size:\s*{NUMBER} bytes", 1),
    )


def benchmark_model(text: str) -> dict[str, float]:
    """Of LiteRT's ``benchmark_model``: microseconds; the runs' line of counts is the last, behind the warm-up's."""
    counts = [line for line in text.splitlines() if " std=" in line]
    last = counts[-1] if counts else ""
    return found(last, median_ms=(rf"median={NUMBER}", US), runs=(rf"count={NUMBER}", 1)) | found(
        text,
        average_ms=(rf"Inference \(avg\): {NUMBER}", US),
        load_ms=(rf"Inference timings in us: Init: {NUMBER}", US),
        memory_bytes=(rf"Memory footprint delta.*overall={NUMBER}", 1e6),
    )


def executor_runner(text: str) -> dict[str, float]:
    """Of ExecuTorch's ``executor_runner``: one sum over all runs of the program's first method."""
    method = re.search(r"Using method (\S+)", text)
    if method and method[1] != "forward":
        return {}
    match = re.search(rf"Model executed successfully (\d+) time\(s\) in {NUMBER} ms", text)
    return {"runs": float(match[1]), "average_ms": float(match[2]) / int(match[1])} if match else {}


TOOLS = {
    "onnxruntime_perf_test": perf_test,
    "benchmark_model": benchmark_model,
    "executor_runner": executor_runner,
}


def found(text: str, **patterns: tuple[str, float]) -> dict[str, float]:
    """The numbers that are there, each in its unit."""
    matches = {name: (re.search(pattern, text), factor) for name, (pattern, factor) in patterns.items()}
    return {name: float(match[1]) * factor for name, (match, factor) in matches.items() if match}


def noted(file: Path, entry: dict[str, Any]) -> None:
    """Put an entry behind those of other measurements; the file appears whole."""
    values = json.loads(file.read_text()) if file.is_file() else {}
    if not isinstance(values, dict) or not isinstance(values.setdefault("phones", []), list):
        raise ValueError("is none of a package's")
    values["phones"].append(entry)
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(values, sort_keys=True, indent=2) + "\n")
    new.replace(file)


def main(arguments: list[str] | None = None) -> int:
    """0 noted, 1 no number was found or the file cannot be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True, choices=sorted(TOOLS))
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--device", required=True)
    parser.add_argument("--chip", default="")
    parser.add_argument("--android", default="")
    parser.add_argument("--file", required=True, type=Path, help="measurements.json")
    options = parser.parse_args(arguments)
    numbers = TOOLS[options.tool](sys.stdin.read())
    if "average_ms" not in numbers and "median_ms" not in numbers:
        print(f"phone.py: {options.tool} printed no time; nothing is noted", file=sys.stderr)
        return 1
    about = {"device": options.device.strip(), "chip": options.chip, "android": options.android}
    entry = about | {"tool": options.tool, "threads": options.threads, "numbers": numbers}
    try:
        noted(options.file, entry | {"date": datetime.now(UTC).isoformat(timespec="seconds")})
    except (OSError, ValueError) as error:
        print(f"phone.py: {options.file}: {error}; unpack the package again", file=sys.stderr)
        return 1
    time = numbers.get("median_ms", numbers.get("average_ms", 0.0))
    print(f"noted in {options.file.name}: {about['device']}, {options.threads} threads, {time:.3f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
