"""What teaching with 5, 10 and 20 cases is worth: sources that the shipped network has not seen, scored on other patients.

    python Testing/benchmarks/teaching.py DATA/manifest.csv --results teaching.csv
    python Testing/benchmarks/teaching.py DATA/manifest.csv --results teaching.csv --write

Every source and number of cases is a row group of the results; what is there is not done again, so that it can be stopped.
"""

from __future__ import annotations

import argparse
import csv
import platform
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch
from qmedsam.evaluation.cases import Case, read_manifest
from qmedsam.evaluation.scores import bootstrap_interval
from qmedsam_training.data.splitting import chance_of
from qmedsam_training.networks import compact_of
from qmedsam_training.teaching.cases import Taught, read_case
from qmedsam_training.teaching.frames import frames_of, frames_of_scenes, habits_for
from qmedsam_training.teaching.lesson import taught
from qmedsam_training.teaching.plan import MOST_FRAMES, SCENES
from qmedsam_training.teaching.run import shipped_base
from qmedsam_training.teaching.scoring import dsc_of_others, outcomes
from qmedsam_training.teaching.settings import Lesson

#: Of the second round of data: none of them is among those that qmedsam-compact 0.4 was trained on.
SOURCES = ("pancreas_nih", "ms_lesion", "camelyon_tumour", "idrid_disc", "usgra_nerve", "axon_sem")
SIZES = (10, 5, 20)
SPLIT = "validation2"
PAGES = Path(__file__).resolve().parents[2] / "Docs" / "Evidence" / "Training"
_SCORES = ("ellipse", "before", "taught", "before_nsd", "taught_nsd", "others_before", "others")
_COLUMNS = ("source", "size", "cases", "patient", *_SCORES)


def of_source(cases: Sequence[Case], source: str) -> List[Case]:
    """One picture of each patient first, in the order of what patients' names hash to."""
    own = sorted((case for case in cases if case.source == source), key=lambda c: chance_of((c.source, c.patient_id)))
    seen: Dict[str, int] = defaultdict(int)
    rank = {}
    for case in own:
        rank[case.case_id] = seen[case.patient_id]
        seen[case.patient_id] += 1
    return sorted(own, key=lambda case: rank[case.case_id])


def usable(cases: Sequence[Case], most: int) -> List[Taught]:
    """The first ones with an object."""
    found: List[Taught] = []
    for case in cases:
        one, _ = read_case(case, len(found) + 1, {})
        if one.objects:
            found.append(one)
        if len(found) == most:
            break
    return found


def measure(manifest: Path, source: str, size: int, results: Path) -> None:
    """Teach with the first cases of a source's ``train`` and score on its :data:`SPLIT`."""
    model, network = compact_of(shipped_base(is_3d=False))
    habits = habits_for(network)
    lessons = usable(of_source(read_manifest(manifest, "train"), source), size)
    others = usable(of_source(read_manifest(manifest, SPLIT), source), 1000)
    with tempfile.TemporaryDirectory() as scratch:
        frames = [frames_of(case, model, habits, MOST_FRAMES, 0, Path(scratch) / "case.atlas") for case in lessons]
    scenes = frames_of_scenes(model, habits, SCENES, 0)
    new, _ = taught(model, frames, scenes, Lesson())
    forgotten = (dsc_of_others(model, habits), dsc_of_others(new, habits))
    rows: List[Tuple[object, ...]] = []
    for case in others:
        for found in outcomes(case, model, new, network.side):
            scores = (found.ellipse, found.before, found.taught, found.before_nsd, found.taught_nsd)
            rows.append((source, size, len(lessons), case.case.patient_id, *scores, *forgotten))
    first = not results.exists()
    with results.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if first:
            writer.writerow(_COLUMNS)
        writer.writerows(rows)
    gain = gains(of_run(read(results), source, size))[0]
    print(f"{source}, {len(lessons)} cases: {gain:+.1f} points on {len(rows)} objects", flush=True)  # noqa: T201


def read(results: Path) -> List[Dict[str, str]]:
    """What was measured so far."""
    if not results.exists():
        return []
    with results.open(newline="") as stream:
        return list(csv.DictReader(stream))


