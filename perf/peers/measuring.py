"""Times the libraries on one problem, and checks what they compute."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from .libraries import LIBRARIES
from .problem import NotApplicable, Problem

LARGEST_ERROR = {"f32": 2e-6, "f16": 2e-3, "bf16": 1e-2}  # |out - expected| / |expected|


def default_device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def expects_libraries(names):
    """ValueError unless each is the beginning of a library's name; None stands for all of them."""
    for part in names or []:
        if not any(library.startswith(part) for library in LIBRARIES):
            raise ValueError(f"--only: '{part}' begins none of {', '.join(LIBRARIES)}")


def compare(name, options):
    """A row for each library; ValueError for a problem that makes no sense. Tells how long it took."""
    began = time.perf_counter()
    problem = Problem(name, options.device, options.layers, options.block_tokens)
    expected = {layer: problem.expected(layer) for layer in sorted({0, problem.layers - 1})}
    rows = []
    for library, (prepare, devices, why_not) in LIBRARIES.items():
        if options.device not in devices or not wanted(library, options.only):
            continue
        row = {"problem": name, "library": library, "device": device_name(options.device), "versions": versions()}
        row |= {"floor_us": f"{floor:.1f}"} if (floor := floor_us(problem)) else {}
        rows.append(row | (measure(problem, prepare, expected, options.seconds) if not why_not else {"note": why_not}))
        if options.device == "cuda":
            torch.cuda.empty_cache()
    ours = next((float(row["us_per_layer"]) for row in rows if row["library"] == "espalier" and "us_per_layer" in row), None)
    for row in rows:
        if ours and "us_per_layer" in row:
            row["times_espalier"] = f"{float(row['us_per_layer']) / ours:.2f}"
    print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return rows


def wanted(library, only):
    return only is None or any(library.startswith(part) for part in only)


def measure(problem, prepare, expected, seconds):
    try:
        with torch.inference_mode():
            prepared = prepare(problem)
            time_of = time_on_gpu if problem.device.type == "cuda" else time_on_cpu
            error, us = time_of(problem, prepared, expected, seconds)
    except NotApplicable as reason:
        return {"note": str(reason)}
    except Exception as failure:  # of another library: it must not end the comparison
        return {"note": f"{type(failure).__name__}: {' '.join(str(failure).split())[:160]}"}
    if not error <= LARGEST_ERROR[problem.dtype_name]:
        return {"error": f"{error:.1e}", "note": "wrong"}
    row = {"us_per_layer": f"{us:.1f}", "error": f"{error:.1e}"}
    row |= {"plan_us": f"{prepared.plan_us:.0f}"} if prepared.plan_us is not None else {}
    few_layers = f"{prepared.layers} of {problem.layers} layers" if prepared.layers < problem.layers else None
    row["note"] = "; ".join(filter(None, (prepared.note, few_layers)))
    return row


def poison(out):
    for tensor in out if isinstance(out, list) else [out]:
        tensor.fill_(float("nan"))


def largest_error(prepared, outs, expected):
    """|out - expected| / |expected| of the worst layer; NaN if the output has any."""
    errors = []
    for layer, reference in expected.items():
        if layer < prepared.layers:
            difference = prepared.rows_of(outs[layer]).double() - reference
            errors.append(float(difference.norm() / reference.norm()))
    return float(np.max(errors))


def time_on_cpu(problem, prepared, expected, seconds):
    checked = [layer for layer in expected if layer < prepared.layers]
    for layer in checked:
        poison(prepared.run(layer))
    outs = {layer: prepared.run(layer) for layer in checked}
    error = largest_error(prepared, outs, expected)
    taken = []
    while sum(taken) < seconds or len(taken) < 3:
        begin = time.perf_counter()
        prepared.run(len(taken) % prepared.layers)
        taken.append(time.perf_counter() - begin)
    return error, 1e6 * float(np.median(taken))


def time_on_gpu(problem, prepared, expected, seconds):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # the stream that captures has run everything once
        for _ in range(2):
            for layer in range(prepared.layers):
                prepared.run(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outs = [prepared.run(layer) for layer in range(prepared.layers)]
    for out in outs:
        poison(out)
    graph.replay()
    torch.cuda.synchronize()
    error = largest_error(prepared, outs, expected)

    taken = []
    while sum(taken) < 1e3 * seconds or len(taken) < 10:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))  # milliseconds
    return error, 1e3 * float(np.median(taken)) / prepared.layers


def floor_us(problem):
    """Each KV byte read once, each operation done once, on the H200: 4.6 TB/s, 790 TFLOP/s, and 3.5 us that a launch takes."""
    if "H200" not in device_name(problem.device.type):
        return None
    return 1e6 * max(problem.unique_kv_bytes / 4.6e12, problem.flops / 790e12) + 3.5


def device_name(device):
    if device == "cuda":
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo", encoding="ascii") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{models[0] if models else 'CPU'}, {torch.get_num_threads()} threads"


def versions():
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "of an unknown commit"
    return f"espalier {commit}, PyTorch {torch.__version__}"
