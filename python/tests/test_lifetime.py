"""A process ends without a word, in whatever order Python lets go of its objects."""

import subprocess
import sys

import pytest

SET_UP = """
import numpy as np
import espalier
def objects():
    pool = espalier.BlockPool(8, 4)
    tree = espalier.KvTree(pool)
    tree.fork(tree.root(5))
    snapshot = tree.snapshot()
    arrays = espalier.TreeArrays(snapshot)
    plan = espalier.Plan(espalier.PlanConfig(espalier.HeadShape(2, 1, 8), capacity=espalier.PlanCapacity(nodes=4, rows=4)))
    plan.update(arrays)
    return dict(pool=pool, tree=tree, snapshot=snapshot, arrays=arrays, plan=plan)
def attend(plan):
    q, k = np.zeros((2, 2, 8), np.float32), np.zeros((8, 4, 1, 8), np.float32)
    espalier.attend(plan, q, k, k, np.empty_like(q))
"""

ENDINGS = {
    "an import alone": "",
    "objects in globals": "globals().update(objects())",
    "objects in a cycle": "o = objects(); o['self'] = o; del o",
    "objects in another module": "sys = __import__('sys'); sys.kept = objects()",
    "the pool let go first": "o = objects(); del o['pool']; attend(o['plan']); del o",
    "the arrays let go before the attention": "o = objects(); del o['arrays']; attend(o['plan'])",
    "an exception": "o = objects()\ntry:\n    o['tree'].append(o['tree'].root(1), -1)\nexcept ValueError as e:\n    kept = e",
    "sys.exit": "o = objects(); import sys; sys.exit(0)",
    "threads": """
import threading
o = objects()
plans = [objects()['plan'] for _ in range(4)]
threads = [threading.Thread(target=lambda p=p: [attend(p) for _ in range(50)]) for p in plans]
[t.start() for t in threads]
[t.join() for t in threads]
""",
    "an exit handler that comes later": """
import atexit
o = objects()
atexit.register(lambda: attend(o['plan']))
""",
}


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_the_process_ends_cleanly(ending):
    ended = run(SET_UP + ending)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_call_after_the_end_is_an_error():
    program = """
import atexit
def late():
    for call in (lambda: attend(o['plan']), lambda: o['tree'].root(1), lambda: espalier.BlockPool(4, 4)):
        try:
            call()
        except RuntimeError as error:
            print(error)
atexit.register(late)
"""
    ended = run(program + SET_UP + "o = objects()")
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout.splitlines() == ["espalier has shut down, because Python is exiting"] * 3


def test_the_gil_is_released():
    """Another Python thread goes on while an attention runs."""
    program = SET_UP + """
import sys, threading, time
tokens = 1 << 15
snapshot = espalier.make_snapshot([-1], [tokens], [0] * 8, layout="contiguous")
config = espalier.PlanConfig(espalier.HeadShape(16, 16, 64))
config.capacity = espalier.Plan.required_capacity(snapshot, config)
plan = espalier.Plan(config)
plan.update(espalier.TreeArrays(snapshot))
q, k = np.zeros((8, 16, 64), np.float32), np.zeros((tokens, 16, 64), np.float32)
out = np.empty_like(q)
ticks, running = 0, True
def tick():
    global ticks
    while running:
        ticks += 1
        time.sleep(1e-4)
thread = threading.Thread(target=tick)
sys.setswitchinterval(1000)  # the other thread gets the GIL only where this one releases it
thread.start()
before = ticks
espalier.attend(plan, q, k, k, out)
after = ticks
running = False
thread.join()
print(after > before)
"""
    ended = run(program)
    assert ended.stdout == "True\n", ended.stderr
