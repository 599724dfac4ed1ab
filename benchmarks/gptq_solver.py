"""The GPTQ solver beside llm-compressor's and gptqmodel's: same weight, same Hessian, same grid, equal loss.

    python benchmarks/gptq_solver.py [--size 4096] [--tokens 16384] [--rounds 5] [--threads 2] [--bits 4]

First one square weight; then the seven linears of a decoder layer shaped as TinyLlama-1.1B's (hidden 2048,
intermediate 5632, 32 heads, 4 KV heads), Hessians from ``--tokens`` tokens included. Candidates take turns within each
round, so that a busy machine is busy for all; the table gives the fastest round of each, its processor time, and the
time as a multiple of a float32 product of the same run. The limit is arithmetic at that product's rate: n^3/6
multiply-adds for a Cholesky factor, n^2 x out / 2 for the updates. Peers are used when they can be imported; the loop
of the paper always is. Three rows are ours: what the peers do, and scales chosen as they do; scales searched, columns
reordered, as by ``clip: mse`` and ``order: group_aware``; and those refined twice, as the pass does by default
(which goes on to aim at the original model's outputs). Losses are measured from what each returns, not as it reports
them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _inputs import Arguments, positive, run
from torch import Tensor

from squeeze.algorithms.gptq import factorize, solve
from squeeze.algorithms.hessian import Hessian, hessian_loss
from squeeze.algorithms.quantease import quantease
from squeeze.algorithms.rtn import fit_scale, round_to_nearest

HIDDEN, INTERMEDIATE, KV = 2048, 5632, 256
LAYER = {  # linears that share an input: its channels, their output channels
    "q, k, v": (HIDDEN, (HIDDEN, KV, KV)),
    "o": (HIDDEN, (HIDDEN,)),
    "gate, up": (HIDDEN, (INTERMEDIATE, INTERMEDIATE)),
    "down": (INTERMEDIATE, (HIDDEN,)),
}
DAMPING = 0.01

Solver = Callable[[Sequence[Tensor], Tensor], list[Tensor]]  # weights that share an input, its Hessian -> rounded


@dataclass
class Timing:
    """The fastest round so far, in seconds."""

    wall: float = float("inf")
    processor: float = float("inf")

    def measure(self, job: Callable[[], object]) -> object:
        """Run the job once."""
        wall, processor = time.perf_counter(), time.process_time()
        result = job()
        self.wall = min(self.wall, time.perf_counter() - wall)
        self.processor = min(self.processor, time.process_time() - processor)
        return result


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    print(f"{options.bits} bits, group {options.group_size}, symmetric, {options.threads} threads")
    solvers = available(options.bits, options.group_size)
    one_weight(options, solvers)
    one_layer(options, solvers)


def one_weight(options: argparse.Namespace, solvers: dict[str, Solver]) -> None:
    n = options.size
    W, X = normal(0, n, n) * 0.02, inputs(1, 2 * n, n)
    H = X.t() @ X / len(X)
    square = X[:n].contiguous()
    jobs = {name: lambda solver=solver: solver([W], H) for name, solver in solvers.items()}
    timings, results = take_turns({"product": lambda: W @ square} | jobs, options.rounds)
    limit = (n**3 / 6 + n**3 / 2) / n**3
    print(f"\none {n} x {n} weight; arithmetic limit {limit:.2f} products")
    rounded = round_to_nearest(W, options.bits, options.group_size).dequantize()
    losses = {name: float(hessian_loss(results[name][0] - W, H).sum()) for name in solvers}
    show(timings, losses | {"round to nearest": float(hessian_loss(rounded - W, H).sum())})


def one_layer(options: argparse.Namespace, solvers: dict[str, Solver]) -> None:
    weights = {
        name: [normal(seed, out, n) * 0.02 for seed, out in enumerate(outs)] for name, (n, outs) in LAYER.items()
    }
    data = {name: inputs(seed, options.tokens, n) for seed, (name, (n, _)) in enumerate(LAYER.items())}
    jobs = {
        name: lambda name=name, solver=solver: whole_layer(name, solver, weights, data)
        for name, solver in solvers.items()
    }
    square = normal(9, HIDDEN, HIDDEN)
    timings, results = take_turns({"product": lambda: square @ square} | jobs, options.rounds)
    products = layer_limit(options.tokens) / HIDDEN**3
    print(f"\na decoder layer, {options.tokens} tokens; arithmetic limit {products:.0f} products of {HIDDEN} cubed")
    losses = {}
    for name in solvers:
        errors = [
            (q, W, data[group]) for group in LAYER for q, W in zip(results[name][group], weights[group], strict=True)
        ]
        losses[name] = sum(float(((q - W) @ X[:4096].t()).square().sum()) / 4096 for q, W, X in errors)
    show(timings, losses)


def whole_layer(
    name: str, solver: Solver, weights: dict[str, list[Tensor]], data: dict[str, Tensor]
) -> dict[str, list[Tensor]]:
    """Ours shares one Hessian and one factor per input; the others make one of each per linear, as their users get."""
    rounded = {}
    for group, linears in weights.items():
        if name.startswith("squeeze"):
            rounded[group] = solver(linears, hessian_of(data[group]))
        else:
            rounded[group] = [solver([W], full_product(data[group]))[0] for W in linears]
    return rounded


def hessian_of(X: Tensor) -> Tensor:
    """In chunks of eight sequences of 2048 tokens, as the pass walks them."""
    hessian = Hessian(X.shape[1])
    for batch in X.split(8 * 2048):
        hessian.add(batch)
    return hessian.matrix()


def full_product(X: Tensor) -> Tensor:
    """Batch by batch, as llm-compressor's ``accumulate_hessian`` does: a whole product, then a sum."""
    H = torch.zeros(X.shape[1], X.shape[1])
    for batch in X.split(2048):
        H += batch.t() @ batch
    return H / len(X)


