import random

import numpy as np
import pytest

import oracle
from espalier.fasttree import FastTreeParams, KVTreeNode, fasttree_decode, fasttree_preparation, load_tree

DEFAULTS = dict(KV_SPLIT_SIZES=[1024, 128], para_threshs1=[132, 528], para_threshs2=[132, 132])


def make_tree(parents, tokens):
    """One request per leaf, in node order."""
    nodes = []
    for i, (parent, seqlen) in enumerate(zip(parents, tokens)):
        node = KVTreeNode()
        node.parent, node.id, node.seqlen, node.num_children = parent, i, seqlen, parents.count(i)
        nodes.append(node)
    leaves = [node for node in nodes if node.num_children == 0]
    for request, node in enumerate(leaves):
        above = node.id
        while above >= 0:
            nodes[above].requests.append(request)
            above = parents[above]
    return nodes, len(leaves)


def pointers(tokens):
    return [0] + np.cumsum(tokens).tolist()


def tensors(requests, tokens, query_heads, kv_heads, head_dim, dtype):
    generator = np.random.default_rng(0)
    shapes = [(requests, query_heads, head_dim), (tokens, kv_heads, head_dim), (tokens, kv_heads, head_dim)]
    return [generator.standard_normal(shape).astype(dtype) for shape in shapes]


def test_the_quick_start():
    parents, tokens = [-1, 0, 0], [128, 64, 64]
    tree, requests = make_tree(parents, tokens)
    params = FastTreeParams()
    metadata, assignments = fasttree_preparation(tree, pointers(tokens), requests, 32, 32, 128, *DEFAULTS.values(), params)
    assert len(metadata) == 13 and len(assignments) == 3
    q, k, v = tensors(2, 256, 32, 32, 128, np.float16)
    o = np.empty_like(q)
    fasttree_decode(q, k, v, o, *metadata, params.TSQs, params.TSKs, 128**-0.5)
    assert oracle.close(o, oracle.attend(oracle.paths_of(parents, tokens), q, k, v)[0])


def test_grouped_heads_a_cap_and_names_of_arguments():
    parents, tokens = [-1, 0, 0, 1, 1, 2], [40, 7, 90, 3, 12, 1]
    tree, requests = make_tree(parents, tokens)
    params = FastTreeParams()
    params.set_values(0.7, 0.3, 0.2)
    params.set_kv_group_num(4)
    params.set_q_tile_sizes([16, 4])
    params.set_kv_tile_sizes([32, 64])
    metadata, _ = fasttree_preparation(
        tree_info=tree, KV_ptrs=pointers(tokens), batch_size=requests, num_qo_heads=8, num_kv_heads=2, head_dim=64,
        params=params, **DEFAULTS,
    )  # fmt: skip
    q, k, v = tensors(requests, sum(tokens), 8, 2, 64, np.float32)
    for logit_cap in (-1, 0.5):
        o = np.empty_like(q)
        fasttree_decode(
            q, k, v, o, *metadata, phase_q_tile_sizes=params.TSQs, phase_kv_tile_sizes=params.TSKs, sm_scale=0.2,
            logit_cap=logit_cap,
        )  # fmt: skip
        expected = oracle.attend(oracle.paths_of(parents, tokens), q, k, v, 0.2, max(logit_cap, 0))
        assert oracle.close(o, expected[0])


# ------------------------------------------------------------------------- the published rule, written a second time


