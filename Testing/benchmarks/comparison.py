"""The shipped models beside the papers' LiteMedSAM with its published weights, on labelled cases: one command.

    python Testing/benchmarks/comparison.py MANIFEST.csv -o Docs/Evidence/Comparison [--int8] [--volumes] [--cases 2]

LiteMedSAM is fetched, imported in float (and int8), and asked the published way: the whole slice as its frame, the box on every
slice of a volume (``--volumes``; hours on two cores). Everybody gets the same boxes. int8 and volumes, which are slow, are scored
on the first ``--cases`` of every source where that is given. What was scored is kept, not scored again.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from qmedsam import Segmenter
from qmedsam.evaluation.cases import read_manifest
from qmedsam.evaluation.prompts import prompts_of
from qmedsam.evaluation.scores import bootstrap_interval
from qmedsam.evaluation.summary import NOT_PROMPTABLE
from qmedsam.intensity import Intensity
from qmedsam.pictures.sheets import Tile, sheet_png, tile_of
from qmedsam_training import fetching

JITTER = "0.05"
KINDS = {"picture": "Pictures", "slice": "Single slices of volumes", "volume": "3D boxes on volumes"}
#: Data sets that LiteMedSAM's authors name among those it was trained on: its scores there may flatter it.
ITS_OWN = ("msd_", "isic", "kvasir")
Key = Tuple[str, ...]


class Way(NamedTuple):
    """How a network is asked: its model (empty: as the engine routes) and the options for volumes."""

    model: str
    volume: Sequence[str] = ()


def imported(keep: Path, precision: str, manifest: Path) -> Path:
    """LiteMedSAM's model folder of a precision, made if missing; int8 is calibrated on pictures of ``train``."""
    folder = keep / f"litemedsam-{precision}"
    if not (folder / "manifest.json").is_file():
        checkpoint = fetching.fetch("litemedsam")
        command = [sys.executable, "-m", "qmedsam_training", "import-checkpoint", str(checkpoint), "--architecture", "litemedsam"]
        command += ["--precision", precision, "-o", str(folder), "--license", "Apache-2.0"]
        subprocess.run([*command, *(["--manifest", str(manifest)] if precision == "int8" else [])], check=True)
    return folder


def first_cases(manifest: Path, split: str, count: int, folder: Path) -> Path:
    """A manifest of the first cases of every source of a split, written into a folder; 0: the manifest itself."""
    if not count:
        return manifest
    with manifest.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    folder.mkdir(parents=True, exist_ok=True)
    path, seen = folder / f"first-{count}-{split}.csv", Counter()  # type: ignore[var-annotated]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            group = row["modality"], row["source"]
            seen[group] += row["split"] == split
            if row["split"] == split and seen[group] <= count:
                paths = {name: str((manifest.parent / row[name]).resolve()) for name in ("path_image", "path_mask")}
                writer.writerow({**row, **paths})
    return path


def scored(folder: Path, manifest: Path, split: str, way: Way, volumes: bool) -> List[Dict[str, str]]:
    """Rows of ``qmedsam evaluate``, from its folder if it was there."""
    if not (folder / "scores.csv").is_file():
        command = [
            sys.executable,
            "-m",
            "qmedsam",
            "evaluate",
            str(manifest),
            "--split",
            split,
            "--jitter",
            JITTER,
            "-o",
            str(folder),
        ]
        command += ["--dim", "3D", *way.volume] if volumes else ["--prompt", "slice"]
        done = subprocess.run([*command, *(["--model", way.model] if way.model else []), "--threads", "1"], check=False)
        if not (folder / "scores.csv").is_file():
            sys.stderr.write(f"{folder.name}: no scores (exit code {done.returncode})\n")
            return []
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def key_of(row: Dict[str, str]) -> Key:
    return row["case"], row["label"], row["component"], row["kind"]


