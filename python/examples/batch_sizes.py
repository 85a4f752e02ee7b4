"""What sharing gains as the batch grows: branches over one prompt, read once for all of them or once for each."""

import time

import numpy as np

import espalier

PROMPT, OWN = 1000, 20
heads = espalier.HeadShape(query_heads=8, kv_heads=2, head_dim=64)
random = np.random.default_rng(0)


def microseconds(branches, strategy):
    """Median time of one attention."""
    parents, tokens, rows = espalier.workload(f"star:{PROMPT},{branches},{OWN}")
    snapshot = espalier.make_snapshot(parents, tokens, rows, layout="contiguous")
    config = espalier.PlanConfig(heads, strategy=strategy)
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    k, v = (random.standard_normal((sum(tokens), heads.kv_heads, heads.head_dim), np.float32) for _ in range(2))
    q = random.standard_normal((branches, heads.query_heads, heads.head_dim), np.float32)
    out = np.empty_like(q)
    taken = []
    for _ in range(7):
        begin = time.perf_counter()
        espalier.attend(plan, q, k, v, out)
        taken.append(time.perf_counter() - begin)
    return 1e6 * float(np.median(taken))


print("branches   stored tokens   unshared   shared us   each for itself us   gain")
for branches in (1, 2, 4, 8, 16, 32, 64):
    shared, alone = microseconds(branches, "automatic"), microseconds(branches, "sequence_split")
    print(
        f"{branches:8} {PROMPT + branches * OWN:15,} {branches * (PROMPT + OWN):10,} {shared:11.0f} {alone:20.0f} "
        f"{alone / shared:6.1f}"
    )