class Rule:
    def __init__(self, parents, tokens, rows, kv_heads, params, splits):
        self.parents, self.tokens, self.rows, self.kv_heads = parents, tokens, rows, kv_heads
        self.group, self.weights = params.kv_group_num, (params.alpha, params.beta, params.gamma)
        self.TSQ, self.TSK, self.split = list(params.TSQs), list(params.TSKs), [splits[0]] * 2

    def phase(self, rows):
        return 0 if rows > self.TSQ[1] else 1

    def cost(self, rows, tokens):
        p = self.phase(rows)
        idle_rows = -rows % self.TSQ[p]
        idle_tokens = max(0, self.TSK[p] - tokens)
        alpha, beta, _ = self.weights
        return alpha * idle_rows * self.group * tokens + beta * idle_tokens * rows * self.group

    def walk(self):
        reads, left, split_q = list(self.tokens), list(self.rows), [0] * len(self.tokens)
        children = [[i for i, parent in enumerate(self.parents) if parent == v] for v in range(len(self.parents))]
        queue = [0]
        for v in queue:
            for child in children[v]:
                rows = self.rows[child]
                as_k = self.cost(left[v], reads[v]) + self.cost(rows, reads[child]) + self.weights[2] * rows
                as_q = self.cost(left[v] - rows, reads[v]) + self.cost(rows, reads[child] + reads[v])
                if as_k > as_q:
                    split_q[child] = 1
                    left[v] -= rows
                    reads[child] += reads[v]
                queue.append(child)
        tiles = [0, 0]
        for rows, tokens in zip(left, reads):
            if rows > 0:
                p = self.phase(rows)
                tiles[p] += -(-rows // self.TSQ[p]) * -(-tokens // self.split[p]) * self.kv_heads
        return split_q, tiles

    def decide(self, short_split, enough, enough_then):
        split_q, tiles = self.walk()
        few = [p for p in range(2) if 0 < tiles[p] < enough[p]]
        if not few:
            return split_q
        for p in few:
            self.split[p] = short_split
        split_q, tiles = self.walk()
        other = 1 if 0 < tiles[0] < enough_then[0] else 0 if 0 < tiles[1] < enough_then[1] else None
        if other is None:
            return split_q
        self.TSQ, self.TSK = [self.TSQ[other]] * 2, [self.TSK[other]] * 2
        return self.walk()[0]


@pytest.mark.parametrize("seed", range(100))
def test_assignments_are_the_published_ones(seed):
    generator = random.Random(seed)
    nodes = generator.randint(1, 120)
    longest = 2 ** generator.randint(1, 11)
    parents = [-1] + [generator.choice([i, generator.randint(0, i)]) for i in range(nodes - 1)]
    tokens = [generator.randint(1, longest) for _ in range(nodes)]
    tree, requests = make_tree(parents, tokens)
    kv_heads = generator.choice([1, 2, 8])
    params = FastTreeParams()
    params.set_kv_group_num(generator.choice([1, 4, 7]))
    params.set_q_tile_sizes(generator.choice([[64, 16], [16, 4], [5, 3]]))
    rule = Rule(parents, tokens, [len(node.requests) for node in tree], kv_heads, params, DEFAULTS["KV_SPLIT_SIZES"])
    _, found = fasttree_preparation(
        tree, pointers(tokens), requests, kv_heads * params.kv_group_num, kv_heads, 64, params=params, **DEFAULTS
    )
    assert found == rule.decide(128, DEFAULTS["para_threshs1"], DEFAULTS["para_threshs2"])
    assert (params.TSQs, params.TSKs) == (rule.TSQ, rule.TSK)


# ------------------------------------------------------------------------------------------------- files and mistakes


def test_a_tree_file(tmp_path):
    path = tmp_path / "tree.txt"
    path.write_text("4\n-1 0 128 2\n0 1 64 0\n0 2 5 1\n2 3 7 0\n")
    nodes = load_tree(path)
    assert [node.parent for node in nodes] == [-1, 0, 0, 2]
    assert [node.seqlen for node in nodes] == [128, 64, 5, 7]
    assert [node.requests for node in nodes] == [[0, 1], [0], [1], [1]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: found the end of the file, expected the number of nodes"),
        ("2\n-1 0 5 1\n", "line 3: found the end of the file, expected 'parent id tokens children'"),
        ("1\n-1 0 many 0\n", "line 2: found '-1 0 many 0'"),
        ("1\n-1 1 5 0\n", "line 2: .*id 1.*expected id 0"),
        ("2\n-1 0 5 1\n1 1 5 0\n", "line 3: parent 1"),
        ("2\n-1 0 5 3\n0 1 5 0\n", "line 2: node 0 announces 3 children, 1 nodes"),
    ],
)
def test_a_bad_tree_file(tmp_path, text, message):
    path = tmp_path / "tree.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_tree(path)


def test_bad_preparations():
    tree, requests = make_tree([-1, 0, 0], [4, 5, 6])

    def prepare(ptrs=(0, 4, 9, 15), batch=requests, params=None):
        return fasttree_preparation(tree, ptrs, batch, 4, 2, 8, *DEFAULTS.values(), params or FastTreeParams())

    with pytest.raises(ValueError, match=r"KV_ptrs\[1\] is 5, expected 4"):
        prepare(ptrs=(0, 5, 9, 15))
    with pytest.raises(ValueError, match="KV_ptrs has 3 entries, expected 4"):
        prepare(ptrs=(0, 4, 9))
    with pytest.raises(ValueError, match="request 2 reads no node"):
        prepare(batch=3)
    with pytest.raises(ValueError, match="read by request 1, expected 0 to 0"):
        prepare(batch=1)
    params = FastTreeParams()
    params.set_q_tile_sizes([0, 16])
    with pytest.raises(ValueError, match=r"TSQs are \[0, 16\]"):
        prepare(params=params)


def test_bad_decodes():
    tree, requests = make_tree([-1, 0, 0], [4, 5, 6])
    params = FastTreeParams()
    metadata, _ = fasttree_preparation(tree, [0, 4, 9, 15], requests, 4, 2, 8, *DEFAULTS.values(), params)
    q, k, v = tensors(requests, 15, 4, 2, 8, np.float32)
    with pytest.raises(ValueError, match="k_buffer has 14 tokens, the tree 15"):
        fasttree_decode(q, k[:14], v, np.empty_like(q), *metadata, params.TSQs, params.TSKs, 1.0)
    with pytest.raises(ValueError, match="not those of espalier"):
        fasttree_decode(q, k, v, np.empty_like(q), *[None] * 13, params.TSQs, params.TSKs, 1.0)
    with pytest.raises(ValueError, match="q has extent 1"):
        fasttree_decode(q[:1], k, v, np.empty_like(q[:1]), *metadata, params.TSQs, params.TSKs, 1.0)
