"""What the three searches share: a tree that a controller forks and prunes, with a stand-in for a model.

A real model computes q, K and V from its tokens; here they are random, and a branch scores what its attention sums up
to. The loop is the one of a real search: append, plan, attend, score, decide.
"""

import numpy as np

import espalier

HEADS = espalier.HeadShape(query_heads=8, kv_heads=2, head_dim=32)


def search(controller, prompt_tokens, steps, tokens_per_step, seed=0):
    """Runs a search, and prints a line for each step. Returns the tree."""
    random = np.random.default_rng(seed)
    pool = espalier.BlockPool(blocks=512, block_tokens=16)
    tree = espalier.KvTree(pool)
    k, v = np.zeros((2, 512, 16, HEADS.kv_heads, HEADS.head_dim), np.float32)
    plans = espalier.GrowingPlan(espalier.PlanConfig(HEADS))

    def append(slots):
        k_new, v_new = random.standard_normal((2, len(slots), HEADS.kv_heads, HEADS.head_dim)).astype(np.float32)
        espalier.append(slots, k_new, v_new, k, v)

    append(tree.slots(tree.root(prompt_tokens)))
    tree.apply(controller.decide([espalier.BranchScore(branch, 0.0) for branch in tree.branches()]))
    for step in range(steps):
        branches = tree.branches()
        tree.append(branches, tokens_per_step)
        append(tree.last_slots(branches, tokens_per_step))
        plan = plans.update(tree.snapshot())
        q = random.standard_normal((len(branches), HEADS.query_heads, HEADS.head_dim)).astype(np.float32)
        out = np.empty_like(q)
        espalier.attend(plan, q, k, v, out)
        scores = [espalier.BranchScore(branch, float(row.sum())) for branch, row in zip(branches, out)]
        print(
            f"step {step}: {len(branches)} branches, {tree.stored_tokens} tokens stored instead of "
            f"{tree.unshared_tokens}, {pool.stats().used} blocks"
        )
        tree.apply(controller.decide(scores))
    return tree
