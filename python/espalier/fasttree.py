"""FastTree's own interface: a program that was written for it runs after changing its import.

    from espalier.fasttree import FastTreeParams, fasttree_preparation, fasttree_decode

The cost rule and its parameters are those of Pan et al. 2025, "FastTree: Optimizing Attention Kernel and Runtime for
Tree-Structured LLM Inference". Tensors may lie in CPU memory, may be of f32, f16 or bf16, and `logit_cap` caps.
"""

from ._core import CutParams, HeadShape, Plan, PlanConfig, TreeArrays, attend, dtype_of, fasttree_assignments
from ._core import FastTreeParams as _Rule
from ._core import make_snapshot

_BLOCK_TOKENS = 64  # how the plan addresses k_buffer and v_buffer, whose tokens lie one after another


class FastTreeParams:
    """Numbers of the cost rule; lists of two are indexed by the phase, 0 for nodes that many rows read."""

    def __init__(self):
        self.alpha = 0.66  # weight of padding query heads
        self.beta = 0.33  # weight of padding tokens
        self.gamma = 0.1  # weight of partial results to merge
        self.TSQs = [64, 16]  # rows of a tile
        self.TSKs = [32, 128]  # tokens that a tile reads at once
        self.kv_group_num = 1  # query heads per KV head

    def set_values(self, alpha, beta, gamma):
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def set_kv_group_num(self, kv_group_num):
        self.kv_group_num = kv_group_num

    def set_q_tile_sizes(self, TSQs):
        self.TSQs = TSQs

    def set_kv_tile_sizes(self, TSKs):
        self.TSKs = TSKs


class KVTreeNode:
    """A node of a tree: a list of them is indexed by `id`, parents before their children, -1 above a root."""

    def __init__(self):
        self.parent = -1
        self.id = -1
        self.seqlen = 0  # tokens
        self.num_children = 0
        self.requests = []  # that read the node; at inner nodes they may be left out


