"""perf/compare.py: figures for what there is, words for what there is not, and nothing for a wrong result. perf/host_time.py."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

PERF = Path(__file__).parents[2] / "perf"
PROBLEM = "star:40,4,4/heads:4,2,32/f32"


def run(*arguments, program="compare.py", env=None):
    command = [sys.executable, str(PERF / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


def test_a_comparison_on_the_cpu(tmp_path):
    path = tmp_path / "figures.csv"
    options = ["--device", "cpu", "--seconds", "0.001", "--layers", "2", "--csv", str(path)]
    ended = run(*options, PROBLEM, "tokens:20,32/heads:4,2,32/f16")
    assert ended.returncode == 0, ended.stderr
    rows = {(row["problem"], row["library"]): row for row in csv.DictReader(open(path, newline=""))}
    for library in ("espalier", "sdpa rows", "sdpa padded (math)", "sdpa padded (flash)", "sdpa by level", "flex"):
        row = rows[PROBLEM, library]
        assert float(row["us_per_layer"]) > 0 and float(row["error"]) < 2e-6, row
    assert rows[PROBLEM, "espalier"]["times_espalier"] == "1.00"
    assert "different levels" in rows["tokens:20,32/heads:4,2,32/f16", "sdpa by level"]["note"]
    assert "| espalier |" in ended.stdout and f"PyTorch {torch.__version__}" in ended.stdout

    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    picture = tmp_path / "figures.svg"
    alone = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}  # without espalier
    assert run("--read", str(path), "--plot", str(picture), env=os.environ | alone).returncode == 0
    assert "<svg" in picture.read_text()


def test_a_comparison_that_goes_on(tmp_path):
    first, all_of_them = tmp_path / "first.csv", tmp_path / "all.csv"
    others = "star:20,2,3/heads:4,2,32/f32", "star:30,2,3/heads:4,2,32/f32"
    options = ["--device", "cpu", "--seconds", "0.001", "--layers", "1", "--only", "espalier"]
    assert run(*options, "--csv", str(first), PROBLEM).returncode == 0
    ended = run(*options, "--read", str(first), "--csv", str(all_of_them), "--limit", "1e-9", PROBLEM, *others)
    assert ended.returncode == 0 and f"time is up, not measured: {others[0]} {others[1]}" in ended.stderr
    assert all_of_them.read_text() == first.read_text()
    ended = run(*options, "--read", str(first), "--csv", str(all_of_them), PROBLEM, others[0])
    assert ended.returncode == 0 and f"{others[0]}: " in ended.stderr and f"{PROBLEM}: " not in ended.stderr
    found = [row["problem"] for row in csv.DictReader(open(all_of_them, newline=""))]
    assert found == [PROBLEM, others[0]]


def test_a_problem_that_makes_no_sense():
    ended = run("--device", "cpu", "star:40,4,4")
    assert ended.returncode != 0 and "'star:40,4,4' is not of the form" in ended.stderr
    ended = run("--device", "cpu", "star:40,4/heads:4,2,32/f32")
    assert ended.returncode != 0 and "star:40,4: has 2 fields" in ended.stderr


def test_libraries_are_chosen_by_the_beginnings_of_their_names():
    ended = run("--device", "cpu", "--seconds", "0.001", "--only", "espalier,sdpa padded (flash)", PROBLEM)
    found = [line.split("|")[1].strip() for line in ended.stdout.splitlines() if line.startswith("| ")]
    assert found == ["library", "espalier", "sdpa padded (flash)"], ended.stderr
    ended = run("--only", "espalier,spda", PROBLEM)
    assert ended.returncode != 0 and "--only: 'spda' begins none of espalier, sdpa rows, " in ended.stderr


def test_the_host_time_of_every_way_to_call(tmp_path):
    path = tmp_path / "host_time.csv"
    ended = run("--device", "cpu", "--turns", "2", "--batches", "1", "--calls", "3", "--csv", str(path), program="host_time.py")
    assert ended.returncode == 0, ended.stderr
    rows = list(csv.DictReader(open(path, newline="")))
    calls = [row["call"] for row in rows]
    assert "attend, tensors" in calls and "TreeAttention" in calls and "torch.ops.espalier.attend" in calls
    assert all(0 < float(row["least_us"]) <= float(row["us"]) <= float(row["most_us"]) for row in rows)
    ended = run("--device", "cpu", "star:40,4,4", program="host_time.py")
    assert ended.returncode != 0 and "host_time.py: 'star:40,4,4' is not of the form" in ended.stderr


def test_a_wrong_result_has_no_time():
    sys.path.insert(0, str(PERF))
    from peers import measuring
    from peers.libraries import Prepared
    from peers.problem import Problem

    problem = Problem(PROBLEM, "cpu", layers=1)
    expected = {0: problem.expected(0)}
    right = expected[0].float()

    def measure(out):
        return measuring.measure(problem, lambda _: Prepared(lambda layer: out().clone(), 1), expected, 0.0)

    assert float(measure(lambda: right)["us_per_layer"]) > 0
    assert measure(lambda: right * 1.001)["note"] == "wrong"
    assert measure(lambda: torch.full_like(right, float("nan")))["note"] == "wrong"
    unwritten = torch.empty_like(right)  # poisoned by the measurement, and never computed
    problem_out = measuring.measure(problem, lambda _: Prepared(lambda layer: unwritten, 1), expected, 0.0)
    assert problem_out["note"] == "wrong"
    failing = measuring.measure(problem, lambda _: 1 / 0, expected, 0.0)
    assert failing == {"note": "ZeroDivisionError: division by zero"}
