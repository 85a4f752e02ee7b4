#!/usr/bin/env python3
"""espalier beside other libraries: one process, one device, the same data.

usage: compare.py [OPTION...] PROBLEM...        PROBLEM is WORKLOAD/heads:QUERY,KV,DIM/TYPE, as in problems.txt

Several layers with K and V of their own take turns, so that K and V come from memory and not from a cache. On a GPU
they are captured in a CUDA graph, and a figure is the median of its replays over the layers; on a CPU it is the median
of the wall time of one layer. Before that, the outputs are filled with NaN, computed, and compared with attention in
double precision: a result that is wrong has no time.

Many problems take minutes: --limit ends a run early, and the same command with --read of what it wrote goes on. Showing
and drawing figures needs neither espalier nor PyTorch.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

FIELDS = [
    "problem", "library", "us_per_layer", "times_espalier", "plan_us", "error", "floor_us", "note", "device", "versions"
]  # fmt: skip


def main():
    options = parse()
    rows = [row for path in options.read for row in read_csv(path)]
    known = list(dict.fromkeys(row["problem"] for row in rows))
    for name in known:
        print_table([row for row in rows if row["problem"] == name])
    if options.csv and rows:
        write_csv(rows, options.csv)
    if options.problems:
        measure([name for name in options.problems if name not in known], rows, options)
    if options.plot:
        plot(rows, options.plot)


def measure(names, rows, options):
    """Adds to the rows; they are written after each problem."""
    from peers.measuring import compare, default_device, expects_libraries

    options.device = options.device or default_device()
    began = time.monotonic()
    try:
        expects_libraries(options.only)
        for place, name in enumerate(names):
            if options.limit and time.monotonic() - began > options.limit:
                return print(f"compare.py: time is up, not measured: {' '.join(names[place:])}", file=sys.stderr)
            figures = compare(name, options)
            print_table(figures)
            rows += figures
            if options.csv:
                write_csv(rows, options.csv)
    except ValueError as error:
        sys.exit(f"compare.py: {error}")


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
    parser.add_argument("--device", choices=["cpu", "cuda"], help="a GPU where there is one")
    parser.add_argument(
        "--only", type=lambda names: names.split(","), help="names of libraries, separated by commas, or their beginnings"
    )
    parser.add_argument("--layers", type=int, default=4, help="layers that take turns (4)")
    parser.add_argument("--block-tokens", type=int, default=16, help="tokens of a block of espalier's cache (16)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of measuring, for each library and problem (0.3)")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="after which no problem is begun")
    parser.add_argument("--csv", metavar="FILE", help="writes the figures, those of --read too, after each problem")
    parser.add_argument("--plot", metavar="FILE", help="draws them (.svg, .png, .pdf); needs matplotlib")
    parser.add_argument(
        "--read", metavar="FILE", action="append", default=[],
        help="shows the figures of an earlier --csv, whose problems are not measured again; may be given several times",
    )  # fmt: skip
    options = parser.parse_args()
    if not options.problems and not options.read:
        parser.error("expected problems, or --read")
    return options


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
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.13 * (len(libraries) + 1) * len(problems)))
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
