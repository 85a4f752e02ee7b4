#!/usr/bin/env python3
"""Draws what measure.sh measured: the fraction of the floor that each workload reaches, and time by rows, prefix length and depth.

usage: plots.py table h200.csv OUT.svg
       plots.py sweeps h200_rows.csv h200_prefix.csv h200_depth.csv OUT.svg

Needs matplotlib. The floor and what a row costs that shares nothing are those of the driver: 4.6 TB/s, 3.5 us.
"""

import csv
import sys

import matplotlib

matplotlib.use("agg")
matplotlib.rcParams["svg.hashsalt"] = "espalier"  # the same file each time
from matplotlib import pyplot  # noqa: E402

MEASURED, FLOOR, APART = "#1f6f8b", "#c7b198", "#8b1f41"
BYTES_PER_US, FIXED_US = 4.6e6, 3.5


def main():
    what, *files = sys.argv[1:] or [""]
    if what == "table" and len(files) == 2:
        figure = draw_table(read(files[0]))
    elif what == "sweeps" and len(files) == 4:
        figure = draw_sweeps(*map(read, files[:3]))
    else:
        sys.exit(__doc__)
    figure.savefig(files[-1], metadata={"Date": None} if files[-1].endswith(".svg") else None)


def read(path):
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        sys.exit(f"plots.py: {path}: {error.strerror}")
    if not rows or "floor_us" not in rows[0]:
        sys.exit(f"plots.py: {path}: no table of attend_driver")
    return rows


def draw_table(rows):
    rows = sorted(rows, key=fraction)
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.3 * len(rows)), layout="constrained")
    names = [f"{row['workload']}  {row['query_heads']}/{row['kv_heads']}" for row in rows]
    bars = axes.barh(names, [100 * fraction(row) for row in rows], color=MEASURED)
    for row, bar in zip(rows, bars):
        middle = bar.get_y() + bar.get_height() / 2
        axes.text(1, middle, f"{float(row['total_us']):.1f} us", color="white", va="center", fontsize=8)
        axes.text(100 * fraction(row) + 1, middle, f"{100 * fraction(row):.0f} %", va="center", fontsize=8)
    axes.axvline(100, color=FLOOR, linewidth=2)
    axes.set_xlim(0, 105)
    axes.set_xlabel("floor / time, %: each KV byte read once, each flop done once, and a launch")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def fraction(row):
    return float(row["floor_us"]) / float(row["total_us"])


def draw_sweeps(by_rows, by_prefix, by_depth):
    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    draw_sweep(panels[0], by_rows, lambda counts, tokens: counts[-1], "rows (2,048 tokens shared, 32 of its own each)")
    draw_sweep(panels[1], by_prefix, lambda counts, tokens: tokens[0], "tokens shared by 64 rows, 32 of its own each")
    draw_sweep(panels[2], by_depth, lambda counts, tokens: len(counts), "levels (256 rows, 1,280 tokens on each path)")
    panels[0].set_ylabel("microseconds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_sweep(axes, rows, place, label):
    shapes = [shape(row["workload"]) for row in rows]
    places = [place(*of_row) for of_row in shapes]
    axes.plot(places, [without_sharing(row, *of_row) for row, of_row in zip(rows, shapes)], "--", color=APART,
              label="each row's path read for itself, at the memory's speed")  # fmt: skip
    axes.plot(places, [float(row["total_us"]) for row in rows], "o-", color=MEASURED, label="measured")
    axes.plot(places, [float(row["floor_us"]) for row in rows], color=FLOOR, linewidth=2, label="floor")
    axes.set_yscale("log")
    if max(places) > 20:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xticks(places)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def shape(workload):
    """(nodes, tokens of a node) of each level of a layers: workload."""
    counts, tokens = workload.removeprefix("layers:").split("/")
    return [int(n) for n in counts.split(",")], [int(n) for n in tokens.split(",")]


def without_sharing(row, counts, tokens):
    token_bytes = 2 * 2 * int(row["kv_heads"]) * int(row["head_dim"])
    return counts[-1] * sum(tokens) * token_bytes / BYTES_PER_US + FIXED_US


if __name__ == "__main__":
    main()
