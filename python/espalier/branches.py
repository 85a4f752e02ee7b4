"""Branches of a KV cache that are allocated, forked and freed one by one, and attention over all of them."""

from ._core import BlockPool, BranchRow, HeadShape, KvTree, PlanConfig, attend, dtype_of
from .planning import GrowingPlan


class PhysicalKVAllocator:
    """Token slots of a KV cache for branches that share their parents' tokens by reference.

        allocator = espalier.PhysicalKVAllocator(num_blocks=256, block_tokens=16)
        prompt = allocator.alloc_branch(1000)
        thought = allocator.alloc_branch(20, parent=prompt)     # 1020 tokens, of which 1000 are the prompt's
        allocator.free_branch(prompt)                           # its blocks live on in `thought`

    Every block counts the branches that hold it, and is free when the last one goes. K and V are the caller's arrays,
    [num_blocks, block_tokens, kv_heads, head_dim]; slots() says where the tokens of a branch go.
    """

    def __init__(self, num_blocks: int, block_tokens: int = 16):
        """Raises ValueError unless num_blocks >= 1 and 1 <= block_tokens <= 256."""
        self.pool = BlockPool(num_blocks, block_tokens)
        self.tree = KvTree(self.pool)
        self._plans: dict[tuple, GrowingPlan] = {}  # by head shape and type

    def alloc_branch(self, num_tokens: int, parent=None):
        """A new branch: all tokens that `parent` has now, by reference, and `num_tokens` of its own.

        Raises CapacityError, and allocates nothing, where the pool has too few free blocks.
        """
        if parent is None:
            return self.tree.root(num_tokens)
        (branch,) = self.tree.fork(parent, 1)
        try:
            self.tree.append(branch, num_tokens)
        except Exception:
            self.tree.prune(branch)
            raise
        return branch

    def extend(self, branch, num_tokens: int = 1):
        """Lengthens a branch. Raises CapacityError where the pool has too few free blocks."""
        self.tree.append(branch, num_tokens)

    def free_branch(self, branch):
        """Ends a branch; blocks that no other branch holds become free."""
        self.tree.prune(branch)

    def slots(self, branch, begin: int = 0, end: int | None = None):
        """Slots of the tokens [begin, end) of a branch, int64; `append` writes K and V there."""
        return self.tree.slots(branch, begin, end)

    def plan(self, branches, heads: HeadShape, dtype: str, stream: int = 0):
        """The plan of an attention with one row at the end of each branch; allocates only while the tree grows."""
        key = (heads.query_heads, heads.kv_heads, heads.head_dim, dtype)
        if key not in self._plans:
            self._plans[key] = GrowingPlan(PlanConfig(heads, dtype))
        return self._plans[key].update(self.tree.snapshot([BranchRow(branch) for branch in branches]), stream)


def tree_attention(
    q, k, v, allocator: PhysicalKVAllocator, branches, out, lse=None, *, scale=0.0, soft_cap=0.0, stream=0
):
    """Attention of one row per branch over all of its tokens, each shared token read once.

    q         [branches, query_heads, head_dim]                   read; f32, f16 or bf16
    k, v      [num_blocks, block_tokens, kv_heads, head_dim]      read
    branches  of the allocator, in the order of the rows
    out       like q, written
    lse       f32 [branches, query_heads], written; None: not wanted

    Plans anew in each call: for several layers, call allocator.plan() once and espalier.attend() for each layer.
    Raises ValueError as attend(), or for a branch that is not live.
    """
    heads = HeadShape(q.shape[1], k.shape[-2], q.shape[2])
    plan = allocator.plan(branches, heads, dtype_of(q), stream)
    attend(plan, q, k, v, out, lse, scale=scale, soft_cap=soft_cap, stream=stream)
