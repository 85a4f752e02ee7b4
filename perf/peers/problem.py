"""One tree with random q, K and V on a device: the same data in the shapes that each library wants."""

import re

import espalier
import numpy as np
import torch

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class NotApplicable(Exception):
    """Why a library cannot do a problem."""


class Problem:
    """WORKLOAD/heads:QUERY,KV,DIM/TYPE, as in espalier_perf.

    parents, tokens, row_nodes  the tree; tokens are numbered in node order
    paths                       [rows]  for each row the nodes from its root to its own
    q                           [layers, rows, query_heads, head_dim]
    k, v                        [layers, tokens, kv_heads, head_dim], in node order
    k_pool, v_pool              [layers, blocks, block_tokens, kv_heads, head_dim], blocks in random order
    """

    def __init__(self, name, device, layers, block_tokens=16, seed=0):
        self.name, self.device, self.layers, self.block_tokens = name, torch.device(device), layers, block_tokens
        match = re.fullmatch(r"(.+)/heads:(\d+),(\d+),(\d+)/(f32|f16|bf16)", name)
        if not match:
            raise ValueError(f"'{name}' is not of the form WORKLOAD/heads:QUERY,KV,DIM/TYPE")
        self.workload, self.dtype_name, self.dtype = match[1], match[5], DTYPES[match[5]]
        self.query_heads, self.kv_heads, self.head_dim = (int(match[i]) for i in (2, 3, 4))
        self.group = self.query_heads // self.kv_heads
        self.heads = espalier.HeadShape(self.query_heads, self.kv_heads, self.head_dim)
        self.parents, self.tokens, self.row_nodes = espalier.workload(self.workload)
        self.rows = len(self.row_nodes)
        self.first = np.concatenate([[0], np.cumsum(self.tokens)])  # token of each node
        self.paths = [self._path(node) for node in self.row_nodes]
        self.lengths = [sum(self.tokens[node] for node in path) for path in self.paths]
        self.scale = self.head_dim**-0.5

        generator = torch.Generator(self.device).manual_seed(seed)

        def random(*shape):
            return torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32).to(self.dtype)

        self.q = random(layers, self.rows, self.query_heads, self.head_dim)
        shape = (int(self.first[-1]), self.kv_heads, self.head_dim)
        self.k = torch.stack([random(*shape) for _ in range(layers)])
        self.v = torch.stack([random(*shape) for _ in range(layers)])
        self._make_pool(seed)

    def snapshot(self):
        """The tree for espalier, with its KV in the blocks of k_pool and v_pool."""
        return espalier.make_snapshot(
            self.parents, self.tokens, self.row_nodes, block_tokens=self.block_tokens, block_table=self.block_table
        )

    @property
    def unique_kv_bytes(self):
        return 2 * int(self.first[-1]) * self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def flops(self):
        return 4 * self.head_dim * self.query_heads * sum(self.lengths)

    def packed_q(self, layer):
        """[kv_heads, rows, group, head_dim]: the heads of a group as further rows of their KV head."""
        return self.q[layer].view(self.rows, self.kv_heads, self.group, self.head_dim).transpose(0, 1)

    def path_tokens(self, row):
        """The tokens that a row sees."""
        return np.concatenate([np.arange(self.first[node], self.first[node + 1]) for node in self.paths[row]])

    def private_layers(self, copies):
        """How many layers of private K and V, each as large as `copies` tokens, fit on the device beside the rest.

        They need not be as many as there are layers, if one is already more than a cache holds.
        """
        layer_bytes = 2 * copies * self.kv_heads * self.head_dim * self.dtype.itemsize
        fit = int(0.6 * _free_bytes(self.device) // layer_bytes)
        if fit < min(self.layers, 1 + 2**30 // layer_bytes):
            raise NotApplicable(f"private K and V of a layer are {layer_bytes / 1e9:.1f} GB")
        return min(fit, self.layers)

    def levels(self):
        """[levels]  the nodes on each level, where every row lies equally deep and rows are in the order of the nodes."""
        depth = {len(path) for path in self.paths}
        if len(depth) > 1:
            raise NotApplicable("rows lie on different levels of the tree")
        levels = []
        for level in range(depth.pop()):
            seen = [path[level] for path in self.paths]
            nodes = list(dict.fromkeys(seen))
            if seen != sorted(seen) or nodes != list(range(nodes[0], nodes[-1] + 1)):
                raise NotApplicable("rows are not in the order of the nodes")
            levels.append(nodes)
        return levels

    def expected(self, layer):
        """The attention in double precision, row by row.  [rows, query_heads, head_dim]"""
        k, v = self.k[layer], self.v[layer]
        out = torch.empty(self.q[layer].shape, dtype=torch.float64, device=self.device)
        for row in range(self.rows):
            tokens = torch.from_numpy(self.path_tokens(row)).to(self.device)
            keys = k[tokens].double().transpose(0, 1)  # [kv_heads, tokens, head_dim]
            values = v[tokens].double().transpose(0, 1)
            queries = self.q[layer][row].double().view(self.kv_heads, self.group, self.head_dim)
            weights = torch.softmax(self.scale * queries @ keys.transpose(1, 2), dim=-1)
            out[row] = (weights @ values).view(self.query_heads, self.head_dim)
        return out

    def _path(self, node):
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def _make_pool(self, seed):
        slots = espalier.slots_in_node_order(self.parents, self.tokens, self.block_tokens)
        self.blocks = [-(-count // self.block_tokens) for count in self.tokens]  # of each node
        self.block_table = np.random.default_rng(seed).permutation(sum(self.blocks)).astype(np.int32)
        slots = self.block_table[slots // self.block_tokens].astype(np.int64) * self.block_tokens + slots % self.block_tokens
        shape = (self.layers, sum(self.blocks) * self.block_tokens, self.kv_heads, self.head_dim)
        self.k_pool, self.v_pool = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        places = torch.from_numpy(slots).to(self.device)
        for layer in range(self.layers):
            self.k_pool[layer, places] = self.k[layer]
            self.v_pool[layer, places] = self.v[layer]
        paged = (self.layers, -1, self.block_tokens, self.kv_heads, self.head_dim)
        self.k_pool, self.v_pool = self.k_pool.view(paged), self.v_pool.view(paged)


def _free_bytes(device):
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
