"""How long cases take: the published ways with LiteMedSAM, this engine with the same network, and the shipped models.

    python Testing/benchmarks/speed.py [--rounds 5] [--models FOLDER] [-o Docs/Evidence/Speed]     (or: make bench)
    python Testing/benchmarks/speed.py --threads 1 --by processor --name busy    (beside other work: processor time, one thread)

Every row runs in a process of its own, which loads its network once; cases go round the rows in turn, so that what else the
machine does hits all alike. Medians of the rounds; ratios are of the same round, with 95 % intervals over rounds (bootstrap of
the median). Peak memory is what a row adds to its process beyond libraries and image, largest of all cases and rounds. Before
that: how long it takes to the first mask. Writes ``speed.json``, ``speed.png`` and the tables of ``Docs/Evidence/Speed.md``; with
a name, files and a part of the page of that name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from baselines import made
from qmedsam import __version__
from qmedsam.models import shipped_folder
from qmedsam.network.processor import available_cores, processor_name
from qmedsam.network.runtime import import_openvino
from speed_rows import CASES, ROWS

ROOT = Path(__file__).resolve().parents[2]
BASE = "paper"
UNITS = {"seconds": "Seconds", "processor": "Processor seconds"}
Figures = Dict[str, Dict[str, List[Dict[str, float]]]]  # row, case, round

#: Milliseconds from the call to the first slice's mask: in a process that has loaded no network, and then once more.
FIRST = """
import json, sys, time
from qmedsam import Box, Segmenter
from qmedsam.files import read_volume
volume, segmenter = read_volume(sys.argv[1]), Segmenter(threads=int(sys.argv[2]))
box = Box.from_voxels((50, 45, 10), (90, 85, 30))
answers = []
for _ in range(2):
    start, times = time.perf_counter(), []
    segmenter.segment(volume, [box], "CT", "fixed", progress=lambda *_: times.append(1000 * (time.perf_counter() - start)))
    answers.append(times[0])
