"""The libraries that are compared: each prepares a Problem and gives back what attends over one layer of it.

A preparation may copy, pad and plan as it likes: that is not measured, except that plan_us tells what planning costs for
every new tree. What it raises, NotApplicable or another exception, ends up in the table in place of a figure.
"""

import importlib.util
import time
from collections import Counter

import espalier
import numpy as np
import torch
from espalier.torch import current_stream
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .problem import NotApplicable


class Prepared:
    """run(layer) attends, for layers from 0 on, and returns what it computed; rows_of(that) is its [rows, query_heads,
    head_dim]."""

    def __init__(self, run, layers, rows_of=lambda out: out, plan_us=None, note=None):
        self.run, self.layers, self.rows_of, self.plan_us, self.note = run, layers, rows_of, plan_us, note


def _microseconds(call, device, times=5):
    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    call()
    taken = []
    for _ in range(times):
        wait()
        begin = time.perf_counter()
        call()
        wait()
        taken.append(1e6 * (time.perf_counter() - begin))
    return float(np.median(taken))


# ---------------------------------------------------------------------------------------------------------- espalier


def prepare_espalier(problem):
    snapshot = problem.snapshot()
    config = espalier.PlanConfig(problem.heads, problem.dtype_name)
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan, arrays = espalier.Plan(config), espalier.TreeArrays(snapshot)

    def update():
        plan.update(arrays, current_stream(problem.q))

    plan_us = _microseconds(update, problem.device)
    plan.report()  # raises where the tree did not fit
    out = torch.empty_like(problem.q)

    def run(layer):
        espalier.attend(
            plan, problem.q[layer], problem.k_pool[layer], problem.v_pool[layer], out[layer],
            stream=current_stream(problem.q),
        )  # fmt: skip
        return out[layer]

    return Prepared(run, problem.layers, plan_us=plan_us)


# ------------------------------------------------------------------------------- PyTorch's scaled_dot_product_attention


def _row_copies(problem, layers, length, heads_first=True):
    """Private K and V of every row, padded to one length.

    [layers][2][rows, kv_heads, length, head_dim], or with tokens before heads
    """
    tokens = torch.zeros(problem.rows, length, dtype=torch.int64)
    for row in range(problem.rows):
        tokens[row, : problem.lengths[row]] = torch.from_numpy(problem.path_tokens(row))
    tokens = tokens.to(problem.device)

    def copy(part):
        rows = torch.stack([part[row] for row in tokens])
        return rows.transpose(1, 2).contiguous() if heads_first else rows

    return [[copy(problem.k[layer]), copy(problem.v[layer])] for layer in range(layers)]


def prepare_sdpa_rows(problem):
    """A call for each branch, each over K and V of its own."""
    if problem.device.type == "cuda" and problem.rows > 128:
        raise NotApplicable(f"{problem.rows} rows, each a launch of its own")
    layers = problem.private_layers(sum(problem.lengths))
    copies = []
    for layer in range(layers):
        rows = [torch.from_numpy(problem.path_tokens(row)).to(problem.device) for row in range(problem.rows)]
        parts = (problem.k[layer], problem.v[layer])
        copies.append([[part[row].transpose(0, 1)[None].contiguous() for part in parts] for row in rows])

    def run(layer):
        q = problem.packed_q(layer)
        return [scaled_dot_product_attention(q[None, :, row], k, v) for row, (k, v) in enumerate(copies[layer])]

    def rows_of(outs):
        return torch.cat(outs).reshape(problem.rows, problem.query_heads, problem.head_dim)

    return Prepared(run, layers, rows_of)


def sdpa_padded(backend):
    """All branches in one call, over K and V of their own, padded and masked where their lengths differ."""

    def prepare(problem):
        length = max(problem.lengths)
        layers = problem.private_layers(problem.rows * length)
        copies = _row_copies(problem, layers, length)
        mask = None
        if min(problem.lengths) < length:
            if backend == SDPBackend.FLASH_ATTENTION and problem.device.type == "cuda":
                raise NotApplicable("lengths differ, and this backend takes no mask")
            ends = torch.tensor(problem.lengths, device=problem.device)
            mask = (torch.arange(length, device=problem.device) < ends[:, None])[:, None, None]

        def run(layer):
            q = problem.packed_q(layer).transpose(0, 1)  # [rows, kv_heads, group, head_dim]
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, *copies[layer], attn_mask=mask)

        return Prepared(run, layers, lambda out: out.reshape(problem.q[0].shape))

    return prepare


