"""Grouped-query attention: a group of query heads reads the same KV head, at any ratio."""

import numpy as np

import espalier

random = np.random.default_rng(0)
snapshot = espalier.make_snapshot([-1, 0, 0], [64, 8, 8], layout="contiguous")
tokens, head_dim = 80, 64
for query_heads, kv_heads in ((8, 8), (8, 2), (7, 1)):
    q = random.standard_normal((2, query_heads, head_dim)).astype(np.float16)
    k, v = random.standard_normal((2, tokens, kv_heads, head_dim)).astype(np.float16)
    out = np.empty_like(q)

    config = espalier.PlanConfig(espalier.HeadShape(query_heads, kv_heads, head_dim), "f16")
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    espalier.attend(plan, q, k, v, out)

    group = query_heads // kv_heads
    head, path = query_heads - 1, list(range(64)) + list(range(72, 80))  # of row 1: the root and the second leaf
    scores = (k[path, head // group] @ q[1, head].astype(np.float32)) / head_dim**0.5
    weights = np.exp(scores - scores.max())
    expected = weights @ v[path, head // group] / weights.sum()
    error = np.abs(out[1, head] - expected).max()
    print(f"{query_heads} query heads on {kv_heads} KV heads: largest error of the last head {error:.1e}")
    assert error < 5e-3
