"""Segment a folder or a list of cases with 3D Slicer and no window.

    Slicer --no-splash --no-main-window --ignore-slicerrc --python-script segment_folder.py -- CASES OUT --modality CT

CASES is a folder of images with a boxes file (``.mrk.json``) or a segmentation beside each, or a list (``.csv``, ``.jsonl``). OUT
gets a segmentation per case, ``summary.csv``, ``batch.jsonl`` and ``index.html``. Run again, only what is new or changed is done.
``--install`` fetches OpenVINO into Slicer's Python first, if it is missing. On Linux without a display put ``xvfb-run`` before.

Slicer's exit code: 0 all done, 1 cases failed, 2 nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List

import slicer


def arguments(given: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("segment_folder.py")
    parser.add_argument("cases", type=Path, help="Folder, or list of cases (.csv, .tsv, .jsonl).")
    parser.add_argument("out", type=Path, help="Folder for the results.")
    parser.add_argument("--modality", default="auto")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--format", default="seg.nrrd")
    parser.add_argument("--workers", type=int, default=0, help="Processes that share the cores; 0 is one alone.")
    parser.add_argument("--install", action="store_true", help="Install OpenVINO first, if it is missing.")
    return parser.parse_args([text for text in given if text != "--"])


def parameters(values: argparse.Namespace) -> Dict[str, Any]:
    """Of the command line module QMedSAMBatch, by the names of its description."""
    source = "casesFolder" if values.cases.is_dir() else "casesFile"
    return {
        source: str(values.cases.resolve()),
        "outputFolder": str(values.out.resolve()),
        "modality": values.modality,
        "strategy": values.strategy,
        "format": values.format,
        "workers": values.workers,
    }


def segment(values: argparse.Namespace) -> int:
    """Run the module in the background process that Slicer gives it, and wait; the exit code."""
    if values.install:
        from QMedSAMSegmentLib.logic import QMedSAMSegmentLogic

        QMedSAMSegmentLogic().install()
    node = slicer.cli.runSync(slicer.modules.qmedsambatch, None, parameters(values))
    sys.stdout.write(node.GetOutputText() + "\n")
    sys.stderr.write(node.GetErrorText())
    if node.GetStatusString() == "Completed":
        return 0
    return 1 if "cases failed" in node.GetErrorText() else 2


def main() -> int:
    try:
        return segment(arguments(sys.argv[1:]))
    except SystemExit as stop:  # the parser's; it would leave the application standing
        return int(stop.code or 0)
    except Exception as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    slicer.util.exit(main())