def load_tree(path):
    """Reads a tree file: the number of nodes, then a line "parent id tokens children" for each.

    Every leaf gets a request, in the order of ids, and so do the nodes above it. Returns the KVTreeNodes. Raises
    ValueError naming the file and the line that is wrong.
    """
    with open(path, encoding="ascii") as file:
        lines = file.read().splitlines()

    def integers(number, count, expected):
        words = lines[number].split() if number < len(lines) else []
        try:
            values = [int(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count:
            found = f"'{lines[number][:40]}'" if number < len(lines) else "the end of the file"
            raise ValueError(f"{path}: line {number + 1}: found {found}, expected {expected}")
        return values

    (count,) = integers(0, 1, "the number of nodes alone")
    nodes = []
    for i in range(count):
        node = KVTreeNode()
        node.parent, node.id, node.seqlen, node.num_children = integers(i + 1, 4, "'parent id tokens children'")
        if node.id != i or not -1 <= node.parent < i or node.seqlen < 0:
            raise ValueError(
                f"{path}: line {i + 2}: parent {node.parent}, id {node.id}, tokens {node.seqlen}: "
                f"expected id {i}, a parent of -1 to {i - 1} and 0 or more tokens"
            )
        nodes.append(node)
    children = [0] * count
    for node in nodes:
        if node.parent >= 0:
            children[node.parent] += 1
    requests = 0
    for node in nodes:
        if node.num_children != children[node.id]:
            raise ValueError(
                f"{path}: line {node.id + 2}: node {node.id} announces {node.num_children} children, "
                f"{children[node.id]} nodes name it as their parent"
            )
        if node.num_children == 0:
            above = node.id
            while above >= 0:
                nodes[above].requests.append(requests)
                above = nodes[above].parent
            requests += 1
    return nodes


retrive_from_file = load_tree  # spelt as FastTree spells it


class _Preparation:
    """What fasttree_decode needs: the tree, and a plan for each type of elements that it is called with."""

    def __init__(self, snapshot, heads, cuts):
        self.snapshot, self.heads, self.cuts = snapshot, heads, cuts
        self.tokens = int(snapshot.tokens.sum())
        self.plans = {}

    def plan(self, dtype, stream):
        if dtype not in self.plans:
            config = PlanConfig(self.heads, dtype, strategy="fasttree", cuts=self.cuts)
            config.capacity = Plan.required_capacity(self.snapshot, config, stream)
            plan = Plan(config, stream)
            plan.update(TreeArrays(self.snapshot, stream), stream)
            self.plans[dtype] = plan
        return self.plans[dtype]


def fasttree_preparation(
    tree_info,
    KV_ptrs,
    batch_size,
    num_qo_heads,
    num_kv_heads,
    head_dim,
    KV_SPLIT_SIZES,
    para_threshs1,
    para_threshs2,
    params,
):
    """Decides how a tree is read, once for all decodes.

    tree_info       KVTreeNodes, parents before their children
    KV_ptrs         [nodes + 1]  where the tokens of each node begin in k_buffer and v_buffer, in node order from 0
    batch_size      requests 0 .. batch_size - 1, each a row of q
    KV_SPLIT_SIZES  [2]  tokens of a tile at first, and where a phase has too few tiles
    para_threshs1   [2]  tiles of a phase that are enough in the first round; para_threshs2 in the second
    params          FastTreeParams; its tile sizes are set to those that the rule ends with

    Returns (metadata, node_assignments): 13 items for fasttree_decode, of which the first holds the plan and the others
    are None, since the plan keeps what FastTree keeps in them; and for each node 0 (Split-K) or 1 (Split-Q: the node's
    tile reads its parent's tokens too), by the published rule.

    Raises ValueError for a tree, pointers or parameters that make no sense.
    """
    parents = [node.parent for node in tree_info]
    tokens = [node.seqlen for node in tree_info]
    _check_pointers(KV_ptrs, tokens)
    snapshot = make_snapshot(
        parents, tokens, _nodes_of_requests(tree_info, batch_size), block_tokens=_BLOCK_TOKENS, layout="contiguous"
    )
    rule = _rule_of(params, KV_SPLIT_SIZES, para_threshs1, para_threshs2)
    costs = HeadShape(num_kv_heads * params.kv_group_num, num_kv_heads, head_dim)
    assignments = fasttree_assignments(snapshot, costs, rule)
    params.set_q_tile_sizes(list(assignments.tile_rows))
    params.set_kv_tile_sizes(list(assignments.tile_tokens))

    cuts = CutParams()
    cuts.fasttree = rule
    preparation = _Preparation(snapshot, HeadShape(num_qo_heads, num_kv_heads, head_dim), cuts)
    node_assignments = [0] * len(parents)
    for node, takes_copy in zip(_depth_first(parents), assignments.takes_copy):
        node_assignments[node] = takes_copy
    return (preparation,) + (None,) * 12, node_assignments


def fasttree_decode(
    q,
    k_buffer,
    v_buffer,
    o,
    vnode_to_kv_entries,
    vnode_to_kv_offs,
    vnode_to_kv_lens,
    vnode_to_q_entries,
    vnode_to_q_offs,
    vnode_to_q_lens,
    req_to_vnode_entries,
    req_to_vnode_offs,
    req_to_vnode_lens,
    mid_o,
    mid_lse,
    phase_node_nums,
    phase_node_offsets,
    phase_q_tile_sizes,
    phase_kv_tile_sizes,
    sm_scale,
    logit_cap=-1,
):
    """Attention of every request over its root-to-leaf path.

    q         [batch_size, num_qo_heads, head_dim]  read
    k_buffer  [tokens, num_kv_heads, head_dim]      read; the tokens of all nodes in node order; v_buffer alike
    o         like q, written
    the 13 items behind them: the metadata of fasttree_preparation
    phase_q_tile_sizes, phase_kv_tile_sizes: the plan has them already
    sm_scale   score = sm_scale * q.k
    logit_cap  above 0: score = logit_cap * tanh(score / logit_cap)

    CUDA tensors of PyTorch are attended on the current stream. Raises ValueError if shapes or types disagree.
    """
    preparation = vnode_to_kv_entries
    if not isinstance(preparation, _Preparation):
        raise ValueError("fasttree_decode: the metadata are not those of espalier's fasttree_preparation")
    for name, buffer in (("k_buffer", k_buffer), ("v_buffer", v_buffer)):
        if buffer.shape[0] < preparation.tokens:
            raise ValueError(f"fasttree_decode: {name} has {buffer.shape[0]} tokens, the tree {preparation.tokens}")
    stream = _stream_of(q)
    plan = preparation.plan(dtype_of(q), stream)
    attend(plan, q, k_buffer, v_buffer, o, scale=sm_scale, soft_cap=max(logit_cap, 0), stream=stream)


def _check_pointers(KV_ptrs, tokens):
    expected = [0]
    for count in tokens:
        expected.append(expected[-1] + count)
    found = [int(pointer) for pointer in KV_ptrs]
    if found == expected:
        return
    if len(found) != len(expected):
        raise ValueError(f"KV_ptrs has {len(found)} entries, expected {len(expected)}: one more than nodes")
    i = next(i for i in range(len(expected)) if found[i] != expected[i])
    raise ValueError(f"KV_ptrs[{i}] is {found[i]}, expected {expected[i]}: nodes lie one after another from 0")


def _nodes_of_requests(tree_info, batch_size):
    """The lowest node of each request."""
    nodes = [-1] * batch_size
    for i, node in enumerate(tree_info):
        for request in node.requests:
            if not 0 <= request < batch_size:
                raise ValueError(f"node {i} is read by request {request}, expected 0 to {batch_size - 1}")
            if nodes[request] not in (-1, node.parent):
                raise ValueError(f"request {request} reads node {i}, but not its parent {node.parent}")
            nodes[request] = i
    if -1 in nodes:
        raise ValueError(f"request {nodes.index(-1)} reads no node")
    return nodes


def _rule_of(params, KV_SPLIT_SIZES, para_threshs1, para_threshs2):
    if min(*params.TSQs, *params.TSKs) < 1:
        raise ValueError(f"TSQs are {params.TSQs} and TSKs {params.TSKs}, expected at least 1")
    rule = _Rule()
    rule.alpha, rule.beta, rule.gamma = params.alpha, params.beta, params.gamma
    rule.tile_rows, rule.tile_tokens = tuple(params.TSQs), tuple(params.TSKs)
    rule.split_tokens = tuple(KV_SPLIT_SIZES)
    rule.enough_tiles, rule.enough_tiles_then = tuple(para_threshs1), tuple(para_threshs2)
    return rule


def _depth_first(parents):
    """Node numbers in line order."""
    children = [[] for _ in parents]
    stack = []
    for node, parent in enumerate(parents):
        (children[parent] if parent >= 0 else stack).append(node)
    stack.reverse()
    order = []
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(reversed(children[node]))
    return order


def _stream_of(q):
    if not getattr(q, "is_cuda", False):
        return 0
    import torch

    return torch.cuda.current_stream(q.device).cuda_stream
