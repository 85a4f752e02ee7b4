"""Exact attention over the tree of KV caches that reasoning models grow.

    pool = espalier.BlockPool(blocks=64, block_tokens=16)
    tree = espalier.KvTree(pool)
    trunk = tree.root(100)                   # a prompt of 100 tokens,
    tree.fork(trunk, 2)                      # three branches that share it,
    tree.append(tree.branches(), 10)         # and 10 tokens of its own for each

    snapshot = tree.snapshot()
    config = espalier.PlanConfig(espalier.HeadShape(8, 2, 64))
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))       # once for each step, for all layers
    espalier.attend(plan, q, k, v, out, lse)         # once for each layer

Arrays come from NumPy, PyTorch, CuPy or JAX by DLPack; nothing is copied or converted. They lie in the memory of the
execution space that the library was built for, the shapes are

    q, out  [rows, query_heads, head_dim]                    f32, f16 or bf16
    lse     [rows, query_heads]                              f32, natural log
    k, v    [blocks, block_tokens, kv_heads, head_dim]       like q; or [tokens, kv_heads, head_dim]

A wrong argument raises ValueError, a fixed capacity that does not suffice CapacityError, a plan that was never updated
StalePlanError, and what no compiled kernel can do NotImplementedError, each with the values in its message.
"""

from ._core import (
    Array,
    BlockPool,
    BlockTableReader,
    BranchController,
    BranchDecision,
    BranchFork,
    BranchId,
    BranchRow,
    BranchScore,
    CapacityError,
    CostModel,
    CutParams,
    DerivedTree,
    FastTreeAssignments,
    FastTreeParams,
    HeadShape,
    KernelInfo,
    KernelValidation,
    KvTree,
    Plan,
    PlanCapacity,
    PlanConfig,
    PlanReport,
    PoolStats,
    StalePlanError,
    TreeArrays,
    TreeSnapshot,
    __version__,
    append,
    array,
    attend,
    dtype_of,
    fasttree_assignments,
    kernels,
    make_beam_search,
    make_best_of_n,
    make_snapshot,
    make_speculative_accept,
    make_tree_of_thoughts,
    merge,
    slots_in_node_order,
    validate,
    workload,
)
from .branches import PhysicalKVAllocator, tree_attention
from .planning import GrowingPlan
