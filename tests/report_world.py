"""A small made-up report: no measurement of anything, only the shape that a run writes."""

from __future__ import annotations

from typing import Any


def delta(difference, ends=None, ratio=None, ratio_ends=None, verdict="worse") -> dict[str, Any]:
    values = {"difference": difference, "difference_interval": ends}
    return values | {"ratio": ratio, "ratio_interval": ratio_ends, "verdict": verdict}


def score(metric, unit, value, interval=None, to_original=None, to_previous=None) -> dict[str, Any]:
    moved = {"to_original": to_original, "to_previous": to_previous}
    return {"metric": metric, "unit": unit, "value": value, "interval": interval, **moved}


def row(name, form="torch", branch=None, scores=(), timings=(), **more) -> dict[str, Any]:
    measured = {"latency": {"new_ms": 0.66, "original_ms": 1.2, "pairs": 90}} if timings else {}
    parts = {"scores": {s["metric"]: s for s in scores}, "timings": {t["metric"]: t for t in timings}}
    return (
        {"name": name, "branch": branch, "form": form, "options": {}, "measured": measured, "facts": {}} | parts | more
    )


def layer(name, channels) -> dict[str, Any]:
    sizes = {"parameters": 9 * channels, "nbytes": 36 * channels, "macs": 9000 * channels}
    return {"name": name, "kind": "Conv2d", "shape": [channels, 1, 3, 3], **sizes}


def small_rows() -> list[dict[str, Any]]:
    noise = delta(-0.0034, [-0.0072, 0.0004], 0.995, [0.99, 1.001], "not told apart")
    size, same = delta(-700_000, None, 0.3, None, "better"), delta(0, None, 1.0, None, "same")
    faster = delta(-0.54, None, 0.55, [0.53, 0.57], "better")
    start = [score("top1", "share", 0.8075, [0.7963, 0.8182]), score("size_bytes", "bytes", 1_000_000)]
    top1, small = (
        score("top1", "share", 0.8041, [0.79, 0.815], noise, noise),
        score("size_bytes", "bytes", 3e5, None, size),
    )
    packed = [top1, score("size_bytes", "bytes", 300_000, None, size, same)]
    latency = [score("latency", "ratio", 0.55, [0.53, 0.57], faster, faster)]
    facts = {"coverage": {"Conv": [21, 21], "Gemm": [1, 1]}}
    return [
        row("original", scores=start),
        row("quantize_static", "onnx", "cpu", [top1, small], latency, facts=facts),
        row("pack", "artifact", "cpu", packed, latency),
        row("pack", "artifact", "mobile", packed, latency),
    ]


def small_report() -> dict[str, Any]:
    line = "size_bytes: <= 40 % of the original: measured 30.0 %: kept"
    broken = "latency: <= 50 % of the original: measured 55.0 % (95 % interval 53.0 % to 57.0 %): broken"
    unproven = "top1: at least -0.5 points: measured -0.34 points (95 % interval -0.72 to +0.04 points): unproven"
    judged = [("size_bytes", "<= 40 %", "kept", line), ("latency", "<= 50 %", "broken", broken)]
    judged.append(("top1", "-0.5 points", "unproven", unproven))
    names = ("metric", "written", "outcome", "line")
    package = {"branch": "cpu", "path": "small-cpu.zip", "digest": "sha256:" + "ab" * 32, "size_bytes": 310_000}
    return {
        "schema": 1,
        "name": "small",
        "squeeze": "0.1.0",
        "plan": {"passes": [{"pass": "quantize_static"}], "strict": False},
        "ledger": {"scored_on": {"name": "made-up", "sha256": "cd" * 32, "examples": 4998}, "rows": small_rows()},
        "judgements": [
            {"branch": "cpu", "value": 0.0, "interval": None} | dict(zip(names, j, strict=True)) for j in judged
        ],
        "packages": [package | {"verified": True, "notes": []}],
        "layers": {"original": [layer("conv1", 16), layer("fc", 10)], "cpu": [layer("conv1", 8), layer("fc", 10)]},
        "host": {"processor": "made-up", "cores": 2},
        "peak_memory_bytes": 1_210_000_000,
        "seconds": 134.2,
        "store": "store",
    }
