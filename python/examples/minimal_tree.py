"""Three branches share a prompt: it is stored once, and read once for all of them."""

import numpy as np

import espalier

pool = espalier.BlockPool(blocks=64, block_tokens=16)  # 64 blocks of 16 KV slots
tree = espalier.KvTree(pool)
trunk = tree.root(100)  # a prompt of 100 tokens,
tree.fork(trunk, 2)  # three branches that share it,
tree.append(tree.branches(), 10)  # and 10 tokens of its own for each

snapshot = tree.snapshot()
config = espalier.PlanConfig(espalier.HeadShape(query_heads=8, kv_heads=2, head_dim=64))
config.capacity = espalier.Plan.required_capacity(snapshot, config)
plan = espalier.Plan(config)
plan.update(espalier.TreeArrays(snapshot))  # once for each step, for all layers

k, v = np.zeros((2, 64, 16, 2, 64), np.float32)
q = np.zeros((3, 8, 64), np.float32)
out, lse = np.empty_like(q), np.empty((3, 8), np.float32)
espalier.attend(plan, q, k, v, out, lse)  # each row attends over its own root-to-leaf path

print(
    f"stored {tree.stored_tokens} tokens instead of {tree.unshared_tokens}; "
    f"exp(lse) of row 0 counts its {np.exp(lse[0, 0]):.0f} tokens"
)
