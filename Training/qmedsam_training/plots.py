"""Curves of a training log."""

from __future__ import annotations

import csv
from pathlib import Path


def plot_log(log: Path, path: Path) -> None:
    """Loss and DSC over steps as a PNG."""
    from matplotlib.figure import Figure

    with log.open(newline="") as stream:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [r["step"] for r in rows]
    left.plot(steps, [r["loss"] for r in rows], color="tab:red")
    left.set(xlabel="step", ylabel="training loss")
    right.plot(steps, [r["dsc"] for r in rows], label="training (augmented)", color="tab:gray")
    right.plot(steps, [r["held_out_mean_of_groups"] for r in rows], label="held out, mean over sources", color="tab:blue")
    right.set(xlabel="step", ylabel="DSC")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
