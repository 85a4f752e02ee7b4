import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import espalier  # noqa: E402
import oracle  # noqa: E402
from espalier.fasttree import FastTreeParams, KVTreeNode, fasttree_decode, fasttree_preparation  # noqa: E402
from espalier.torch import TreeAttention, current_stream  # noqa: E402
from torch import library  # noqa: E402

PARENTS, TOKENS = [-1, 0, 0, 2, 2], [50, 17, 33, 1, 40]


def problem(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 32), (sum(TOKENS), 2, 32), (sum(TOKENS), 2, 32)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def make_plan(name):
    snapshot = espalier.make_snapshot(PARENTS, TOKENS, layout="contiguous")
    config = espalier.PlanConfig(espalier.HeadShape(4, 2, 32), name)
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    return plan


def expected(q, k, v, **options):
    return oracle.attend(oracle.paths_of(PARENTS, TOKENS), *(array.float().numpy() for array in (q, k, v)), **options)


@pytest.mark.parametrize("dtype, name, tolerance", [
    (torch.float32, "f32", 2e-5), (torch.float16, "f16", 2e-3), (torch.bfloat16, "bf16", 2e-2),
])  # fmt: skip
def test_cpu_tensors_of_every_type(dtype, name, tolerance):
    q, k, v = problem(dtype)
    assert espalier.dtype_of(q) == name and current_stream(q) == 0
    out, lse = TreeAttention(make_plan(name), scale=0.3, soft_cap=2.0)(q, k, v)
    reference = expected(q, k, v, scale=0.3, soft_cap=2.0)
    assert out.dtype == dtype
    assert np.allclose(out.float(), reference[0], atol=tolerance) and np.allclose(lse, reference[1], atol=2e-5)


def test_the_operator_keeps_to_its_schema():
    attention = TreeAttention(make_plan("f32"))
    q, k, v = problem(torch.float32)
    arguments = (attention._handle, q, k, v, torch.empty_like(q), torch.empty(3, 4), 0.0, 0.0)
    library.opcheck(torch.ops.espalier.attend.default, arguments)


def test_layers_of_a_compiled_model_share_a_plan():
    attention = TreeAttention(make_plan("f32"))
    q, k, v = problem(torch.float32)

    def two_layers(q):
        for scale in (1.0, 2.0):
            q = q + attention(q * scale, k, v)[0]
        return q

    compiled = torch.compile(two_layers, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(q), two_layers(q))
    first = q + torch.from_numpy(expected(q, k, v)[0]).float()
    second = first + torch.from_numpy(expected(first * 2, k, v)[0]).float()
    assert torch.allclose(compiled(q), second, atol=1e-4)


def test_errors_are_those_of_espalier():
    attention = TreeAttention(make_plan("f32"))
    q, k, v = problem(torch.float32)
    with pytest.raises(ValueError, match="q has extent 2 in dimension 0, expected 3"):
        attention(q[:2], k, v)
    with pytest.raises(ValueError, match="k has elements of type f64"):
        attention(q, k.double(), v)


def test_fasttree_on_cpu_tensors():
    tree = []
    for i, (parent, seqlen) in enumerate(zip([-1, 0, 0], [128, 64, 64])):
        node = KVTreeNode()
        node.parent, node.id, node.seqlen, node.num_children = parent, i, seqlen, 0 if i else 2
        node.requests = [i - 1] if i else [0, 1]
        tree.append(node)
    q, k, v = torch.randn(2, 32, 128).half(), *torch.randn(2, 256, 32, 128).half()
    o = torch.empty_like(q)
    params = FastTreeParams()
    metadata, _ = fasttree_preparation(
        tree, [0, 128, 192, 256], 2, 32, 32, 128, [1024, 128], [132, 528], [132, 132], params
    )
    fasttree_decode(q, k, v, o, *metadata, params.TSQs, params.TSKs, 128**-0.5)
    reference = oracle.attend(oracle.paths_of([-1, 0, 0], [128, 64, 64]), q.float(), k.float(), v.float())[0]
    assert np.allclose(o.float(), reference, atol=2e-3)
