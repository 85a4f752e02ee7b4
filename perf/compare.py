#!/usr/bin/env python3
"""espalier beside other libraries: one process, one device, the same data.

usage: compare.py [OPTION...] PROBLEM...        PROBLEM is WORKLOAD/heads:QUERY,KV,DIM/TYPE, as in problems.txt

Several layers with K and V of their own take turns, so that K and V come from memory and not from a cache. On a GPU
they are captured in a CUDA graph, and a figure is the median of its replays over the layers; on a CPU it is the median
of the wall time of one layer. Before that, the outputs are filled with NaN, computed, and compared with attention in
double precision: a result that is wrong has no time.
"""

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from peers.libraries import LIBRARIES  # noqa: E402
from peers.problem import NotApplicable, Problem  # noqa: E402

LARGEST_ERROR = {"f32": 2e-6, "f16": 2e-3, "bf16": 1e-2}  # |out - expected| / |expected|
FIELDS = [
    "problem", "library", "us_per_layer", "times_espalier", "plan_us", "error", "floor_us", "note", "device", "versions"
]  # fmt: skip


def main():
    options = parse()
    rows = read_csv(options.read) if options.read else []
    for name in dict.fromkeys(row["problem"] for row in rows):
        print_table([row for row in rows if row["problem"] == name])
    for name in options.problems:
        figures = compare(name, options)
        print_table(figures)
        rows += figures
        if options.csv:
            write_csv(rows, options.csv)
    if options.plot:
        plot(rows, options.plot)


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(rows, path):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help="such as star:2048,64,64/heads:32,8,128/bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--only", type=lambda names: names.split(","), help="names of libraries, separated by commas, or their beginnings"
    )
    parser.add_argument("--layers", type=int, default=4, help="layers that take turns (4)")
    parser.add_argument("--block-tokens", type=int, default=16, help="tokens of a block of espalier's cache (16)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring, for each library and problem (0.3)")
    parser.add_argument("--csv", metavar="FILE", help="writes the figures")
    parser.add_argument("--plot", metavar="FILE", help="draws them (.svg, .png, .pdf); needs matplotlib")
    parser.add_argument("--read", metavar="FILE", help="shows the figures of an earlier --csv, measures nothing")
    options = parser.parse_args()
    if bool(options.problems) == bool(options.read):
        parser.error("expected problems, or --read")
    for part in options.only or []:
        if not any(library.startswith(part) for library in LIBRARIES):
            parser.error(f"--only: '{part}' begins none of {', '.join(LIBRARIES)}")
    return options


def compare(name, options):
    """A row for each library; prints a line as it goes on, since some take long."""
    began = time.perf_counter()
    try:
        problem = Problem(name, options.device, options.layers, options.block_tokens)
    except ValueError as error:
        sys.exit(f"compare.py: {error}")
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


def print_table(rows):
    print(f"\n{rows[0]['problem']}; {rows[0]['device']}; {rows[0]['versions']}\n")
    print("| library | us per layer | times espalier | plan us | error | note |\n|---|---|---|---|---|---|")
    for row in rows:
        cells = ("library", "us_per_layer", "times_espalier", "plan_us", "error", "note")
        print("| " + " | ".join(row.get(cell) or "" for cell in cells) + " |", flush=True)


def plot(rows, path):
    """Bars of each library's time over espalier's, one group for each problem."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError:
        sys.exit("compare.py: --plot needs matplotlib, which is not installed")
    rows = [row for row in rows if row.get("times_espalier")]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    libraries = list(dict.fromkeys(row["library"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.22 * (len(libraries) + 1) * len(problems)))
    height = 1 / (len(libraries) + 1)
    for index, library in enumerate(libraries):
        own = {row["problem"]: float(row["times_espalier"]) for row in rows if row["library"] == library}
        places = [problems.index(problem) + index * height for problem in own]
        bars = axes.barh(places, list(own.values()), height, label=library)
        axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    axes.set_yticks([index + 0.5 - height for index in range(len(problems))], problems, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("time over that of espalier")
    axes.axvline(1, color="black", linewidth=0.5)
    axes.legend(fontsize=8)
    axes.set_title(f"{rows[0]['device']}\n{rows[0]['versions']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
