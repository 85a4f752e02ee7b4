"""Which way to cut a tree is best on this machine, and whether the cost model knows it.

The cost model predicts what a plan takes; `automatic` chooses by it. Here its two rates are calibrated on two trees, one
that is all reading and one that is all arithmetic, and predictions are compared with measurements, before and after.
(`espalier calibrate` measures all constants of the model.)

usage: tuning.py [--plot FILE]        draws the comparison (.svg, .png, .pdf), with matplotlib
"""

import sys
import time

import numpy as np

import espalier

HEADS = espalier.HeadShape(query_heads=8, kv_heads=2, head_dim=64)
STRATEGIES = ("sequence", "sequence_split", "node", "node_chunk", "flatten", "fasttree", "automatic")
READING, ARITHMETIC = "layers:16/2000", "star:1000,64,1"
WORKLOADS = ("star:1000,16,20", "layers:1,4,16/200,100,50", "tokens:500,32")
random = np.random.default_rng(0)


def measure(workload, strategy, cost_model, seconds=0.02):
    """Microseconds of one attention: predicted, and the median of those measured."""
    parents, tokens, rows = espalier.workload(workload)
    snapshot = espalier.make_snapshot(parents, tokens, rows, layout="contiguous")
    config = espalier.PlanConfig(HEADS, strategy=strategy, cost_model=cost_model)
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    k, v = random.standard_normal((2, sum(tokens), HEADS.kv_heads, HEADS.head_dim), np.float32)
    q = random.standard_normal((len(rows), HEADS.query_heads, HEADS.head_dim), np.float32)
    out = np.empty_like(q)
    taken = []
    while len(taken) < 3 or sum(taken) < seconds:
        begin = time.perf_counter()
        espalier.attend(plan, q, k, v, out)
        taken.append(time.perf_counter() - begin)
    return plan.report().predicted_us, 1e6 * float(np.median(taken))


def calibrated(model):
    """The model with its rates corrected by how far its predictions are from what two probes take."""
    for _ in range(3):  # each probe has a little of the other's work
        for probe, rate in ((READING, "read_gbs"), (ARITHMETIC, "math_gflops")):
            predicted, measured = measure(probe, "node", model)
            setattr(model, rate, getattr(model, rate) * predicted / measured)
    return model


def compare(model):
    return {(workload, s): measure(workload, s, model) for workload in WORKLOADS for s in STRATEGIES}


def draw(before, after, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 5))
    for name, results in (("default", before), ("calibrated", after)):
        predicted, measured = zip(*results.values())
        axes.scatter(measured, predicted, label=name)
    ends = [min(measured) / 2, max(measured) * 2]
    axes.plot(ends, ends, color="black", linewidth=0.5)
    axes.set(xscale="log", yscale="log", xlabel="measured us", ylabel="predicted us", title="cost model")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


default = espalier.Plan(espalier.PlanConfig(HEADS, capacity=espalier.PlanCapacity(nodes=1, rows=1))).config.cost_model
before = compare(default)
model = calibrated(default)
after = compare(model)
print(f"calibrated: {model.read_gbs:.3g} GB/s and {model.math_gflops:.3g} GFLOP/s for each worker\n")
for workload in WORKLOADS:
    print(workload)
    for strategy in STRATEGIES:
        predicted, measured = after[workload, strategy]
        print(f"  {strategy:14} predicted {predicted:8.0f} us, measured {measured:8.0f} us")
    best = min(STRATEGIES, key=lambda strategy: after[workload, strategy][1])
    print(f"  fastest: {best}\n")
if "--plot" in sys.argv:
    draw(before, after, sys.argv[sys.argv.index("--plot") + 1])
