"""A speculative token tree: every draft token is a node of one token and a row that sees its own path.

One attention verifies all drafts. What is accepted goes on as a branch; the other drafts are never copied or masked
token by token.
"""

import numpy as np

import espalier

CONTEXT = 500
# Drafts: the parent of each, -1 for the last token of the context.
DRAFTS = [-1, -1, -1, 0, 0, 1, 3, 3, 6]

parents = [-1] + [draft + 1 for draft in DRAFTS]  # node 0 is the context
tokens = [CONTEXT] + [1] * len(DRAFTS)
rows = list(range(len(parents)))  # the last token of the context, and each draft
snapshot = espalier.make_snapshot(parents, tokens, rows, layout="contiguous")

config = espalier.PlanConfig(espalier.HeadShape(query_heads=8, kv_heads=2, head_dim=64))
config.capacity = espalier.Plan.required_capacity(snapshot, config)
plan = espalier.Plan(config)
plan.update(espalier.TreeArrays(snapshot))

random = np.random.default_rng(0)
k, v = random.standard_normal((2, sum(tokens), 2, 64)).astype(np.float32)
q = np.zeros((len(rows), 8, 64), np.float32)  # every token weighs the same, so that exp(lse) counts what a row sees
out, lse = np.empty_like(q), np.empty((len(rows), 8), np.float32)
espalier.attend(plan, q, k, v, out, lse)

depth = [0] * len(parents)
for node in range(1, len(parents)):
    depth[node] = depth[parents[node]] + 1
seen = np.exp(lse[:, 0].astype(np.float64)).round().astype(int)
print(f"{len(DRAFTS)} drafts see {seen[1:].tolist()} tokens")
assert seen.tolist() == [CONTEXT + d for d in depth]

# A stand-in for the model's verdict: it accepts the path 0, 3, 6.
pool = espalier.BlockPool(blocks=64, block_tokens=16)
tree = espalier.KvTree(pool)
context = tree.root(CONTEXT)
(accepted,) = tree.fork(context)
tree.append(accepted, 3)
tree.prune(context)
print(f"accepted 3 drafts: the branch has {tree.tokens(accepted)} tokens in {pool.stats().used} blocks")
