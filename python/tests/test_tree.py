import numpy as np
import pytest

import espalier


def test_forks_share_and_prunes_free():
    pool = espalier.BlockPool(blocks=16, block_tokens=4)
    tree = espalier.KvTree(pool)
    trunk = tree.root(8)
    left, right = tree.fork(trunk, 2)
    assert tree.branches() == [trunk, left, right]
    assert (tree.stored_tokens, tree.unshared_tokens) == (8, 24)
    assert pool.stats().used == 2 and pool.stats().shared == 2
    tree.append(left, 1)
    assert tree.tokens(left) == 9 and tree.tokens(right) == 8 and tree.nodes == 2
    (middle,) = tree.split(trunk, 5)
    assert tree.tokens(middle) == 5
    for branch in tree.branches():
        tree.prune(branch)
    assert not tree.is_live(trunk) and pool.free_blocks() == 16


def test_branch_ids_are_values():
    tree = espalier.KvTree(espalier.BlockPool(4, 4))
    a = tree.root(1)
    (b,) = tree.fork(a)
    assert a == tree.branches()[0] and a != b and len({a, b, tree.branches()[1]}) == 2
    assert repr(a) == f"BranchId({a.index}, generation {a.generation})"
    tree.prune(a)
    assert tree.root(1) not in (a, b)


def test_slots_are_blocks_and_offsets():
    tree = espalier.KvTree(espalier.BlockPool(8, 4))
    a = tree.root(6)
    slots = tree.slots(a)
    assert slots.dtype == np.int64 and np.array_equal(slots, np.arange(6))
    tree.append(a)
    assert np.array_equal(tree.last_slots([a]), tree.slots(a, 6)) and np.array_equal(tree.slots(a, 2, 4), [2, 3])


def test_a_snapshot_shares_its_memory_and_outlives_the_tree():
    tree = espalier.KvTree(espalier.BlockPool(8, 4))
    tree.fork(tree.root(5), 1)
    tree.append(tree.branches(), 2)
    snapshot = tree.snapshot()
    tokens = snapshot.tokens
    del tree, snapshot
    assert tokens.tolist() == [5, 2, 2] and not tokens.flags.writeable


def test_snapshot_of_chosen_rows():
    tree = espalier.KvTree(espalier.BlockPool(8, 4))
    a = tree.root(5)
    (b,) = tree.fork(a)
    tree.append(b, 3)
    rows = [espalier.BranchRow(b), espalier.BranchRow(b, 6), espalier.BranchRow(a)]
    snapshot = tree.snapshot(rows)
    assert snapshot.rows == 3 and snapshot.row_index.tolist() == [2, 1, 0]


def test_slots_in_node_order_follow_the_layout():
    assert espalier.slots_in_node_order([-1, 0], [3, 2], 4).tolist() == [0, 1, 2, 4, 5]
    assert espalier.slots_in_node_order([-1, 0], [3, 2], 4, "contiguous").tolist() == [0, 1, 2, 3, 4]


def test_pool_operations_on_lists():
    pool = espalier.BlockPool(4, 16)
    ids = np.full(3, -1, np.int32)
    pool.acquire(ids)
    assert ids.tolist() == [0, 1, 2]
    pool.retain(ids[:1])
    pool.release(ids)
    assert pool.stats().used == 1 and pool.stats().error == ""
    too_many = np.full(4, -1, np.int32)
    pool.acquire(too_many)
    assert too_many.tolist() == [-1] * 4
    assert pool.stats().error == "exhausted: 4 blocks wanted, 3 free"
    pool.clear_error()
    assert pool.stats().error == ""


def scores(tree, values):
    return [espalier.BranchScore(branch, value) for branch, value in zip(tree.branches(), values, strict=True)]


def test_beam_search_keeps_the_best_half():
    tree = espalier.KvTree(espalier.BlockPool(64, 4))
    controller = espalier.make_beam_search(width=4)
    tree.root(3)
    assert len(tree.apply(controller.decide(scores(tree, [0.0])))) == 3
    tree.append(tree.branches())
    best = [tree.branches()[1], tree.branches()[3]]
    created = tree.apply(controller.decide(scores(tree, [-9.0, -1.0, -5.0, -2.0])))
    assert len(created) == 2 and len(tree.branches()) == 4 and all(tree.is_live(branch) for branch in best)


@pytest.mark.parametrize(
    "controller, branches",
    [
        (espalier.make_tree_of_thoughts(keep=2, expand=3, depth=2), 3),
        (espalier.make_best_of_n(samples=5), 5),
        (espalier.make_speculative_accept(drafts=4), 5),
    ],
)
def test_controllers_fork_the_prompt(controller, branches):
    tree = espalier.KvTree(espalier.BlockPool(64, 4))
    tree.root(3)
    tree.apply(controller.decide(scores(tree, [0.0])))
    assert len(tree.branches()) == branches


def test_a_decision_made_by_hand():
    tree = espalier.KvTree(espalier.BlockPool(64, 4))
    a = tree.root(9)
    decision = espalier.BranchDecision([espalier.BranchFork(a, 2), espalier.BranchFork(a, 1, at_token=4)], [a])
    created = tree.apply(decision)
    assert [tree.tokens(branch) for branch in created] == [9, 9, 4] and tree.branches() == created