print(json.dumps(answers))
"""


def measured(folder: Path, rounds: int, threads: int) -> Figures:
    """All rows and cases, in turn."""
    figures: Figures = {name: {} for name in ROWS}
    workers: Dict[str, Tuple[subprocess.Popen[str], List[str]]] = {}
    for name in ROWS:
        command = [sys.executable, str(Path(__file__).with_name("speed_rows.py")), name, str(folder), str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment())
        workers[name] = process, _answer(process)["ready"]
    try:
        for turn in range(rounds + 1):  # the first warms up: shapes are compiled when they are needed
            for case in CASES:
                for name, (process, ready) in workers.items():
                    if case not in ready:
                        continue
                    assert process.stdin is not None
                    process.stdin.write(case + "\n")
                    process.stdin.flush()
                    figures[name].setdefault(case, []).append(_answer(process))
            sys.stderr.write(f"round {turn} of {rounds}\n")
    finally:
        for process, _ in workers.values():
            process.kill()
            process.wait()
    return figures


def _answer(process: subprocess.Popen[str]) -> Dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"A row ended before it answered: {process.args}")
    return json.loads(line)


def _environment() -> Dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def interval(ratios: np.ndarray) -> Tuple[float, float, float]:
    """Median and its 95 % percentile bootstrap interval."""
    drawn = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(np.median(ratios)), float(low), float(high)


def ratios_of(figures: Figures, row: str, base: str, case: str, by: str) -> Optional[Tuple[float, float, float]]:
    """How many times as fast a row is as another, and the interval; None where either was not run."""
    if case not in figures[row] or case not in figures[base]:
        return None
    pairs = zip(figures[base][case][1:], figures[row][case][1:])
    return interval(np.array([one[by] / other[by] for one, other in pairs]))


def overall(figures: Figures, row: str, base: str, by: str) -> Tuple[float, float, float]:
    """The same over all cases that both have: geometric means within a round."""
    cases = [case for case in CASES if case in figures[row] and case in figures[base]]
    seconds = np.array([[[one[by] for one in figures[n][case][1:]] for case in cases] for n in (base, row)])
    return interval(np.exp(np.log(seconds[0] / seconds[1]).mean(axis=0)))


def first_masks(rounds: int) -> Dict[str, List[float]]:
    """Milliseconds to the first slice's mask, of a process that has loaded no network and of one that has."""
    sample = str(Path(shipped_folder()).parent / "SampleData" / "QMedSAMPhantom.nrrd")
    found: Dict[str, List[float]] = {"engine, network not loaded": [], "engine, network loaded": []}
    for _ in range(rounds + 1):
        command = [sys.executable, "-c", FIRST, sample, "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment())
        for times, ms in zip(found.values(), json.loads(done.stdout)):
            times.append(ms)
    return {name: times[1:] for name, times in found.items()}  # the first compiles into the cache


def said(value: Optional[Tuple[float, float, float]]) -> str:
    return "-" if value is None else f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def tables(figures: Figures, first: Dict[str, List[float]], about: Dict[str, Any], by: str) -> str:
    """Markdown; ratios of seconds or of processor seconds."""
    lines = [", ".join(f"{key}: {value}" for key, value in about.items()) + ".", ""]
    lines += ["| row | what |", "|---|---|", *(f"| {name} | {row.about} |" for name, row in ROWS.items()), ""]
    lines += ["| case | of the table | here |", "|---|---|---|"]
    for name, case in CASES.items():
        size = " x ".join(map(str, case.shape)) + f", {case.boxes} box{'es' * (case.boxes != 1)}"
        lines.append(f"| {name} | {case.like} | {size}{f' (of {case.whole})' if case.whole else ''} |")
    head = "| row | " + " | ".join(CASES)
    lines += ["", "Seconds, medians:", "", head + " | peak memory added, MiB |", "|---" * (len(CASES) + 2) + "|"]
    for name, row in figures.items():
        seconds = [f"{statistics.median(a['seconds'] for a in row[case][1:]):.2f}" if case in row else "-" for case in CASES]
        peak = max(a["added_mib"] for answers in row.values() for a in answers)
        lines.append(f"| {name} | " + " | ".join(seconds) + f" | {peak:.0f} |")
    lines += ["", "Processor seconds, medians (other work on the machine stretches them less):", "", head + " |"]
    lines.append("|---" * (len(CASES) + 1) + "|")
    for name, row in figures.items():
        used = [f"{statistics.median(a['processor'] for a in row[case][1:]):.2f}" if case in row else "-" for case in CASES]
        lines.append(f"| {name} | " + " | ".join(used) + " |")
    lines += ["", f"{UNITS[by]}, times as fast as '{BASE}', medians and intervals:", "", head + " | all |"]
    lines.append("|---" * (len(CASES) + 2) + "|")
    for name in figures:
        cells = [said(ratios_of(figures, name, BASE, case, by)) for case in CASES]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {said(overall(figures, name, BASE, by))} |")
    lines += ["", f"{UNITS[by]}, times as fast as 'challenge':", "", head + " |", "|---" * (len(CASES) + 1) + "|"]
    for name in list(figures)[1:]:
        lines.append(f"| {name} | " + " | ".join(said(ratios_of(figures, name, "challenge", case, by)) for case in CASES) + " |")
    lines += ["", "| first slice's mask, from the call | ms, median (least to most) |", "|---|---|"]
    for name, ms in first.items():
        lines.append(f"| {name} | {statistics.median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f}) |")
    return "\n".join(lines)


def draw(figures: Figures, path: Path, by: str) -> None:
    """What every row and case took, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(figures)
    for n, (name, row) in enumerate(figures.items()):
        places = [m for m, case in enumerate(CASES) if case in row]
        seconds = [statistics.median(a[by] for a in row[case][1:]) for case in CASES if case in row]
        axes.bar([m + (n - len(figures) / 2 + 0.5) * width for m in places], seconds, width, label=name)
    axes.set_yscale("log")
    axes.set_ylabel(f"{UNITS[by].lower()} a case")
    axes.set_xticks(range(len(CASES)), list(CASES))
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "Docs" / "Evidence" / "Speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of LiteMedSAM's rows; 0: all cores")
    parser.add_argument("--by", choices=list(UNITS), default="seconds", help="what ratios are of")
    parser.add_argument("--name", default="", help="of files and of the marks in the page")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "speed", help="made there once: LiteMedSAM in three forms")
    parser.add_argument("--checkpoint", type=Path, help="LiteMedSAM's, where it cannot be fetched")
    asked = parser.parse_args()
    folder = made(asked.models, asked.checkpoint)
    openvino = import_openvino()
    about: Dict[str, Any] = {"Processor": processor_name(openvino.Core()), "cores": available_cores()}
    about.update({"threads": asked.threads or available_cores(), "OpenVINO": openvino.__version__, "hint": "f32"})
    about.update({"qmedsam": __version__, "numpy": np.__version__, "Python": platform.python_version(), "rounds": asked.rounds})
    before = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    first = first_masks(asked.rounds)
    figures = measured(folder, asked.rounds, asked.threads)
    about["load average before"] = round(before, 1)
    asked.output.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "rows": figures, "first_mask_ms": first}
    name = f"speed-{asked.name}" if asked.name else "speed"
    (asked.output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(figures, asked.output / f"{name}.png", asked.by)
    text = tables(figures, first, about, asked.by)
    sys.stdout.write(text + "\n")
    page = asked.output.with_suffix(".md")
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(start) if page.is_file() else ("# Speed\n\n", "", "")
    page.write_text(f"{head}{start}\n{text}\n{end}{rest.partition(end)[2] or chr(10)}", encoding="utf-8")


if __name__ == "__main__":
    main()
