"""A template for an inference engine: a paged cache, several layers, captured graphs on a GPU, and what to do about errors.

Requests share the prompt that they were forked from. A step decodes one token of every branch: the tree grows on the
host, one plan serves all layers, and the layers are one CUDA graph for each batch size, which stays valid while the tree
changes. Where the cache is full, the youngest branch is put back into the queue instead of failing the others.

Needs PyTorch; runs on a GPU where both PyTorch and espalier have one, else on the CPU.
"""

import torch

import espalier
from espalier.torch import TreeAttention, current_stream

LAYERS, WIDTH = 4, 128
HEADS = espalier.HeadShape(query_heads=8, kv_heads=2, head_dim=64)
BLOCK_TOKENS, BLOCKS, MAX_BRANCHES = 16, 40, 16


def normalised(hidden):
    return torch.nn.functional.rms_norm(hidden, (WIDTH,))


class Engine:
    def __init__(self, device, dtype, seed=0):
        self.device, self.dtype = torch.device(device), dtype
        generator = torch.Generator().manual_seed(seed)

        def weights(rows, columns):
            return (torch.randn(rows, columns, generator=generator) / rows**0.5).to(self.device, dtype)

        query_width, kv_width = HEADS.query_heads * HEADS.head_dim, HEADS.kv_heads * HEADS.head_dim
        self.layers = [
            (weights(WIDTH, query_width), weights(WIDTH, kv_width), weights(WIDTH, kv_width), weights(query_width, WIDTH))
            for _ in range(LAYERS)
        ]
        cache_shape = (LAYERS, BLOCKS, BLOCK_TOKENS, HEADS.kv_heads, HEADS.head_dim)
        self.k, self.v = (torch.zeros(cache_shape, dtype=dtype, device=self.device) for _ in range(2))

        # Everything has its full size from the start: a step allocates nothing, and graphs keep their addresses.
        self.pool = espalier.BlockPool(BLOCKS, BLOCK_TOKENS)
        self.tree = espalier.KvTree(self.pool)
        nodes = 2 * MAX_BRANCHES
        self.arrays = espalier.TreeArrays(nodes=nodes, rows=MAX_BRANCHES, blocks=BLOCKS + nodes)
        capacity = espalier.PlanCapacity(nodes=nodes, rows=MAX_BRANCHES)
        self.plan = espalier.Plan(espalier.PlanConfig(HEADS, self._dtype_name(), capacity=capacity))
        self.attention = TreeAttention(self.plan)
        self.hidden = torch.zeros(MAX_BRANCHES, WIDTH, dtype=dtype, device=self.device)
        self.slots = torch.zeros(MAX_BRANCHES, dtype=torch.int64, device=self.device)
        self.graphs = {}  # by batch size

    def start(self, prompt, branches):
        """A prompt [tokens, WIDTH] that `branches` branches go on from. Returns them."""
        trunk = self.tree.root(len(prompt))
        try:
            slots = torch.from_numpy(self.tree.slots(trunk)).to(self.device)
            for k, v, (_, to_k, to_v, _) in zip(self.k, self.v, self.layers):  # stands for a prefill
                self._append(slots, prompt @ to_k, prompt @ to_v, k, v)
            return [trunk, *self.tree.fork(trunk, branches - 1)]
        except Exception:
            self.tree.prune(trunk)
            raise

    def step(self):
        """Decodes one token of every branch. Returns their hidden states, and the branches that had to give way."""
        preempted = self._make_room()
        branches = self.tree.branches()
        rows = len(branches)
        stream = current_stream(self.k)
        self.slots[:rows].copy_(torch.from_numpy(self.tree.last_slots(branches)))
        self.arrays.upload(self.tree.snapshot(), stream)
        self.plan.update(self.arrays, stream)
        if self.device.type == "cuda":
            self._graph_of(rows).replay()
        else:
            self._run_layers(rows)
        return self.hidden[:rows], preempted

    def _make_room(self):
        """Lengthens all branches by a token; prunes the youngest ones until the cache has room for it."""
        preempted = []
        while True:
            try:
                self.tree.append(self.tree.branches())
                return preempted
            except espalier.CapacityError:  # nothing was appended
                *others, youngest = self.tree.branches()
                if not others:
                    raise  # a single branch fills the cache
                self.tree.prune(youngest)
                preempted.append(youngest)

    def _run_layers(self, rows):
        hidden, slots = self.hidden[:rows], self.slots[:rows]
        for k, v, (to_q, to_k, to_v, to_out) in zip(self.k, self.v, self.layers):
            x = normalised(hidden)
            self._append(slots, x @ to_k, x @ to_v, k, v)
            q = (x @ to_q).view(rows, HEADS.query_heads, HEADS.head_dim)
            out, _ = self.attention(q, k, v)
            hidden += torch.tanh(out.reshape(rows, -1) @ to_out)

    def _append(self, slots, k_new, v_new, k, v):
        shape = (len(slots), HEADS.kv_heads, HEADS.head_dim)
        espalier.append(slots, k_new.view(shape), v_new.view(shape), k, v, stream=current_stream(k))

    def _graph_of(self, rows):
        """The captured layers of a batch size. They run once beforehand, on the stream that captures."""
        if rows not in self.graphs:
            before = self.hidden.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._run_layers(rows)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self._run_layers(rows)
            self.hidden.copy_(before)
            self.graphs[rows] = graph
        return self.graphs[rows]

    def _dtype_name(self):
        return espalier.dtype_of(self.k)


def on_gpu():
    return torch.cuda.is_available() and any(kernel.backend == "Cuda" for kernel in espalier.kernels())


if __name__ == "__main__":
    device = "cuda" if on_gpu() else "cpu"
    engine = Engine(device, torch.float16 if device == "cuda" else torch.float32)
    prompt, first = torch.randn(212, WIDTH, generator=torch.Generator().manual_seed(1)).to(engine.k).split([200, 12])
    engine.start(prompt, branches=12)
    engine.hidden[:12] = first

    queue = []
    for step in range(40):
        hidden, preempted = engine.step()
        queue += preempted
        if preempted:
            print(f"step {step}: the cache is full, {len(preempted)} of {len(hidden) + len(preempted)} branches wait")
    assert queue
    tree, stats = engine.tree, engine.pool.stats()
    print(
        f"{device}: {tree.stored_tokens} tokens stored instead of {tree.unshared_tokens}, {stats.used} of {BLOCKS} blocks, "
        f"{len(tree.branches())} branches, {len(engine.graphs)} graphs"
    )

    alone = Engine(device, engine.dtype)  # the first branch by itself
    alone.start(prompt, branches=1)
    alone.hidden[:1] = first[:1]
    for _ in range(40):
        expected, _ = alone.step()
    error = float((hidden[0] - expected[0]).float().norm() / expected.float().norm())
    print(f"the first branch decoded alone differs by {error:.1e}")
    assert error < (1e-4 if engine.dtype == torch.float32 else 5e-2)

    try:
        engine.start(torch.zeros(10_000, WIDTH), branches=1)
    except espalier.CapacityError as error:  # refused as a whole: the other requests go on
        print(f"a prompt that is too long: {error}")
    for branch in tree.branches():
        tree.prune(branch)
    assert engine.pool.free_blocks() == BLOCKS
