"""A small transformer with random weights decodes several branches greedily over one shared KV cache.

The same model, run branch by branch over private K and V with attention written out, gives the same tokens.
"""

import numpy as np

import espalier

VOCABULARY, WIDTH, LAYERS = 97, 64, 3
HEADS = espalier.HeadShape(query_heads=4, kv_heads=2, head_dim=16)


def normalised(x):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)


class Transformer:
    """forward() leaves attention to its caller: attention(layer, q, k_new, v_new) -> out."""

    def __init__(self, seed=0):
        random = np.random.default_rng(seed)

        def weights(rows, columns):
            return (random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)

        queries, keys = HEADS.query_heads * HEADS.head_dim, HEADS.kv_heads * HEADS.head_dim
        self.embedding = weights(VOCABULARY, WIDTH) * VOCABULARY**0.5
        self.readout = weights(WIDTH, VOCABULARY)
        self.layers = [
            {
                "q": weights(WIDTH, queries),
                "k": weights(WIDTH, keys),
                "v": weights(WIDTH, keys),
                "out": weights(queries, WIDTH),
                "up": weights(WIDTH, 4 * WIDTH),
                "down": weights(4 * WIDTH, WIDTH),
            }
            for _ in range(LAYERS)
        ]

    def forward(self, tokens, positions, attention):
        """The next token of each row. tokens, positions: [rows]"""
        angles = np.asarray(positions)[:, None] * 10000.0 ** (-np.arange(WIDTH) / WIDTH)
        x = (self.embedding[tokens] + np.sin(angles)).astype(np.float32)
        rows = len(x)
        for index, layer in enumerate(self.layers):
            h = normalised(x)
            q = (h @ layer["q"]).reshape(rows, HEADS.query_heads, HEADS.head_dim)
            k = (h @ layer["k"]).reshape(rows, HEADS.kv_heads, HEADS.head_dim)
            v = (h @ layer["v"]).reshape(rows, HEADS.kv_heads, HEADS.head_dim)
            x = x + attention(index, q, k, v).reshape(rows, -1) @ layer["out"]
            x = x + np.maximum(normalised(x) @ layer["up"], 0) @ layer["down"]
        return (normalised(x) @ self.readout).argmax(axis=-1)


def decode_shared(model, prompt, first_tokens, steps):
    """One branch for each first token; all of them share the prompt. Returns [branches, 1 + steps] tokens."""
    tree = espalier.KvTree(espalier.BlockPool(blocks=128, block_tokens=8))
    k, v = np.zeros((2, LAYERS, 128, 8, HEADS.kv_heads, HEADS.head_dim), np.float32)
    plans = espalier.GrowingPlan(espalier.PlanConfig(HEADS))

    def forward(tokens, positions, slots, rows):
        plan = plans.update(tree.snapshot(rows))  # once for all layers

        def attention(layer, q, k_new, v_new):
            espalier.append(slots, k_new, v_new, k[layer], v[layer])
            out = np.empty_like(q)
            espalier.attend(plan, q, k[layer], v[layer], out)
            return out

        return model.forward(tokens, positions, attention)

    trunk = tree.root(len(prompt))
    causal = [espalier.BranchRow(trunk, position + 1) for position in range(len(prompt))]
    forward(prompt, range(len(prompt)), tree.slots(trunk), causal)

    tree.fork(trunk, len(first_tokens) - 1)
    branches = tree.branches()
    decoded = [np.asarray(first_tokens)]
    for _ in range(steps):
        positions = [tree.tokens(branch) for branch in branches]
        tree.append(branches)
        rows = [espalier.BranchRow(branch) for branch in branches]
        decoded.append(forward(decoded[-1], positions, tree.last_slots(branches), rows))
    print(f"stored {tree.stored_tokens} tokens instead of {tree.unshared_tokens}")
    return np.stack(decoded, axis=1)


def decode_alone(model, prompt, first_token, steps):
    """One branch by itself, without espalier. Returns [1 + steps] tokens."""
    cache = [([], []) for _ in range(LAYERS)]

    def attention(layer, q, k_new, v_new):
        out = np.empty_like(q)
        keys, values = cache[layer]
        for row in range(len(q)):
            keys.append(k_new[row])
            values.append(v_new[row])
            for head in range(HEADS.query_heads):
                kv_head = head * HEADS.kv_heads // HEADS.query_heads
                scores = np.stack(keys)[:, kv_head] @ q[row, head] / HEADS.head_dim**0.5
                weights = np.exp(scores - scores.max())
                out[row, head] = weights @ np.stack(values)[:, kv_head] / weights.sum()
        return out

    model.forward(prompt, range(len(prompt)), attention)
    decoded = [first_token]
    for step in range(steps):
        decoded.append(int(model.forward(decoded[-1:], [len(prompt) + step], attention)[0]))
    return decoded


if __name__ == "__main__":
    model = Transformer()
    prompt = np.random.default_rng(1).integers(VOCABULARY, size=45)
    first_tokens = [3, 14, 15, 92]
    shared = decode_shared(model, prompt, first_tokens, steps=24)
    for row, first_token in zip(shared, first_tokens):
        alone = decode_alone(model, prompt, first_token, steps=24)
        assert row.tolist() == alone, f"{row.tolist()} is not {alone}"
        print("branch", first_token, "->", *row[1:10], "...")
