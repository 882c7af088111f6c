"""Cases per hour of ``qmedsam batch``: one process with all cores, and two processes that share them.

    python Testing/benchmarks/throughput.py [--cases 12] [--repeats 3] [--write]

The cohorts are generated CTs of the abdomen (168 x 132 x 42 voxels, six boxes each) and, where the shared data lie beside the
repository, the smallest validation case of every modality, in 2D and in 3D, its mask giving the boxes. Both ways run in turn,
each from the start of a process to the reports on disk, pictures included; medians. ``--write`` puts the table into
``Docs/Evidence/Throughput.md``.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Tuple

from qmedsam.batch import collect
from qmedsam.network.processor import available_cores
from qmedsam.phantom import write_sample

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
PAGE = ROOT / "Docs" / "Evidence" / "Throughput.md"
START, END = "<!-- throughput -->", "<!-- /throughput -->"


def generated(folder: Path, count: int) -> List[str]:
    """Phantoms, each in a folder of its own; one source of a run."""
    for n in range(count):
        write_sample(folder / f"{n:03}", seed=n)
    return [str(folder)]


def real(folder: Path) -> List[str]:
    """A list of the smallest validation case of every modality, 2D and 3D; empty without the shared data."""
    if not (DATA / "manifest.csv").is_file():
        return []
    with (DATA / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "validation"]
    smallest: Dict[Tuple[str, str], Dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: (DATA / row["path_image"]).stat().st_size):
        smallest.setdefault((row["modality"], row["dim"]), row)
    with (folder / "real.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["name", "modality", "volume", "segmentation"])
        for row in smallest.values():
            table.writerow([row["case_id"], row["modality"], DATA / row["path_image"], DATA / row["path_mask"]])
    return [str(folder / "real.csv")]


def cases_per_hour(sources: List[str], workers: int) -> float:
    """Of one run into a fresh folder."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        command = [sys.executable, "-m", "qmedsam", "batch", *sources, "-o", out, "--workers", str(workers)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.perf_counter() - start
        with (Path(out) / "summary.csv").open(newline="", encoding="utf-8") as stream:
            done = sum(row["state"] == "done" for row in csv.DictReader(stream))
    return 3600 * done / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12, help="generated ones")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    asked = parser.parse_args()
    cores = available_cores()
    head = ("cohort", "cases", f"1 process, {cores} threads", f"2 processes, {max(cores // 2, 1)} thread(s) each", "ratio")
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as scratch:
        cohorts = {
            "generated CT, 6 boxes": generated(Path(scratch) / "in", asked.cases),
            "shared real cases": real(Path(scratch)),
        }
        for name, sources in cohorts.items():
            if not sources:
                sys.stdout.write(f"{name}: not here\n")
                continue
            figures: Dict[int, List[float]] = {1: [], 2: []}
            for _ in range(asked.repeats):
                for workers, found in figures.items():  # in turn: what else the machine does hits both
                    found.append(cases_per_hour(sources, workers))
            one, two = (statistics.median(found) for found in figures.values())
            count = len(collect(sources, Path(scratch) / "out"))
            lines.append(f"| {name} | {count} | {one:.0f} cases/h | {two:.0f} cases/h | {two / one:.2f} |")
            sys.stdout.write(lines[-1] + "\n")
    table = "\n".join(lines)
    sys.stdout.write(table + "\n")
    if asked.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        PAGE.write_text(f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