def gains(rows: Sequence[Dict[str, str]]) -> Tuple[float, float, float]:
    """Mean over patients of the gain in points, with its 95 % interval."""
    of: Dict[str, List[float]] = defaultdict(list)
    for row in rows:
        of[row["patient"]].append(100 * (float(row["taught"]) - float(row["before"])))
    low, high = bootstrap_interval(list(of.values()))
    return float(np.mean([np.mean(values) for values in of.values()])), low, high


def mean(rows: Sequence[Dict[str, str]], column: str) -> float:
    """Over patients."""
    of: Dict[str, List[float]] = defaultdict(list)
    for row in rows:
        of[row["patient"]].append(float(row[column]))
    return float(np.mean([np.nanmean(values) for values in of.values()]))


def of_run(rows: Sequence[Dict[str, str]], source: str, size: int) -> List[Dict[str, str]]:
    """Rows of a source and a number of cases."""
    return [row for row in rows if row["source"] == source and int(row["size"]) == size]


def cells(own: Sequence[Dict[str, str]]) -> List[str]:
    """Of a row of the table."""
    gain, low, high = gains(own)
    numbers = [f"{mean(own, name):.3f}" for name in ("ellipse", "before", "taught")]
    nsd = [f"{mean(own, name):.3f}" for name in ("before_nsd", "taught_nsd")]
    other = 100 * (float(own[0]["others"]) - float(own[0]["others_before"]))
    patients = str(len({row["patient"] for row in own}))
    return [
        own[0]["source"],
        patients,
        own[0]["cases"],
        *numbers,
        f"{gain:+.1f} ({low:+.1f} to {high:+.1f})",
        *nsd,
        f"{other:+.1f}",
    ]


def write(results: Path) -> None:
    """Table and plot among the pages of evidence."""
    rows = read(results)
    sources = [source for source in SOURCES if any(row["source"] == source for row in rows)]
    sizes = sorted({int(row["size"]) for row in rows})
    head = ("source", "patients", "cases", "ellipse", "before", "taught", "gain (95 %)", "NSD before", "taught", "others")
    lines = [
        "# Teaching: 5, 10 and 20 cases",
        "",
        "The decoder of `compact-160.pt`, taught with the steps of `qmedsam-train teach` and scored on the patients of",
        f"`{SPLIT}` (boxes up to 5 % too large, float networks, means over patients). The network has not seen these sources.",
        f"Gains are points of DSC; *others*: the same on generated objects of other kinds. Processor: {processor()}.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    runs = [of_run(rows, source, size) for source in sources for size in sizes]
    lines += [f"| {' | '.join(cells(own))} |" for own in runs if own]
    for size in SIZES:
        by = [gains(own)[0] for own in (of_run(rows, source, size) for source in SOURCES) if own]
        about = f"{np.mean(by):+.1f} points in the mean, {min(by):+.1f} at worst" if by else "not run"
        lines += ["", f"{size} cases (or all there are), {len(by)} of {len(SOURCES)} sources: {about}."]
    command = "python Testing/benchmarks/teaching.py DATA/manifest.csv --results teaching.csv --write"
    lines += ["", "![Gain by number of cases](teaching.png)", "", f"Measured by `{command}`."]
    (PAGES / "teaching.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot(rows, sources, sizes)


def plot(rows: Sequence[Dict[str, str]], sources: Sequence[str], sizes: Sequence[int]) -> None:
    """Gain by number of cases, a line a source."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for source in sources:
        points = []
        for size in sizes:
            own = of_run(rows, source, size)
            if own:
                points.append((size, gains(own)[0]))
        axes.plot([0, *(p[0] for p in points)], [0, *(p[1] for p in points)], marker="o", label=source)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="cases", ylabel="gain in points of DSC")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(PAGES / "teaching.png", dpi=110)


def processor() -> str:
    """Its name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "an unknown processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="also table and plot among the pages")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for size in chosen.sizes:
        for source in SOURCES:
            if not any(row["source"] == source and int(row["size"]) == size for row in read(chosen.results)):
                measure(chosen.manifest, source, size, chosen.results)
    if chosen.write:
        write(chosen.results)


if __name__ == "__main__":
    main()
