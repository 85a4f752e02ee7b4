"""A tree that is described by its parents, over K and V that lie one after another, without a pool."""

import numpy as np

import espalier

# node      0    1   2   3   4     a prompt of 100 tokens, two thoughts, of which the second forks again
parents = [-1, 0, 0, 2, 2]
tokens = [100, 20, 30, 5, 8]
rows = [1, 3, 4, 2]  # a row for each leaf, and one more at the end of node 2

snapshot = espalier.make_snapshot(parents, tokens, rows, layout="contiguous")
heads = espalier.HeadShape(query_heads=4, kv_heads=4, head_dim=32)

random = np.random.default_rng(0)
k, v = random.standard_normal((2, sum(tokens), 4, 32)).astype(np.float32)  # the tokens of all nodes in node order
q = random.standard_normal((len(rows), 4, 32)).astype(np.float32)

results = {}
for strategy in ("sequence", "node", "flatten", "fasttree", "automatic"):
    config = espalier.PlanConfig(heads, strategy=strategy)
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    out = results[strategy] = np.empty_like(q)
    espalier.attend(plan, q, k, v, out)
    report = plan.report()
    print(f"{strategy:10} {report.tiles:3} tiles read {report.kv_bytes / report.unique_kv_bytes:.2f} times the tree")
assert all(np.allclose(out, results["sequence"], atol=1e-5) for out in results.values())
