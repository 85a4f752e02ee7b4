import gc

import numpy as np
import pytest

import espalier
import oracle

PARENTS, TOKENS = [-1, 0, 0, 2, 2, -1], [50, 17, 33, 1, 40, 9]


def problem(query_heads=4, kv_heads=2, head_dim=32, dtype=np.float32, rows=4, tokens=sum(TOKENS), seed=0):
    random = np.random.default_rng(seed)
    shapes = [(rows, query_heads, head_dim), (tokens, kv_heads, head_dim), (tokens, kv_heads, head_dim)]
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def planned(snapshot, heads, dtype="f32", **options):
    config = espalier.PlanConfig(espalier.HeadShape(*heads), dtype, **options)
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    return plan


@pytest.mark.parametrize("dtype, name", [(np.float32, "f32"), (np.float16, "f16")])
@pytest.mark.parametrize("heads", [(4, 4, 32), (6, 2, 40), (8, 1, 128)])
def test_attend_agrees_with_the_oracle(dtype, name, heads):
    q, k, v = problem(*heads, dtype=dtype)
    plan = planned(espalier.make_snapshot(PARENTS, TOKENS, layout="contiguous"), heads, name)
    out, lse = np.full_like(q, np.nan), np.full(q.shape[:2], np.nan, np.float32)
    espalier.attend(plan, q, k, v, out, lse)
    expected = oracle.attend(oracle.paths_of(PARENTS, TOKENS), q, k, v)
    assert oracle.close(out, expected[0])
    assert oracle.close(lse, expected[1])


@pytest.mark.parametrize(
    "strategy", ["sequence", "sequence_split", "node", "node_chunk", "flatten", "fasttree", "automatic"]
)
def test_every_strategy_gives_the_same_attention(strategy):
    q, k, v = problem()
    plan = planned(espalier.make_snapshot(PARENTS, TOKENS, layout="contiguous"), (4, 2, 32), strategy=strategy)
    out = np.empty_like(q)
    espalier.attend(plan, q, k, v, out, scale=0.3, soft_cap=2.0)
    assert oracle.close(out, oracle.attend(oracle.paths_of(PARENTS, TOKENS), q, k, v, 0.3, 2.0)[0])
    assert plan.report().rows == 4


def test_a_decode_step_appends_in_place_and_attends_over_blocks():
    tree = espalier.KvTree(espalier.BlockPool(32, 8))
    a = tree.root(20)
    (b,) = tree.fork(a)
    tree.append([a, b], 5)
    q, k_new, v_new = problem(rows=2, tokens=30)
    k, v = np.full((2, 32, 8, 2, 32), np.nan, np.float32)  # attend must read the slots of the tree alone
    slots = np.concatenate([tree.slots(a), tree.slots(b, 20)])
    espalier.append(slots, k_new, v_new, k, v)
    plan = planned(tree.snapshot(), (4, 2, 32))
    out = np.empty_like(q)
    espalier.attend(plan, q, k, v, out)
    paths = [list(range(25)), list(range(20)) + list(range(25, 30))]
    assert oracle.close(out, oracle.attend(paths, q, k_new, v_new)[0])
    assert np.array_equal(k.reshape(-1, 2, 32)[slots], k_new)


def test_strided_arrays_are_read_and_written_in_place():
    q, k, v = problem()
    wide_q, wide_kv = np.zeros((4, 4, 64), np.float32), np.zeros((len(k), 2, 2, 32), np.float32)
    wide_q[:, :, :32], wide_kv[:, 0], wide_kv[:, 1] = q, k, v
    out = np.zeros((4, 4, 50), np.float32)
    plan = planned(espalier.make_snapshot(PARENTS, TOKENS, layout="contiguous"), (4, 2, 32))
    espalier.attend(plan, wide_q[:, :, :32], wide_kv[:, 0], wide_kv[:, 1], out[:, :, 9:41])
    assert oracle.close(out[:, :, 9:41], oracle.attend(oracle.paths_of(PARENTS, TOKENS), q, k, v)[0])
    assert not out[:, :, :9].any() and not out[:, :, 41:].any()


def test_read_only_inputs_and_wrapped_arrays_are_accepted():
    q, k, v = problem()
    q.flags.writeable = False
    plan = planned(espalier.make_snapshot(PARENTS, TOKENS, layout="contiguous"), (4, 2, 32))
    plain, wrapped = np.empty_like(q), np.empty_like(q)
    espalier.attend(plan, q, k, v, plain)
    espalier.attend(plan, q, espalier.array(k), espalier.array(v), espalier.array(wrapped))
    assert np.array_equal(plain, wrapped)