def _attend_with_lse(q, k, v):
    if q.is_cuda:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    scores = q.shape[-1] ** -0.5 * (q @ k.transpose(-1, -2))  # on a CPU faster than the operator with an lse
    return torch.softmax(scores, dim=-1) @ v, torch.logsumexp(scores, dim=-1)


def prepare_sdpa_shared(problem):
    """A call for each level of the tree, which reads shared K and V once, and a merge of the levels by their lse.

    On a CPU these are matrix products.
    """
    levels = []
    for level, nodes in enumerate(problem.levels()):
        sizes = {problem.tokens[node] for node in nodes}
        readers = Counter(path[level] for path in problem.paths)
        if len(sizes) > 1 or len(set(readers.values())) > 1:
            raise NotApplicable("the nodes of a level differ in tokens or rows")
        first, size = int(problem.first[nodes[0]]), sizes.pop()
        levels.append((slice(first, first + size * len(nodes)), len(nodes), size))
    rows, group, kv_heads, dim = problem.rows, problem.group, problem.kv_heads, problem.head_dim

    def run(layer):
        q = problem.packed_q(layer)  # [kv_heads, rows, group, dim]
        partials, weights = [], []
        for tokens, nodes, size in levels:
            shared = q.reshape(kv_heads, nodes, rows // nodes * group, dim).transpose(0, 1)
            k, v = (part[layer][tokens].view(nodes, size, kv_heads, dim).transpose(1, 2) for part in (problem.k, problem.v))
            out, lse = _attend_with_lse(shared, k, v)
            partials.append(out.transpose(0, 1).reshape(kv_heads, rows, group, dim))
            weights.append(lse.transpose(0, 1).reshape(kv_heads, rows, group, 1))
        shares = torch.softmax(torch.stack(weights).float(), dim=0)
        return sum(share * partial.float() for share, partial in zip(shares, partials)).to(problem.dtype)

    return Prepared(run, problem.layers, lambda out: out.transpose(0, 1).reshape(problem.q[0].shape))


# ----------------------------------------------------------------------------------------------------- FlexAttention


def prepare_flex(problem):
    """All rows and all tokens in one call, with the tree as its block mask; rows are in line order."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    snapshot = espalier.make_snapshot(problem.parents, problem.tokens, problem.row_nodes, layout="contiguous")
    row_begin, row_end = (
        torch.from_numpy(_by_token(problem, snapshot, part)).to(problem.device) for part in ("row_begin", "row_end")
    )
    order = torch.from_numpy(snapshot.row_index.astype(np.int64)).to(problem.device)
    group = problem.group

    def sees(batch, head, q_index, token):
        row = q_index // group
        return (row_begin[token] <= row) & (row < row_end[token])

    def make_mask():
        tokens = int(problem.first[-1])
        return create_block_mask(sees, None, None, problem.rows * group, tokens, device=problem.device.type)

    mask = make_mask()
    plan_us = _microseconds(make_mask, problem.device, times=1)
    q = [
        problem.packed_q(layer)[:, order].reshape(1, problem.kv_heads, problem.rows * group, problem.head_dim)
        for layer in range(problem.layers)
    ]
    torch.compiler.reset()
    attention = torch.compile(flex_attention, dynamic=problem.device.type == "cuda")
    note = None

    def run(layer):
        k, v = (part[layer].transpose(0, 1)[None] for part in (problem.k, problem.v))
        return attention(q[layer], k, v, block_mask=mask)

    try:
        run(0)
    except Exception as failure:  # on a CPU it wants a C++ compiler, and not any
        if problem.device.type == "cuda":
            raise
        attention, note = flex_attention, f"not compiled: {type(failure).__name__}"

    def rows_of(out):
        rows = out.view(problem.kv_heads, problem.rows, group, problem.head_dim).transpose(0, 1)
        caller_order = torch.empty_like(problem.q[0])
        caller_order[order] = rows.reshape(problem.rows, problem.query_heads, problem.head_dim)
        return caller_order

    return Prepared(run, problem.layers, rows_of, plan_us, note)


def _by_token(problem, snapshot, name):
    """A field of the nodes for each token; nodes of a snapshot are in line order, tokens here in node order."""
    begins = snapshot.block_table[snapshot.first_block] * snapshot.block_tokens + snapshot.first_offset
    by_token = np.zeros(int(problem.first[-1]), np.int32)
    for begin, tokens, value in zip(begins, snapshot.tokens, getattr(snapshot, name)):
        by_token[begin : begin + tokens] = value
    return by_token


# ------------------------------------------------------------------------------------------- FlashInfer, flash-attn


def _pages(problem, nodes):
    """Block ids of a path, and the tokens of its last block."""
    if any(problem.tokens[node] % problem.block_tokens for node in nodes[:-1]):
        raise NotApplicable(f"an inner node is no multiple of {problem.block_tokens} tokens")
    first = np.concatenate([[0], np.cumsum(problem.blocks)])
    ids = np.concatenate([problem.block_table[first[node] : first[node + 1]] for node in nodes])
    return ids, (problem.tokens[nodes[-1]] - 1) % problem.block_tokens + 1


def _page_lists(problem, paths):
    """indptr, indices and last_page_len of FlashInfer."""
    pages = [_pages(problem, path) for path in paths]
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in pages])]).astype(np.int32)
    lists = (indptr, np.concatenate([ids for ids, _ in pages]), np.array([last for _, last in pages], np.int32))
    return [torch.from_numpy(array).to(problem.device) for array in lists]


def _workspace(problem):
    return torch.empty(512 << 20, dtype=torch.uint8, device=problem.device)


def _flashinfer(problem, wrapper, *lists):
    def plan():
        wrapper.plan(
            *lists, problem.query_heads, problem.kv_heads, problem.head_dim, problem.block_tokens,
            q_data_type=problem.dtype, kv_data_type=problem.dtype,
        )  # fmt: skip

    plan()
    plan_us = _microseconds(plan, problem.device)

    def run(layer):
        return wrapper.run(problem.q[layer], (problem.k_pool[layer], problem.v_pool[layer]))

    return Prepared(run, problem.layers, plan_us=plan_us)


def prepare_flashinfer_decode(problem):
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    wrapper = BatchDecodeWithPagedKVCacheWrapper(_workspace(problem), "NHD", use_tensor_cores=problem.group > 1)
    return _flashinfer(problem, wrapper, *_page_lists(problem, problem.paths))


def prepare_flashinfer_cascade(problem):
    from flashinfer import MultiLevelCascadeAttentionWrapper

    levels = problem.levels()
    q_lists, page_lists = [], []
    for level, nodes in enumerate(levels):
        seen = [path[level] for path in problem.paths]
        begins = [seen.index(node) for node in nodes] + [problem.rows]
        q_lists.append(torch.tensor(begins, dtype=torch.int32, device=problem.device))
        page_lists.append(_page_lists(problem, [[node] for node in nodes]))
    wrapper = MultiLevelCascadeAttentionWrapper(len(levels), _workspace(problem), "NHD")
    return _flashinfer(problem, wrapper, q_lists, *(list(lists) for lists in zip(*page_lists)))


def prepare_flash_attn(problem):
    from flash_attn import flash_attn_with_kvcache

    layers = problem.private_layers(problem.rows * max(problem.lengths))
    copies = _row_copies(problem, layers, max(problem.lengths), heads_first=False)
    ends = torch.tensor(problem.lengths, dtype=torch.int32, device=problem.device)

    def run(layer):
        return flash_attn_with_kvcache(problem.q[layer][:, None], *copies[layer], cache_seqlens=ends)

    return Prepared(run, layers, lambda out: out[:, 0])


def _missing(package):
    return "" if importlib.util.find_spec(package) else f"{package} is not installed"


# name: (preparation, devices, why it cannot be had here)
LIBRARIES = {
    "espalier": (prepare_espalier, ("cpu", "cuda"), ""),
    "sdpa rows": (prepare_sdpa_rows, ("cpu", "cuda"), ""),
    "sdpa padded (math)": (sdpa_padded(SDPBackend.MATH), ("cpu", "cuda"), ""),
    "sdpa padded (flash)": (sdpa_padded(SDPBackend.FLASH_ATTENTION), ("cpu", "cuda"), ""),
    "sdpa padded (cudnn)": (sdpa_padded(SDPBackend.CUDNN_ATTENTION), ("cuda",), ""),
    "sdpa by level": (prepare_sdpa_shared, ("cpu", "cuda"), ""),
    "flex": (prepare_flex, ("cpu", "cuda"), ""),
    "flashinfer decode": (prepare_flashinfer_decode, ("cuda",), _missing("flashinfer")),
    "flashinfer cascade": (prepare_flashinfer_cascade, ("cuda",), _missing("flashinfer")),
    "flash-attn": (prepare_flash_attn, ("cuda",), _missing("flash_attn")),
}