def mean_of(rows: Sequence[Dict[str, str]], what: str = "dsc") -> float:
    """Mean over sources of the means over prompts."""
    by_source: Dict[Key, List[float]] = defaultdict(list)
    for row in rows:
        by_source[row["modality"], row["source"]].append(float(row[what] or "nan"))
    return float(np.mean([np.nanmean(values) for values in by_source.values()]))


def gain_of(ours: Sequence[Dict[str, str]], theirs: Dict[Key, Dict[str, str]]) -> str:
    """Points of DSC by which ours is better, with the interval over patients, pair by pair."""
    by_source: Dict[Key, Dict[str, List[float]]] = defaultdict(lambda: defaultdict(list))
    for row in ours:
        difference = 100 * (float(row["dsc"]) - float(theirs[key_of(row)]["dsc"]))
        by_source[row["modality"], row["source"]][row["patient"]].append(difference)
    low, high = bootstrap_interval(*[list(patients.values()) for patients in by_source.values()])
    mean = np.mean([np.mean([v for values in patients.values() for v in values]) for patients in by_source.values()])
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" if np.isfinite(low) else f"{mean:+.1f}"


def table(kind: str, rows: Dict[str, List[Dict[str, str]]]) -> List[str]:
    """Means, modalities and sources of one kind of prompt, on the prompts that everybody was scored on."""
    own = {name: {key_of(row): row for row in some if row["kind"] == kind} for name, some in rows.items()}
    own = {name: some for name, some in own.items() if some}
    shared = set.intersection(*(set(some) for some in own.values()))
    first, *others = own
    lists = {name: [some[key] for key in sorted(shared)] for name, some in own.items()}
    fair = {name: [row for row in some if row["source"] not in NOT_PROMPTABLE] for name, some in lists.items()}
    head = ["", "prompts", *own, "ellipse", *(f"{first} minus {name}, points" for name in others)]
    lines = [f"## {KINDS[kind]}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]

    def row_of(title: str, some: Dict[str, List[Dict[str, str]]], strong: bool = False) -> str:
        values = [f"{mean_of(part):.3f}" for part in some.values()]
        values = [f"**{value}**" if strong else value for value in values]
        gains = [gain_of(some[first], own[name]) for name in others]
        cells = [title, str(len(some[first])), *values, f"{mean_of(some[first], 'ellipse_dsc'):.3f}", *gains]
        return "| " + " | ".join(cells) + " |"

    count = len({(row["modality"], row["source"]) for row in fair[first]})
    lines.append(row_of(f"**DSC, mean over {count} sources**", fair, strong=True))
    foreign = {n: [row for row in some if not row["source"].startswith(ITS_OWN)] for n, some in fair.items()}
    if 0 < len(foreign[first]) < len(fair[first]):
        lines.append(row_of("without MSD, ISIC and Kvasir", foreign))
    surface = [f"{mean_of(some, 'nsd'):.3f}" for some in fair.values()]
    lines.append("| NSD | " + " | ".join([str(len(fair[first])), *surface]) + " | | " + " | ".join("" for _ in others) + " |")
    seconds = [f"{np.median([float(row['seconds']) for row in some]):.2f}" for some in fair.values()]
    lines.append("| seconds a prompt, median | | " + " | ".join(seconds) + " | | " + " | ".join("" for _ in others) + " |")
    for what in ("modality", "source"):
        for value in sorted({row[what] for row in lists[first]}):
            some = {name: [row for row in part if row[what] == value] for name, part in lists.items()}
            mark = " (not promptable)" if value in NOT_PROMPTABLE else " (*)" if value.startswith(ITS_OWN) else ""
            lines.append(row_of((value if what == "modality" else f"&nbsp;&nbsp;{value}") + mark, some))
    return [*lines, ""]


def extremes(rows: Dict[str, List[Dict[str, str]]], first: str, other: str) -> Dict[str, List[Key]]:
    """Three prompts of different sources where either is farthest ahead, objects that both or one see well."""
    own = [{key_of(row): row for row in rows[name] if row["kind"] == "picture"} for name in (first, other)]
    shared = [key for key in own[0] if key in own[1] and own[0][key]["source"] not in NOT_PROMPTABLE]
    gains = {key: float(own[0][key]["dsc"]) - float(own[1][key]["dsc"]) for key in shared}
    chosen: Dict[str, List[Key]] = {}
    for title, sign in ((f"{other} is ahead", 1), (f"{first} is ahead", -1)):
        seen: List[str] = []
        chosen[title] = []
        for key in sorted(shared, key=lambda key: sign * gains[key]):
            if own[0][key]["source"] not in seen and len(seen) < 3:
                seen.append(own[0][key]["source"])
                chosen[title].append(key)
    return chosen


def tiles_of(keys: Sequence[Key], cases: Dict[str, Any], ways: Dict[str, Way]) -> Dict[str, List[Tile]]:
    """The same prompts answered by each, for the sheet."""
    tiles: Dict[str, List[Tile]] = {name: [] for name in ways}
    for case_id, label, component, _ in keys:
        case = cases[case_id]
        volume, labels = case.load()
        found = prompts_of(case, labels, "slice", float(JITTER))
        prompt = next(p for p in found if (str(p.label), str(p.component)) == (label, component))
        for name, way in ways.items():
            one = Segmenter(way.model or None, threads=1).segment(volume, [prompt.box], case.modality or "auto", keep_masks=True)
            mask, crop = one.objects[0].mask_kji_crop, one.objects[0].crop
            shown = (volume, prompt.crop[0].start, (prompt.truth, prompt.crop), (mask, crop), prompt.box)
            tiles[name].append(tile_of(*shown, Intensity.of(volume, case.modality), f"{case.source}\n{name}"))
    return tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--keep", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--splits", nargs="+", default=["validation", "validation2"])
    parser.add_argument("--volumes", action="store_true", help="also 3D boxes; LiteMedSAM takes hours")
    parser.add_argument("--int8", action="store_true", help="also LiteMedSAM in int8, beside its float")
    parser.add_argument("--cases", type=int, default=0, help="of every source, for int8 and volumes; default: all")
    arguments = parser.parse_args()
    keep, manifest = arguments.keep, arguments.manifest
    ways = {"shipped": Way(""), "LiteMedSAM": Way(str(imported(keep, "float32", manifest)), ("--strategy", "fixed"))}
    text = ["# The shipped models beside LiteMedSAM", ""]
    arguments.output.mkdir(parents=True, exist_ok=True)
    few = f"-first-{arguments.cases}" if arguments.cases else ""
    for split in arguments.splits:
        text += [f"# Split `{split}`", ""]
        first = first_cases(manifest, split, arguments.cases, keep)
        rows = {name: scored(keep / split / name / "slices", manifest, split, way, volumes=False) for name, way in ways.items()}
        for kind in ("picture", "slice"):
            if all(any(row["kind"] == kind for row in some) for some in rows.values()):
                text += table(kind, rows)
        if arguments.volumes and any(case.is_3d for case in read_manifest(first, split)):
            boxes = {n: scored(keep / split / n / f"volumes{few}", first, split, way, volumes=True) for n, way in ways.items()}
            text += table("volume", boxes)
        if arguments.int8:
            way = Way(str(imported(keep, "int8", manifest)))
            int8 = scored(keep / split / "LiteMedSAM-int8" / f"slices{few}", first, split, way, volumes=False)
            text += ["# LiteMedSAM in int8", ""]
            for kind in ("picture", "slice"):
                if any(row["kind"] == kind for row in int8):
                    text += table(kind, {"LiteMedSAM int8": int8, "float": rows["LiteMedSAM"]})
        cases = {case.case_id: case for case in read_manifest(manifest, split)}
        sheet = []
        for title, keys in extremes(rows, *ways).items():
            sheet += [(f"{title}: {name}", tiles) for name, tiles in tiles_of(keys, cases, ways).items()]
        sheet_png(arguments.output / f"{split}.png", sheet)
    (arguments.output / "tables.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
