"""What attention over a tree means, in double precision, and the tolerance that an answer gets."""

import numpy as np


def attend(paths, q, k, v, scale=0.0, soft_cap=0.0):
    """out [rows, query_heads, head_dim] and lse [rows, query_heads] in float64.

    paths  for each row, the tokens that it sees, as indices into k and v [tokens, kv_heads, head_dim]
    """
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    group = q.shape[1] // k.shape[1]
    scale = scale or q.shape[2] ** -0.5
    out = np.zeros(q.shape)
    lse = np.full(q.shape[:2], -np.inf)
    for row, path in enumerate(paths):
        if len(path) == 0:
            continue
        for head in range(q.shape[1]):
            scores = scale * k[path, head // group] @ q[row, head]
            if soft_cap:
                scores = soft_cap * np.tanh(scores / soft_cap)
            peak = scores.max()
            weights = np.exp(scores - peak)
            lse[row, head] = peak + np.log(weights.sum())
            out[row, head] = weights @ v[path, head // group] / weights.sum()
    return out, lse


def paths_of(parents, tokens, row_nodes=None):
    """For each row, the tokens of its root-to-node path, tokens numbered in node order. Without rows: one per leaf."""
    first = np.concatenate([[0], np.cumsum(tokens)])
    if row_nodes is None:
        row_nodes = [node for node in range(len(parents)) if node not in parents]
    paths = []
    for node in row_nodes:
        path = []
        while node >= 0:
            path = list(range(first[node], first[node + 1])) + path
            node = parents[node]
        paths.append(path)
    return paths


def close(found, expected):
    """Whether a result agrees with the oracle's within what its element type can hold."""
    found = np.asarray(found)
    tolerance = {np.dtype(np.float32): 2e-5, np.dtype(np.float16): 2e-3}[found.dtype]
    return np.allclose(found.astype(np.float64), expected, rtol=tolerance, atol=tolerance)
