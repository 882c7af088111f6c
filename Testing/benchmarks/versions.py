"""How long the demo and a walk through a CT take, by the engines of several checkouts in turn.

    mkdir /tmp/0.4.0 && git archive 36ed9fd | tar -x -C /tmp/0.4.0
    python Testing/benchmarks/versions.py /tmp/0.4.0:1 /tmp/0.4.0:2 .:1 .:2 [--rounds 5]

A row is a checkout and its threads, in a process of its own that loads the shipped model once. ``demo``: six organs of the
shipped phantom by ``vote``. ``walk``: one object on 64 slices of a 512 x 512 CT by ``propagate``. Medians and the least of the
rounds, after one that warms up. ``waited``: how long a thread of the row was ready and had no processor, on average (Linux): on a
busy machine, seconds less that are what an idle one would take. Masks are compared by their hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

JOBS = ("demo", "walk")


def job(name: str, sample: Path) -> Tuple[Any, List[Any]]:
    """Volume and boxes, of whatever version of the engine is imported."""
    import numpy as np
    from qmedsam.files import read_boxes, read_volume
    from qmedsam.geometry import Box, Volume

    if name == "demo":
        read = read_volume(sample / "QMedSAMPhantom.nrrd")
        volume = Volume(read.array_kji, read.ijk_to_ras, "CT", read.name)
        return volume, read_boxes(sample / "QMedSAMPhantom-boxes.mrk.json", volume)
    array = np.random.default_rng(0).normal(0, 20, (64, 512, 512)).astype(np.float32)
    k, j, i = np.ogrid[:64, :512, :512]
    array[((k - 31.5) / 31) ** 2 + ((j - 256) / 80) ** 2 + ((i - 256) / 90) ** 2 < 1] += 100
    return Volume(array.astype(np.int16), np.diag([0.8, 0.8, 2.5, 1.0]), "CT"), [Box.from_voxels((164, 174, 0), (348, 338, 63))]


def waited() -> float:
    """Seconds that this thread was ready and had no processor (Linux)."""
    return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e9


def peak_mib(field: str) -> float:
    """``VmHWM`` or ``VmRSS`` of this process (Linux)."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def work(tree: Path, threads: int) -> None:
    """Answer a line of JSON to every name of a job."""
    sys.path.insert(0, str(tree / "QMedSAMSegment"))
    from qmedsam import Segmenter

    jobs = {name: job(name, tree / "Resources" / "SampleData") for name in JOBS}
    base, segmenter = peak_mib("VmRSS"), Segmenter(threads=threads)
    for line in sys.stdin:
        volume, boxes = jobs[line.strip()]
        Path("/proc/self/clear_refs").write_text("5")
        delays: Dict[int, float] = {}  # of streams, which end before the run does

        def heard(done: int, total: int, delays: Dict[int, float] = delays) -> None:
            delays[threading.get_native_id()] = waited()

        before, start, processor = waited(), time.perf_counter(), time.process_time()
        strategy = "vote" if line.strip() == "demo" else "propagate"
        result = segmenter.segment(volume, boxes, "CT", strategy, progress=heard)
        answer: Dict[str, Any] = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
        if threading.get_native_id() in delays:
            delays[threading.get_native_id()] -= before
        answer.update(waited=sum(delays.values()) / threads, added_mib=peak_mib("VmHWM") - base, **result.cost)
        answer["masks"] = hashlib.sha256(result.labels_kji.tobytes()).hexdigest()[:8]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="CHECKOUT:THREADS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    rows = {row: (Path(row.rpartition(":")[0]).resolve(), int(row.rpartition(":")[2])) for row in asked.rows}
    if asked.work:
        work(*rows[asked.rows[0]])
        return
    command = [sys.executable, __file__, "--work"]
    workers = {row: subprocess.Popen([*command, row], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for row in rows}
    answers: Dict[Tuple[str, str], List[Dict[str, Any]]] = {}
    for _ in range(asked.rounds + 1):
        for name in JOBS:
            for row, worker in workers.items():
                assert worker.stdin is not None and worker.stdout is not None
                worker.stdin.write(name + "\n")
                worker.stdin.flush()
                answers.setdefault((name, row), []).append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.communicate()
    fields = ("seconds", "processor", "waited")
    head = ["job", "row", *(f"{field}, median (least)" for field in fields), "MiB added", "encodes, decodes", "masks"]
    sys.stdout.write("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n")
    for (name, row), (_, *rounds) in answers.items():
        cells = [f"{statistics.median(a[f] for a in rounds):.2f} ({min(a[f] for a in rounds):.2f})" for f in fields]
        cells.append(f"{max(a['added_mib'] for a in rounds):.0f}")
        cells += [f"{rounds[0]['encodes']}, {rounds[0]['decodes']}", ", ".join(sorted({a["masks"] for a in rounds}))]
        sys.stdout.write(f"| {name} | {row} | " + " | ".join(cells) + " |\n")


if __name__ == "__main__":
    main()
