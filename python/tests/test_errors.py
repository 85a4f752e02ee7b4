"""Each mistake gives one error of the right type, with the values in its message."""

import numpy as np
import pytest

import espalier


def make_plan(**capacity):
    heads = espalier.HeadShape(4, 2, 8)
    config = espalier.PlanConfig(heads, capacity=espalier.PlanCapacity(**(capacity or {"nodes": 4, "rows": 2})))
    return espalier.Plan(config)


@pytest.fixture
def plan():
    plan = make_plan()
    plan.update(espalier.TreeArrays(espalier.make_snapshot([-1, 0, 0], [4, 2, 3], layout="contiguous")))
    return plan


def arrays(rows=2, tokens=9):
    return {
        "q": np.zeros((rows, 4, 8), np.float32),
        "k": np.zeros((tokens, 2, 8), np.float32),
        "v": np.zeros((tokens, 2, 8), np.float32),
        "out": np.zeros((rows, 4, 8), np.float32),
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"q": np.zeros((3, 4, 8), np.float32)}, "q has extent 3 in dimension 0, expected 2"),
        ({"q": np.zeros((2, 4, 8), np.float64)}, "q has elements of type f64, expected f32, f16 or bf16"),
        ({"q": np.zeros((2, 4, 8), np.float16)}, "out has elements of type f32, expected f16"),
        ({"q": np.zeros((4, 8), np.float32)}, "q has 2 dimensions, expected 3"),
        ({"k": np.zeros((9, 2, 8), np.int32)}, "k has elements of type int32, expected f32"),
        ({"v": np.zeros((2, 8), np.float32)}, "v has 2 dimensions, expected 4, or 3"),
        ({"out": np.zeros((2, 4, 9), np.float32)}, "out has extent 9 in dimension 2, expected 8"),
        ({"out": np.zeros((2, 4, 16), np.float32)[:, :, ::2]}, "out has stride 2 in its last dimension"),
        ({"q": np.zeros((2, 4, 8), np.float32)[::-1]}, "q has stride -32 in dimension 0, expected 0 or more"),
        ({"lse": np.zeros((2, 4), np.float16)}, "lse has elements of type f16, expected f32"),
        ({"lse": np.zeros((2, 3), np.float32)}, "lse has extent 3 in dimension 1"),
        ({"soft_cap": -1.0}, "soft_cap is -1, expected 0 or more"),
        ({"kernel": "magic"}, "kernel is 'magic'"),
        ({"stream": 5}, "stream is 5, expected 0"),
    ],
)
def test_attend_says_what_is_wrong(plan, changes, message):
    if "stream" in changes and espalier.kernels()[0].backend in ("Cuda", "HIP"):
        pytest.skip("this build has streams")
    with pytest.raises(ValueError, match=message):
        espalier.attend(plan, **{**arrays(), **changes})


def test_outputs_must_be_writable_and_no_list(plan):
    read_only = arrays()
    read_only["out"].flags.writeable = False
    with pytest.raises(TypeError):
        espalier.attend(plan, **read_only)
    with pytest.raises(TypeError):
        espalier.attend(plan, **{**arrays(), "out": [[[0.0]]]})


def test_a_fused_kernel_is_not_implemented_on_the_cpu(plan):
    if any(kernel.name != "portable" for kernel in espalier.kernels()):
        pytest.skip("this build has fused kernels")
    with pytest.raises(NotImplementedError, match="fused"):
        espalier.attend(plan, **arrays(), kernel="fused")


def test_a_plan_without_a_tree_is_stale():
    plan = make_plan()
    with pytest.raises(espalier.StalePlanError):
        espalier.attend(plan, **arrays())
    with pytest.raises(espalier.StalePlanError):
        plan.report()


def test_capacities():
    plan = make_plan(nodes=2, rows=2)
    with pytest.raises(espalier.CapacityError, match="3"):
        plan.update(espalier.TreeArrays(espalier.make_snapshot([-1, 0, 0], [4, 2, 3])))
    tree = espalier.KvTree(espalier.BlockPool(2, 4))
    trunk = tree.root(8)
    with pytest.raises(espalier.CapacityError):
        tree.append(trunk)
    assert tree.tokens(trunk) == 8
    allocator = espalier.PhysicalKVAllocator(2, 4)
    prompt = allocator.alloc_branch(8)
    with pytest.raises(espalier.CapacityError):
        allocator.alloc_branch(1, parent=prompt)
    assert allocator.tree.branches() == [prompt]


def test_dead_branches_and_bad_trees():
    tree = espalier.KvTree(espalier.BlockPool(4, 4))
    branch = tree.root(1)
    tree.prune(branch)
    with pytest.raises(ValueError, match="not live"):
        tree.append(branch)
    with pytest.raises(ValueError):
        espalier.make_snapshot([-1, 1], [3, 3])
    with pytest.raises(ValueError, match="2 parents, but 1"):
        espalier.make_snapshot([-1, 0], [3])
    with pytest.raises(ValueError, match="layout is 'packed'"):
        espalier.make_snapshot([-1], [3], layout="packed")


def test_bad_configurations():
    heads = espalier.HeadShape(4, 2, 8)
    with pytest.raises(ValueError, match="dtype is 'float64'"):
        espalier.PlanConfig(heads, "float64")
    with pytest.raises(ValueError, match="strategy is 'best'.*'automatic'"):
        espalier.PlanConfig(heads, strategy="best")
    with pytest.raises(ValueError):
        espalier.Plan(espalier.PlanConfig(espalier.HeadShape(3, 2, 8)))
    with pytest.raises(ValueError, match="0"):
        espalier.BlockPool(0, 16)


def test_slots_and_ids_are_checked():
    a = arrays()
    k_new = np.zeros((2, 2, 8), np.float32)
    with pytest.raises(ValueError, match="slots has elements of type int32, expected int64"):
        espalier.append(np.zeros(2, np.int32), k_new, k_new, a["k"], a["v"])
    with pytest.raises(ValueError, match="slots has stride 2, expected 1"):
        espalier.append(np.zeros(4, np.int64)[::2], k_new, k_new, a["k"], a["v"])
    with pytest.raises(ValueError, match="ids has elements of type int64, expected int32"):
        espalier.BlockPool(4, 4).retain(np.zeros(1, np.int64))