def layer_limit(tokens: int) -> float:
    """Multiply-adds: half of each Hessian, a sixth of a cube for its factor, half of a product per weight."""
    return sum(tokens * n**2 / 2 + n**3 / 6 + n**2 * sum(outs) / 2 for n, outs in LAYER.values())


def available(bits: int, group_size: int) -> dict[str, Solver]:
    """Ours, those peers that are installed, and the paper's loop."""
    solvers: dict[str, Solver] = {
        "squeeze": ours(bits, group_size, clip="absmax", static=True),
        "squeeze, searched": ours(bits, group_size, order="group_aware", clip="mse"),
        "squeeze, refined": ours(
            bits, group_size, order="group_aware", refinements=2, clip="mse", negative_scales=True
        ),
        "textbook loop": lambda weights, H: [textbook(W, H, bits, group_size) for W in weights],
    }
    for name, make in (("llm-compressor", llm_compressor), ("gptqmodel", gptqmodel)):
        try:
            solvers[name] = make(bits, group_size)
        except ImportError as missing:
            print(f"{name}: not measured, {str(missing).splitlines()[0]}")
    return solvers


def ours(bits: int, group_size: int, order: str = "given", refinements: int = 0, **choices: object) -> Solver:
    def run(weights: Sequence[Tensor], H: Tensor) -> list[Tensor]:
        factor, stacked = factorize(H, DAMPING, order, group_size), torch.cat(list(weights))
        solved = solve(stacked, factor, bits, group_size, **choices)
        refined = quantease(stacked, solved.grid(), H, refinements, factor.added)
        return list(refined.grid.dequantize().split([len(W) for W in weights]))

    return run