class Asked:
    """An array that counts how often it is asked for its memory."""

    def __init__(self, array):
        self.array, self.times = array, 0

    def __dlpack__(self, *arguments, **options):
        self.times += 1
        return self.array.__dlpack__(*arguments, **options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_a_wrapped_array_is_asked_for_its_memory_once_and_keeps_it():
    q, k, v = problem()
    plan = planned(espalier.make_snapshot(PARENTS, TOKENS, layout="contiguous"), (4, 2, 32))
    asked = Asked(k.copy())
    wrapped, kept = espalier.array(asked), espalier.array(v.copy())
    assert isinstance(wrapped, espalier.Array) and espalier.dtype_of(wrapped) == "f32"
    gc.collect()
    out = np.empty_like(q)
    for _ in range(3):
        espalier.attend(plan, q, wrapped, kept, out)
    assert asked.times == 1
    assert oracle.close(out, oracle.attend(oracle.paths_of(PARENTS, TOKENS), q, k, v)[0])


def test_a_row_with_an_empty_path_gives_zero_and_minus_infinity():
    q, k, v = problem(rows=1, tokens=1)
    plan = planned(espalier.make_snapshot([-1], [0], layout="contiguous"), (4, 2, 32))
    out, lse = np.ones_like(q), np.ones((1, 4), np.float32)
    espalier.attend(plan, q, k, v, out, lse)
    assert not out.any() and np.all(lse == -np.inf)


def test_rows_that_see_a_part_of_their_node():
    q, k, v = problem(rows=3, tokens=10)
    snapshot = espalier.make_snapshot([-1], [10], [0, 0, 0], [4, -1, 0], layout="contiguous")
    out = np.empty_like(q)
    espalier.attend(planned(snapshot, (4, 2, 32)), q, k, v, out)
    assert oracle.close(out, oracle.attend([range(4), range(10), []], q, k, v)[0])


def test_a_plan_grows_with_its_tree():
    tree = espalier.KvTree(espalier.BlockPool(32, 8))
    a = tree.root(9)
    tree.fork(a)
    tree.append(tree.branches())
    snapshot = tree.snapshot()
    arrays = espalier.TreeArrays(nodes=8, rows=2, blocks=32)
    arrays.upload(snapshot)
    plan = espalier.Plan(espalier.PlanConfig(espalier.HeadShape(4, 2, 32), capacity=espalier.PlanCapacity(nodes=8, rows=2)))
    plan.update(arrays)
    tree.append(tree.branches(), 3)
    arrays.upload(tree.snapshot())
    plan.grow(arrays)
    q, _, _ = problem(rows=2)
    k, v = np.random.default_rng(1).standard_normal((2, 32, 8, 2, 32)).astype(np.float32)
    out = np.empty_like(q)
    espalier.attend(plan, q, k, v, out)
    paths = [tree.slots(branch) for branch in tree.branches()]
    assert oracle.close(out, oracle.attend(paths, q, k.reshape(-1, 2, 32), v.reshape(-1, 2, 32))[0])


def test_page_tables_give_the_tree_that_they_share():
    tables = np.array([[7, 3, 9], [7, 3, 4], [1, 0, 0]], np.int32)
    arrays = espalier.TreeArrays.from_block_tables(tables, np.array([10, 12, 3], np.int32), 4, 16)
    plan = espalier.Plan(
        espalier.PlanConfig(espalier.HeadShape(4, 2, 32), capacity=espalier.PlanCapacity(nodes=8, rows=3))
    )
    plan.update(arrays)
    q, _, _ = problem(rows=3)
    k, v = np.random.default_rng(2).standard_normal((2, 16, 4, 2, 32)).astype(np.float32)
    out = np.empty_like(q)
    espalier.attend(plan, q, k, v, out)
    slots = [[4 * table[t // 4] + t % 4 for t in range(n)] for table, n in zip(tables, (10, 12, 3))]
    assert oracle.close(out, oracle.attend(slots, q, k.reshape(-1, 2, 32), v.reshape(-1, 2, 32))[0])


def test_a_reader_follows_page_tables_that_change():
    reader = espalier.BlockTableReader(sequences=3, pool_blocks=16)
    with pytest.raises(espalier.StalePlanError):
        reader.report()
    arrays = espalier.TreeArrays(nodes=5, rows=3, blocks=16)
    plan = espalier.Plan(
        espalier.PlanConfig(espalier.HeadShape(4, 2, 32), capacity=espalier.PlanCapacity(nodes=8, rows=3))
    )
    k, v = np.random.default_rng(2).standard_normal((2, 16, 4, 2, 32)).astype(np.float32)
    q, _, _ = problem(rows=3)
    for tables, lengths, tokens in (
        ([[7, 3, 9], [7, 3, 4], [1, 0, 0]], [10, 12, 3], 8 + 2 + 4 + 3),
        ([[7, 3, 9], [7, 5, 4], [7, 5, 11]], [11, 8, 9], 4 + 7 + 4 + 1),
    ):
        tables, lengths = np.array(tables, np.int32), np.array(lengths, np.int32)
        reader.update(tables, lengths, 4, arrays)
        assert (reader.report().rows, reader.report().tokens) == (3, tokens)
        plan.update(arrays)
        out = np.empty_like(q)
        espalier.attend(plan, q, k, v, out)
        slots = [[4 * table[t // 4] + t % 4 for t in range(n)] for table, n in zip(tables, lengths)]
        assert oracle.close(out, oracle.attend(slots, q, k.reshape(-1, 2, 32), v.reshape(-1, 2, 32))[0])
    reader.update(np.array([[99]], np.int32), np.array([4], np.int32), 4, arrays)
    with pytest.raises(ValueError, match="99"):
        reader.report()


def test_decode_steps_that_the_host_does_not_see():
    """TreeArrays.grow, append, Plan.grow and attend: what a captured graph repeats."""
    snapshot = espalier.make_snapshot([-1, 0, 0], [5, 2, 1], block_tokens=4)
    arrays = espalier.TreeArrays(snapshot)
    plan = planned(snapshot, (4, 2, 32))
    plan.update(arrays)
    k, v = np.random.default_rng(4).standard_normal((2, 4, 4, 2, 32)).astype(np.float32)
    paths = [[0, 1, 2, 3, 4, 8, 9], [0, 1, 2, 3, 4, 12]]
    slots = np.empty(2, np.int64)
    for expected in ([10, 13], [11, 14], [-1, 15]):
        arrays.grow(slots)
        assert slots.tolist() == expected
        paths = [path + [slot] * (slot >= 0) for path, slot in zip(paths, expected)]
        q, k_new, v_new = problem(rows=2, tokens=2, seed=expected[1])
        espalier.append(slots, k_new, v_new, k, v)
        plan.grow(arrays)
        out = np.empty_like(q)
        espalier.attend(plan, q, k, v, out)
        assert oracle.close(out, oracle.attend(paths, q, k.reshape(-1, 2, 32), v.reshape(-1, 2, 32))[0])


def test_merge_of_two_halves_is_the_whole():
    q, k, v = problem(rows=1, tokens=20)
    whole, whole_lse = oracle.attend([range(20)], q, k, v)
    halves = [oracle.attend([half], q, k, v) for half in (range(7), range(7, 20))]
    partial_out = np.concatenate([out for out, _ in halves]).astype(np.float32)
    partial_lse = np.concatenate([lse for _, lse in halves]).astype(np.float32)
    out, lse = np.empty_like(q), np.empty((1, 4), np.float32)
    espalier.merge(partial_out, partial_lse, np.array([0, 2], np.int32), out, lse)
    assert oracle.close(out, whole) and oracle.close(lse, whole_lse)


def test_tree_attention_over_an_allocator_of_branches():
    allocator = espalier.PhysicalKVAllocator(num_blocks=40, block_tokens=4)
    prompt = allocator.alloc_branch(10)
    a = allocator.alloc_branch(3, parent=prompt)
    b = allocator.alloc_branch(5, parent=prompt)
    assert allocator.tree.stored_tokens == 18
    k, v = np.random.default_rng(3).standard_normal((2, 40, 4, 2, 32)).astype(np.float32)
    for _ in range(3):  # the plan is made once, and again when the tree has outgrown it
        q, _, _ = problem(rows=2)
        out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
        espalier.tree_attention(q, k, v, allocator, [b, a], out, lse, soft_cap=3.0)
        paths = [allocator.slots(b), allocator.slots(a)]
        expected = oracle.attend(paths, q, k.reshape(-1, 2, 32), v.reshape(-1, 2, 32), soft_cap=3.0)
        assert oracle.close(out, expected[0]) and oracle.close(lse, expected[1])
        allocator.extend(a, 30)
    allocator.free_branch(prompt)
    assert allocator.pool.stats().used > 0
    allocator.free_branch(a)
    allocator.free_branch(b)
    assert allocator.pool.stats().used == 0


def test_the_portable_kernel_is_there():
    kernels = {kernel.name: kernel for kernel in espalier.kernels()}
    assert kernels["portable"].available and kernels["portable"].why_not == ""


def test_a_plan_is_made_for_a_kernel():
    heads = espalier.HeadShape(4, 2, 32)
    capacity = espalier.PlanCapacity(nodes=4, rows=4)
    config = espalier.PlanConfig(heads, capacity=capacity, kernel="portable")
    assert config.kernel == "portable" and espalier.Plan(config).kernel.name == "portable"
    config.kernel = "automatic"
    assert config.kernel == "automatic" and espalier.Plan(config).kernel.available
    config.kernel = "magic"
    assert config.kernel == "magic"
    with pytest.raises(ValueError, match="magic"):
        espalier.Plan(config)
    if all(kernel.name == "portable" for kernel in espalier.kernels()):
        config.kernel = "fused"
        with pytest.raises(NotImplementedError):
            espalier.Plan(config)


def test_validate_checks_every_kernel():
    results = espalier.validate(quick=True)
    assert [result.kernel.name for result in results] == [kernel.name for kernel in espalier.kernels()]
    portable = espalier.validate(kernel="port", quick=True, seed=2)[0]
    assert portable.kernel.name == "portable" and portable.passed and portable.checked > 0 and portable.faults == []
    with pytest.raises(ValueError, match="magic"):
        espalier.validate(kernel="magic")
