"""PyTorch: attention as an operator that torch.compile sees through.

    from espalier.torch import TreeAttention

    attention = TreeAttention(plan)          # once
    plan.update(arrays, current_stream(q))   # once for each step, for all layers
    out, lse = attention(q, k, v)            # once for each layer; also inside of torch.compile

The operator is torch.ops.espalier.attend; a call outside of torch.compile goes past PyTorch's dispatcher, which costs
microseconds. It works on PyTorch's current stream. There is no backward.
"""

import itertools
import weakref

import torch
from torch import library

from . import _core

_handles = itertools.count()
_plans: weakref.WeakValueDictionary[int, _core.Plan] = weakref.WeakValueDictionary()  # by handle: what the operator's integer argument names
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # in builds for CUDA; fewer objects than the public way

# PyTorch 2.10 lends its tensors to compiled code; those of older ones are handed over as capsules, without the event that
# their method __dlpack__ may record.
_lends = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")


def current_stream(tensor: torch.Tensor) -> int:
    """The stream that PyTorch works on now, as the integer that plans and attentions take; 0 for a CPU tensor."""
    if not tensor.is_cuda:
        return 0
    return _raw_stream(tensor.get_device()) if _raw_stream else torch.cuda.current_stream(tensor.device).cuda_stream


def _attend(plan, q, k, v, out, lse, scale, soft_cap):
    stream = current_stream(q)
    if not _lends:
        q, k, v, out, lse = map(torch.utils.dlpack.to_dlpack, (q, k, v, out, lse))
    _core.attend(plan, q, k, v, out, lse, scale=scale, soft_cap=soft_cap, stream=stream)


_library = library.Library("espalier", "DEF")
_library.define(
    "attend(int plan, Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, float scale, float soft_cap) -> ()",
    tags=[torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order],
)
for _device in ("CPU", "CUDA"):
    _library.impl("attend", lambda plan, *arguments: _attend(_plans[plan], *arguments), _device)


@library.register_fake("espalier::attend", lib=_library)
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
        if type(q) is torch.Tensor and not torch.compiler.is_compiling():
            _attend(self._plan, q, k, v, out, lse, self._scale, self._soft_cap)
        else:
            torch.ops.espalier.attend(self._handle, q, k, v, out, lse, self._scale, self._soft_cap)
        return out, lse