def llm_compressor(bits: int, group_size: int) -> Solver:
    """Its ``quantize_weight``, with the scales that its default observer gives: the largest weight of each group."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    args = QuantizationArgs(num_bits=bits, group_size=group_size, symmetric=True, strategy="group")

    def run(weights: Sequence[Tensor], H: Tensor) -> list[Tensor]:
        (W,) = weights
        groups = W.reshape(len(W), -1, group_size)
        scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
        q, _, _ = quantize_weight(
            W.clone()[None], H.clone()[None], scale[None], zero_point[None], None, args, 128, DAMPING
        )
        return [q[0]]

    return run


def gptqmodel(bits: int, group_size: int) -> Solver:
    """Its ``GPTQ.quantize`` on a linear whose Hessian is given."""
    from gptqmodel.quantization import GPTQ
    from gptqmodel.quantization.config import QuantizeConfig

    config = QuantizeConfig(bits=bits, group_size=group_size, sym=True, desc_act=False, damp_percent=DAMPING)

    def run(weights: Sequence[Tensor], H: Tensor) -> list[Tensor]:
        linear = torch.nn.Linear(weights[0].shape[1], len(weights[0]), bias=False)
        linear.weight.data = weights[0].clone()
        task = GPTQ(linear, config)
        task.quantizer.configure(perchannel=True)
        task.H, task.nsamples = H.clone(), 1
        return [task.quantize()[0].float()]

    return run


def textbook(W: Tensor, H: Tensor, bits: int, group_size: int, batch: int = 128) -> Tensor:
    """Algorithm 1 of arXiv 2210.17323 as published: three factorizations, a row-major weight, lazy batches."""
    W, Q = W.clone(), torch.empty_like(W)
    H = H + DAMPING * H.diagonal().mean() * torch.eye(len(H))
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    groups = W.reshape(len(W), -1, group_size)
    scales = fit_scale(groups, bits)[0]
    limit = 2 ** (bits - 1)
    for start in range(0, W.shape[1], batch):
        stop = min(start + batch, W.shape[1])
        part, errors = W[:, start:stop].clone(), torch.empty(len(W), stop - start)
        for i in range(stop - start):
            scale = scales[:, (start + i) // group_size]
            q = scale * (part[:, i] / scale).round().clamp(-limit, limit - 1)
            Q[:, start + i] = q
            errors[:, i] = (part[:, i] - q) / U[start + i, start + i]
            part[:, i:] -= torch.outer(errors[:, i], U[start + i, start + i : stop])
        W[:, stop:] -= errors @ U[start:stop, stop:]
    return Q


def take_turns(jobs: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, Timing], dict[str, object]]:
    timings, results = {name: Timing() for name in jobs}, {}
    for _ in range(rounds):
        for name, job in jobs.items():
            results[name] = timings[name].measure(job)
    return timings, results


def show(timings: dict[str, Timing], losses: dict[str, float]) -> None:
    product, fastest = timings["product"], timings["squeeze"]
    print(f"{'':18} {'seconds':>8} {'processor':>9} {'products':>8} {'squeeze x':>9} {'loss':>10}")
    for name in [*timings, *(name for name in losses if name not in timings)]:
        loss = f"{losses[name]:10.4f}" if name in losses else ""
        if name in timings:
            t = timings[name]
            ratios = f"{t.wall / product.wall:8.2f} {t.wall / fastest.wall:9.2f}"
            print(f"{name:18} {t.wall:8.3f} {t.processor:9.3f} {ratios} {loss}")
        else:
            print(f"{name:18} {'':37} {loss}")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(seed: int, tokens: int, channels: int) -> Tensor:
    """``[tokens, channels]``: correlated, a thirtieth of the directions strong, channels of uneven size."""
    mixed = normal(seed, tokens, 512) @ (normal(seed + 1, 512, channels) * torch.logspace(0, -1.5, 512)[:, None])
    sizes = torch.rand(channels, generator=torch.Generator().manual_seed(seed)) + 0.1
    return (mixed / 10 + 0.3 * normal(seed + 2, tokens, channels)) * sizes


def arguments() -> argparse.Namespace:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=positive, default=4096)
    parser.add_argument("--tokens", type=positive, default=16384)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--bits", type=positive, default=4)
    parser.add_argument("--group-size", type=positive, default=128)
    parser.add_real("taken from all benchmarks alike; not needed here", default=None)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
