"""PyTorch: attention as an operator that torch.compile sees through.

    from espalier.torch import TreeAttention

    attention = TreeAttention(plan)          # once
    plan.update(arrays, current_stream(q))   # once for each step, for all layers
    out, lse = attention(q, k, v)            # once for each layer; also inside of torch.compile

The operator is torch.ops.espalier.attend. It works on PyTorch's current stream. There is no backward.
"""

import itertools
import weakref

import torch
from torch.library import custom_op

from . import _core

_handles = itertools.count()
_plans = weakref.WeakValueDictionary()  # by handle: what the operator's integer argument names


def current_stream(tensor: torch.Tensor) -> int:
    """The stream that PyTorch works on now, as the integer that plans and attentions take; 0 for a CPU tensor."""
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0


@custom_op("espalier::attend", mutates_args=("out", "lse"))
def _attend(
    plan: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    soft_cap: float,
) -> None:
    _core.attend(_plans[plan], q, k, v, out, lse, scale=scale, soft_cap=soft_cap, stream=current_stream(q))


@_attend.register_fake
def _(plan, q, k, v, out, lse, scale, soft_cap):
    pass  # it writes out and lse, whose shapes are known


class TreeAttention:
    """espalier.attend with one plan; makes out and lse where they are not given."""

    def __init__(self, plan, *, scale: float = 0.0, soft_cap: float = 0.0):
        """plan: updated by the caller, at any time; scale, soft_cap: as in espalier.attend."""
        self._plan = plan
        self._handle = next(_handles)
        self._scale, self._soft_cap = scale, soft_cap
        _plans[self._handle] = plan

    def __call__(self, q, k, v, out=None, lse=None):
        """Returns (out, lse).

        q     [rows, query_heads, head_dim]; out alike
        k, v  [blocks, block_tokens, kv_heads, head_dim], or [tokens, kv_heads, head_dim]
        lse   f32 [rows, query_heads]
        """
        if out is None:
            out = torch.empty_like(q)
        if lse is None:
            lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        torch.ops.espalier.attend(self._handle, q, k, v, out, lse, self._scale, self._soft_cap)
        return out, lse
