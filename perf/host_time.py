#!/usr/bin/env python3
"""Host time of an attention from Python: how long a call takes to return, whatever the work that it enqueues takes.

usage: host_time.py [OPTION...] [PROBLEM]       PROBLEM is WORKLOAD/heads:QUERY,KV,DIM/TYPE, as in problems.txt

Several layers with K and V of their own take turns, as in a model. A figure is the median over batches of calls; a batch
begins when the device has nothing to do, and nothing waits inside of it. The ways to call take turns too, for some batches
each, since a shared machine is faster at one time than at another; a function of Python that does nothing tells which time
it was. On a CPU a call returns when its work is done, so that the problem there is as small as one can be. Every result is
checked before it is timed.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import espalier
import numpy as np
import torch
from espalier.torch import TreeAttention, current_stream

sys.path.insert(0, str(Path(__file__).parent))
from peers.measuring import LARGEST_ERROR, default_device, device_name, versions  # noqa: E402
from peers.problem import Problem  # noqa: E402

PROBLEMS = {"cuda": "layers:1,16,64/1024,256,32/heads:32,8,128/bf16", "cpu": "layers:1/1/heads:1,1,8/f32"}
FIELDS = ["call", "us", "least_us", "most_us", "kernel", "problem", "device", "versions"]


def main():
    options = parse()
    try:
        problem = Problem(options.problem or PROBLEMS[options.device], options.device, options.layers)
    except ValueError as error:
        sys.exit(f"host_time.py: {error}")
    print(f"{problem.name}; {device_name(options.device)}; {versions()}\n")
    print("| call | us | least | most | kernel |\n|---|---|---|---|---|")
    ways = list(calls(problem))
    for name, plan, call, out in ways:
        if plan:
            check(problem, name, call, out)
    taken = {name: [] for name, *_ in ways}
    for _ in range(options.turns):
        for name, _, call, _ in ways:
            taken[name] += batches(call, problem, options)
    rows = []
    for name, plan, *_ in ways:
        row = dict(zip(FIELDS, (name, *figures(taken[name]), plan.kernel.name if plan else "", problem.name)))
        rows.append(row | {"device": device_name(options.device), "versions": versions()})
        print("| " + " | ".join(row[field] for field in FIELDS[:5]) + " |", flush=True)
    if options.csv:
        with open(options.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("problem", nargs="?", metavar="PROBLEM", help="such as star:2048,64,64/heads:32,8,128/bf16")
    parser.add_argument("--device", default=default_device(), choices=["cpu", "cuda"])
    parser.add_argument("--layers", type=int, default=4, help="layers that take turns (4)")
    parser.add_argument("--turns", type=int, default=20, help="turns of each way to call (20)")
    parser.add_argument("--batches", type=int, default=10, help="batches of a turn (10); the median is over those of all")
    parser.add_argument("--calls", type=int, default=50, help="calls of a batch (50)")
    parser.add_argument("--csv", metavar="FILE", help="writes the figures")
    return parser.parse_args()


def calls(problem):
    """(name, plan, call(layer), outputs of the layers) for each way to call; without a plan it attends to nothing."""
    snapshot = problem.snapshot()
    arrays = espalier.TreeArrays(snapshot)

    def planned(**options):
        config = espalier.PlanConfig(problem.heads, problem.dtype_name, **options)
        config.capacity = espalier.Plan.required_capacity(snapshot, config)
        plan = espalier.Plan(config)
        plan.update(arrays)
        plan.report()  # waits
        return plan

    plan, portable = planned(), planned(kernel="portable")
    out = torch.empty_like(problem.q)
    lse = torch.empty(out.shape[:3], dtype=torch.float32, device=out.device)
    layers = [tuple(part[layer] for part in (problem.q, problem.k_pool, problem.v_pool, out, lse))
              for layer in range(problem.layers)]  # fmt: skip
    # The same values elsewhere, for every other call: what a model computes anew lies where the allocator puts it.
    moved = [(q.clone(), k, v, torch.empty_like(out), lse) for q, k, v, out, lse in layers]
    wrapped = [tuple(map(espalier.array, layer)) for layer in layers]
    attention = TreeAttention(plan)
    operator = torch.ops.espalier.attend

    def attend(plan, layers, stream=0):
        def call(layer):
            q, k, v, out, lse = layers[layer]
            espalier.attend(plan, q, k, v, out, lse, stream=stream)

        return call

    calls_of_layer = [0] * len(layers)

    def attend_elsewhere(layer):
        calls_of_layer[layer] += 1
        q, k, v, out, lse = (layers, moved)[calls_of_layer[layer] % 2][layer]
        espalier.attend(plan, q, k, v, out, lse)
        return (out,)

    def nothing(layer):
        q, k, v, out, lse = layers[layer]
        do_nothing(plan, q, k, v, out, lse, stream=0)

    def attend_on_current_stream(layer):
        q, k, v, out, lse = layers[layer]
        espalier.attend(plan, q, k, v, out, lse, stream=current_stream(q))

    yield "a function of Python that does nothing", None, nothing, None
    yield "attend, tensors", plan, attend(plan, layers), out
    yield "attend, tensors, q and out elsewhere than before", plan, attend_elsewhere, None
    yield "attend, arrays wrapped once", plan, attend(plan, wrapped), out
    if problem.device.type == "cuda":
        stream = torch.cuda.Stream()
        yield "attend, a stream of its own", plan, attend(plan, layers, stream.cuda_stream), out
    yield "attend, portable kernel", portable, attend(portable, layers), out
    yield "current_stream and attend", plan, attend_on_current_stream, out
    yield "TreeAttention, outputs given", plan, lambda layer: attention(*layers[layer]), out
    yield "TreeAttention", plan, lambda layer: attention(*layers[layer][:3]), None
    yield "torch.ops.espalier.attend", plan, lambda layer: operator(attention._handle, *layers[layer], 0.0, 0.0), out


def do_nothing(plan, q, k, v, out, lse, *, stream):
    pass


def check(problem, name, call, out):
    for layer in range(problem.layers):
        if out is not None:
            out[layer].fill_(float("nan"))
        synchronize(problem)
        returned = call(layer)
        synchronize(problem)
        found = returned[0] if out is None else out[layer]
        expected = problem.expected(layer)
        error = float((found.double() - expected).norm() / expected.norm())
        if not error <= LARGEST_ERROR[problem.dtype_name]:
            sys.exit(f"host_time.py: {name}: the result is wrong, its error is {error:.1e}")


def batches(call, problem, options):
    """Microseconds of a call, for each batch."""
    taken = []
    with torch.inference_mode():
        for _ in range(options.batches):
            synchronize(problem)
            begin = time.perf_counter()
            for index in range(options.calls):
                call(index % problem.layers)
            taken.append(1e6 * (time.perf_counter() - begin) / options.calls)
    return taken


def figures(taken):
    return [f"{figure(taken):.2f}" for figure in (np.median, np.min, np.max)]


def synchronize(problem):
    if problem.device.type == "cuda":
        torch.cuda.synchronize(problem.device)


if __name__ == "__main__":
    main()
