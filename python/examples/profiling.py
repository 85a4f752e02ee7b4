"""Where the time of a decode step goes: bookkeeping on the host, the plan, writing K and V, the attention.

What a plan says of itself tells whether the attention is as fast as it can be: bytes read against bytes stored, and how
evenly the work is spread. On a GPU, PyTorch's profiler and Nsight show the same regions by the names `espalier::...`.
"""

import time
from contextlib import contextmanager

import numpy as np

import espalier

STEPS, LAYERS = 20, 4
heads = espalier.HeadShape(query_heads=8, kv_heads=2, head_dim=64)
spent = {}


@contextmanager
def timed(name):
    begin = time.perf_counter()
    yield
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin


random = np.random.default_rng(0)
pool = espalier.BlockPool(blocks=512, block_tokens=16)
tree = espalier.KvTree(pool)
tree.fork(tree.root(2000), 15)
branches = tree.branches()
shape = (LAYERS, 512, 16, heads.kv_heads, heads.head_dim)
k, v = (random.standard_normal(shape, np.float32) for _ in range(2))
q = random.standard_normal((len(branches), heads.query_heads, heads.head_dim), np.float32)
k_new, v_new = (random.standard_normal((len(branches), heads.kv_heads, heads.head_dim), np.float32) for _ in range(2))
out = np.empty_like(q)

# Buffers that do not move are wrapped once: a call then does not ask them for their memory again.
layers = [tuple(espalier.array(part[layer]) for part in (k, v)) for layer in range(LAYERS)]
q, k_new, v_new, out = (espalier.array(array) for array in (q, k_new, v_new, out))
plans = espalier.GrowingPlan(espalier.PlanConfig(heads))

for _ in range(STEPS):
    with timed("tree (host)"):
        tree.append(branches)
        slots = tree.last_slots(branches)
        snapshot = tree.snapshot()
    with timed("plan"):
        plan = plans.update(snapshot)
    for k_layer, v_layer in layers:
        with timed("append, all layers"):
            espalier.append(slots, k_new, v_new, k_layer, v_layer)
        with timed("attend, all layers"):
            espalier.attend(plan, q, k_layer, v_layer, out)

total = sum(spent.values())
for name, seconds in spent.items():
    print(f"{name:20} {1e6 * seconds / STEPS:8.1f} us per step, {100 * seconds / total:4.1f} %")

report = plan.report()
attend_us = 1e6 * spent["attend, all layers"] / STEPS / LAYERS
print(
    f"\n{report.tiles} tiles on {report.workers} workers, predicted {report.predicted_us:.0f} us, took {attend_us:.0f} us; "
    f"{100 * report.imbalance:.1f} % above an even spread\n"
    f"reads {report.kv_bytes / report.unique_kv_bytes:.2f} times the KV of the tree, {report.unique_kv_bytes / attend_us / 1e3:.1f} "
    f"GB/s of it; {report.merged_rows} results are merged from {report.partials} partials"
)
