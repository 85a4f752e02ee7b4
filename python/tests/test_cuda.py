"""The package on an NVIDIA GPU, with PyTorch's tensors: python3 -m pytest python/tests with a build for CUDA."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

import espalier  # noqa: E402
import oracle  # noqa: E402
from espalier.fasttree import FastTreeParams, KVTreeNode, fasttree_decode, fasttree_preparation  # noqa: E402
from espalier.torch import TreeAttention, current_stream  # noqa: E402

PARENTS, TOKENS = [-1, 0, 0, 2, 2], [150, 17, 33, 1, 40]
DTYPES = {"f32": (torch.float32, 2e-5), "f16": (torch.float16, 2e-3), "bf16": (torch.bfloat16, 2e-2)}
STRATEGIES = ["sequence", "sequence_split", "node", "node_chunk", "flatten", "fasttree", "automatic"]


def problem(dtype=torch.float16, heads=(32, 8, 128), rows=3, tokens=sum(TOKENS), seed=0):
    generator = torch.Generator().manual_seed(seed)
    query_heads, kv_heads, head_dim = heads
    shapes = [(rows, query_heads, head_dim), (tokens, kv_heads, head_dim), (tokens, kv_heads, head_dim)]
    return [torch.randn(shape, generator=generator).to("cuda", dtype) for shape in shapes]


def planned(dtype="f16", heads=(32, 8, 128), tokens=TOKENS, **options):
    snapshot = espalier.make_snapshot(PARENTS, tokens, layout="contiguous", block_tokens=32)
    config = espalier.PlanConfig(espalier.HeadShape(*heads), dtype, **options)
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    return plan


def expected(q, k, v, tokens=TOKENS, **options):
    arrays = (array.double().cpu().numpy() for array in (q, k, v))
    return oracle.attend(oracle.paths_of(PARENTS, tokens), *arrays, **options)


def close(found, reference, tolerance):
    return np.allclose(found.double().cpu().numpy(), reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", DTYPES)
def test_attention_of_every_type_and_strategy(name, strategy):
    dtype, tolerance = DTYPES[name]
    q, k, v = problem(dtype)
    out, lse = torch.full_like(q, torch.nan), torch.full(q.shape[:2], torch.nan, device="cuda")
    espalier.attend(planned(name, strategy=strategy), q, k, v, out, lse, scale=0.1, soft_cap=3.0)
    torch.cuda.synchronize()
    reference = expected(q, k, v, scale=0.1, soft_cap=3.0)
    assert close(out, reference[0], tolerance) and close(lse, reference[1], 1e-3)


@pytest.mark.parametrize("heads", [(4, 2, 32), (6, 2, 40), (7, 1, 64), (8, 8, 256)])
def test_heads_of_every_kind(heads):
    q, k, v = problem(heads=heads)
    out = torch.empty_like(q)
    espalier.attend(planned(heads=heads), q, k, v, out)
    torch.cuda.synchronize()
    assert close(out, expected(q, k, v)[0], 2e-3)


def test_tensors_of_the_cpu_and_of_other_libraries():
    q, k, v = problem()
    plan = planned()
    with pytest.raises(ValueError, match="q lies in CPU memory, expected CUDA memory"):
        espalier.attend(plan, q.cpu(), k, v, torch.empty_like(q))
    cupy = pytest.importorskip("cupy")
    ours, theirs = torch.empty_like(q), cupy.empty(q.shape, cupy.float16)
    espalier.attend(plan, q, k, v, ours)
    espalier.attend(plan, *(cupy.from_dlpack(array) for array in (q, k, v)), theirs)
    torch.cuda.synchronize()
    assert torch.equal(torch.from_dlpack(theirs), ours)


def test_calls_follow_pytorchs_current_stream():
    q, k, v = problem()
    attention = TreeAttention(planned())
    first, _ = attention(q, k, v)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert current_stream(q) == stream.cuda_stream
        # The first call on a stream makes an instance for it, and the first launch of a kernel loads it: both may wait.
        attention(q * 2, k, v)
        torch.cuda._sleep(50_000_000)
        q2 = q * 2  # after the sleep
        second, _ = attention(q2, k, v)
        assert not stream.query()  # nothing waited for the stream
    torch.cuda.synchronize()
    assert close(first, expected(q, k, v)[0], 2e-3) and close(second, expected(q2, k, v)[0], 2e-3)


def test_layers_that_come_back_follow_what_they_are_given():
    """Their launches are kept from the second call on."""
    layers = [problem(rows=3, seed=seed) for seed in range(3)]
    plan, other_plan = planned(), planned(strategy="node", kernel="portable")
    streams = [torch.cuda.Stream(), torch.cuda.current_stream()]

    def check(layer, q, plan=plan, stream=None, **options):
        _, k, v = layers[layer]
        out, lse = torch.full_like(q, torch.nan), torch.full(q.shape[:2], torch.nan, device="cuda")
        torch.cuda.synchronize()
        espalier.attend(plan, q, k, v, out, lse, stream=(stream or streams[1]).cuda_stream, **options)
        torch.cuda.synchronize()
        reference = expected(q, k, v, **options)
        assert close(out, reference[0], 2e-3) and close(lse, reference[1], 1e-3)

    for turn in range(5):
        for layer in range(3):
            q = problem(seed=10 * turn + layer)[0] if turn % 2 else layers[layer][0]
            check(layer, q, stream=streams[turn % 2])
            check(layer, q, soft_cap=2.0 + turn)
            check(layer, q, plan=other_plan)
            check(layer, q)
    q, k, v = layers[0]
    graph, out = torch.cuda.CUDAGraph(), torch.empty_like(q)
    with torch.cuda.graph(graph, stream=streams[0]):  # of which it becomes a part
        espalier.attend(plan, q, k, v, out, stream=streams[0].cuda_stream)
    check(0, problem(seed=77)[0])
    q.copy_(problem(seed=78)[0])
    out.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert close(out, expected(q, k, v)[0], 2e-3)


@pytest.mark.parametrize("options", [{"backend": "aot_eager"}, {}, {"mode": "reduce-overhead"}], ids=str)
def test_compiled_layers_share_a_plan(options):
    attention = TreeAttention(planned())
    q, k, v = problem()

    def two_layers(q):
        for scale in (1.0, 2.0):
            q = q + attention(q * scale, k, v)[0]
        return q

    torch.compiler.reset()
    compiled = torch.compile(two_layers, fullgraph=True, **options)
    with torch.inference_mode():
        for _ in range(4):  # reduce-overhead warms up, captures, replays
            found = compiled(q).clone()
    torch.cuda.synchronize()
    first = q.double().cpu().numpy() + expected(q, k, v)[0]
    second = first + expected(torch.from_numpy(2 * first).half(), k, v)[0]
    assert close(found, second, 1e-2)


def test_a_captured_graph_goes_on_while_the_tree_changes():
    heads = (8, 2, 64)
    tree = espalier.KvTree(espalier.BlockPool(64, 16))
    trunk = tree.root(70)
    tree.fork(trunk, 2)
    tree.append(tree.branches(), 9)
    arrays = espalier.TreeArrays(nodes=16, rows=3, blocks=80)
    capacity = espalier.PlanCapacity(nodes=16, rows=3)
    plan = espalier.Plan(espalier.PlanConfig(espalier.HeadShape(*heads), "bf16", capacity=capacity))
    attention = TreeAttention(plan)
    layers = [problem(torch.bfloat16, heads, tokens=64 * 16, seed=seed)[1:] for seed in range(4)]
    q = problem(torch.bfloat16, heads)[0]
    outs = [torch.empty_like(q) for _ in layers]
    lse = torch.empty(q.shape[:2], device="cuda")

    def run():
        for (k, v), out in zip(layers, outs):
            attention(q, k.view(64, 16, 2, 64), v.view(64, 16, 2, 64), out, lse)

    def follow_tree():
        stream = current_stream(q)
        arrays.upload(tree.snapshot(), stream)
        plan.update(arrays, stream)

    follow_tree()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    for change in ("as captured", "longer", "other branches"):
        if change == "longer":
            tree.append(tree.branches(), 30)
        if change == "other branches":
            tree.prune(tree.branches()[1])
            tree.append(tree.fork(tree.branches()[1], 1), 3)
        follow_tree()
        for out in outs:
            out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        paths = [tree.slots(branch) for branch in tree.branches()]
        for (k, v), out in zip(layers, outs):
            reference = oracle.attend(paths, *(array.double().cpu().numpy() for array in (q, k, v)))
            assert close(out, reference[0], 2e-2), change


def test_decode_steps_on_the_device_alone():
    snapshot = espalier.make_snapshot([-1, 0, 0], [5, 2, 1], block_tokens=4)
    arrays = espalier.TreeArrays(snapshot)
    config = espalier.PlanConfig(espalier.HeadShape(4, 2, 64), "f16")
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(arrays)
    q, k, v = problem(heads=(4, 2, 64), rows=2, tokens=16)
    _, k_new, v_new = problem(heads=(4, 2, 64), tokens=2, seed=1)
    k, v = k.view(4, 4, 2, 64), v.view(4, 4, 2, 64)
    slots = torch.empty(2, dtype=torch.int64, device="cuda")
    arrays.grow(slots)
    espalier.append(slots, k_new, v_new, k, v)
    plan.grow(arrays)
    out = torch.empty_like(q)
    espalier.attend(plan, q, k, v, out)
    torch.cuda.synchronize()
    assert slots.tolist() == [10, 13] and torch.equal(k.view(16, 2, 64)[slots], k_new)
    flat = [array.double().cpu().numpy() for array in (q, k.view(16, 2, 64), v.view(16, 2, 64))]
    assert close(out, oracle.attend([[0, 1, 2, 3, 4, 8, 9, 10], [0, 1, 2, 3, 4, 12, 13]], *flat)[0], 2e-3)


def test_the_quick_start_of_fasttree():
    tree = []
    for i, (parent, seqlen) in enumerate(zip([-1, 0, 0], [128, 64, 64])):
        node = KVTreeNode()
        node.parent, node.id, node.seqlen, node.num_children = parent, i, seqlen, 0 if i else 2
        node.requests = [i - 1] if i else [0, 1]
        tree.append(node)
    q, k, v = problem(heads=(32, 32, 128), rows=2, tokens=256)
    o = torch.full_like(q, torch.nan)
    params = FastTreeParams()
    metadata, _ = fasttree_preparation(
        tree, [0, 128, 192, 256], 2, 32, 32, 128, [1024, 128], [132, 528], [132, 132], params
    )
    fasttree_decode(q, k, v, o, *metadata, params.TSQs, params.TSKs, 128**-0.5)
    torch.cuda.synchronize()
    arrays = (array.double().cpu().numpy() for array in (q, k, v))
    reference = oracle.attend(oracle.paths_of([-1, 0, 0], [128, 64, 64]), *arrays)[0]
    print(f"FastTree's quick start: largest difference {np.abs(o.double().cpu().numpy() - reference).max():.1e}")
    assert close(o, reference, 2e-3)


PROGRAM = """
import torch, espalier
from espalier.torch import TreeAttention
def objects():
    snapshot = espalier.make_snapshot([-1, 0, 0], [50, 6, 7], layout='contiguous')
    config = espalier.PlanConfig(espalier.HeadShape(4, 2, 64), 'f16')
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    arrays = espalier.TreeArrays(snapshot)
    plan.update(arrays)
    q, k, v = (torch.zeros(n, h, 64, dtype=torch.half, device='cuda') for n, h in ((2, 4), (63, 2), (63, 2)))
    with torch.cuda.stream(torch.cuda.Stream()):
        TreeAttention(plan)(q, k, v)
    return dict(plan=plan, arrays=arrays, q=q)
"""


@pytest.mark.parametrize("ending", ["globals().update(objects())", "o = objects(); o['o'] = o; del o", "import sys; sys.o = objects()"])
def test_the_process_ends_cleanly(ending):
    ended = subprocess.run([sys.executable, "-c", PROGRAM + ending], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_engine_template_captures_its_layers():
    example = Path(__file__).parents[1] / "examples" / "engine_loop.py"
    ended = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "cuda: " in ended.stdout and "2 graphs" in ended.stdout
