#!/usr/bin/env python-real
"""QMedSAM without a window: one image with its boxes, or a cohort. A command line module of 3D Slicer that plain Python runs too.

``QMedSAMBatch.xml`` is the only declaration of the parameters: Slicer makes its panel of it and this file its parser.
Exit codes: 0 done, 1 cases of a cohort failed, 2 an error (one sentence on stderr), 130 stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

NAME = "QMedSAMBatch"
DESCRIPTION = Path(__file__).resolve().with_suffix(".xml")

#: Value of a parameter from the text that the execution model hands over; vectors are separated by commas.
_TYPES: Dict[str, Callable[[str], Any]] = {
    "integer": int,
    "double": float,
    "string": str,
    "string-enumeration": str,
    "string-vector": lambda text: [part.strip() for part in text.split(",")] if text else [],
    "double-vector": str,  # understood where qmedsam understands its own
    "region": lambda text: [float(part) for part in text.split(",")],
    "image": Path,
    "file": Path,
    "directory": Path,
}


def find_engine() -> None:
    """Put the engine that came with this file before any other on the path.

    It lies in ``QMedSAMSegment`` in the source tree and in ``qt-scripted-modules`` in a build (whose command line modules may
    be one folder deeper, by configuration) or an installed extension.
    """
    for parent in list(DESCRIPTION.parents)[:4]:  # parents are no sequence to cut before Python 3.10
        for folder in ("qt-scripted-modules", "QMedSAMSegment"):
            if (parent / folder / "qmedsam" / "__init__.py").is_file():
                sys.path.insert(0, str(parent / folder))
                return


def parameters() -> List[Tuple[str, ElementTree.Element]]:
    """Kind and element of every parameter of the description, in its order."""
    groups = ElementTree.parse(DESCRIPTION).getroot().findall("parameters")
    return [(e.tag, e) for group in groups for e in group if e.find("name") is not None]


def parser() -> Tuple[argparse.ArgumentParser, List[str]]:
    """The parser of the command line, and the flags that take a value."""
    root = ElementTree.parse(DESCRIPTION).getroot()
    made = argparse.ArgumentParser(NAME, description=root.findtext("description"), allow_abbrev=False)
    made.add_argument("--version", action="version", version=f"{NAME} {root.findtext('version')}")
    made.add_argument("--xml", action="store_true", help="Print the description of the parameters.")
    made.add_argument("--returnparameterfile", type=Path, metavar="FILE", help="Write what was found as lines of NAME = VALUE.")
    made.add_argument(
        "--json", action="store_true", help="Tell the process id and of a cohort in JSON lines, as 'qmedsam batch --json' does."
    )
    valued = ["--returnparameterfile"]
    for kind, element in parameters():
        if element.find("longflag") is None:
            continue  # a result
        flag, default = "--" + str(element.findtext("longflag")), element.findtext("default")
        about: Dict[str, Any] = {
            "dest": element.findtext("name"),
            "help": str(element.findtext("description")).replace("%", "%%"),
        }
        if kind == "boolean":
            made.add_argument(flag, action="store_true", **about)
            continue
        valued.append(flag)
        about.update(type=_TYPES[kind], default=_TYPES[kind](default) if default is not None else None)
        if kind.endswith("enumeration"):
            about["choices"] = [e.text for e in element.findall("element")]
        else:
            about["metavar"] = kind.upper()
        if element.get("multiple") == "true":
            about.update(action="append", default=[])
        made.add_argument(flag, **about)
    return made, valued


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The values of a command line as the execution model writes it: ``--flag value``, booleans as bare flags.

    A value may start with a minus (the coordinates of an ROI), which argparse would take for a flag.
    """
    made, valued = parser()
    joined: List[str] = []
    rest = iter(arguments)
    for argument in rest:
        value = next(rest, None) if argument in valued else None
        joined.append(argument if value is None else f"{argument}={value}")
    return made.parse_args(joined)


class Progress:
    """Tags of the execution model on stdout; flushed, or Slicer's bar stands still."""

    def __enter__(self) -> Progress:
        self._started, self._last = time.perf_counter(), -1
        self.say(f"<filter-start>\n<filter-name>{NAME}</filter-name>\n<filter-comment>Reading</filter-comment>\n</filter-start>")
        return self

    def __exit__(self, *_: Any) -> None:
        seconds = time.perf_counter() - self._started
        self.say(f"<filter-end>\n<filter-name>{NAME}</filter-name>\n<filter-time>{seconds:.2f}</filter-time>\n</filter-end>")

    def __call__(self, done: int, total: int) -> None:
        percent = int(100 * done / total) if total else 0
        if percent != self._last:
            self._last = percent
            self.say(f"<filter-progress>{percent / 100:.2f}</filter-progress>")

    def comment(self, text: str) -> None:
        self.say(f"<filter-comment>{text}</filter-comment>")

    @staticmethod
    def say(text: str) -> None:
        """A line that Slicer shows as the module's output."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def options_of(values: argparse.Namespace) -> Any:
    from qmedsam.commands.parsing import strategy_options

    return strategy_options(
        values.every, values.leastIou, values.fillHoles, values.viewWeights, values.voteOn, values.walk, agreement=False
    )


def window_of(text: str) -> Optional[Tuple[float, float]]:
    """Width and level; None for the modality's own."""
    from qmedsam.intensity import parse_window

    return parse_window(text) if text else None


def boxes_of_regions(regions: Sequence[Sequence[float]], names: Sequence[str], volume: Any) -> Iterator[Any]:
    """Boxes of ``<region coordinateSystem="ras">``: centre, half sizes and, of a rotated ROI, its axes as the columns of nine."""
    import numpy as np
    from qmedsam import Box, QMedSAMError

    for n, region in enumerate(regions):
        if len(region) not in (6, 15):
            raise QMedSAMError(f"The ROI {n + 1} has {len(region)} numbers.", "It has 6, or 15 when it is rotated.")
        axes = np.array(region[6:]).reshape(3, 3) if len(region) == 15 else np.eye(3)
        half_axes = axes * np.abs(region[3:6])
        yield Box.from_ras(region[:3], half_axes, volume.ijk_to_ras, name=names[n] if n < len(names) else "")


def boxes_of(values: argparse.Namespace, volume: Any) -> List[Any]:
    """Boxes of the ROIs, the file and the segmentation, in this order."""
    from dataclasses import replace

    from qmedsam import QMedSAMError
    from qmedsam.files import read_boxes

    sources = [list(boxes_of_regions(values.roi, values.names, volume))] if values.roi else []
    if values.boxesFile is not None:
        sources.append(read_boxes(values.boxesFile, volume))
    if values.inputSegmentation is not None:
        from qmedsam.files import read_segments

        sources.append(read_segments(values.inputSegmentation, volume, values.margin))
    boxes = [box for source in sources for box in source]
    if not boxes:
        raise QMedSAMError("There is no box.", "Choose an ROI, a boxes file or an existing segmentation.")
    # Each source numbers its own boxes from 1.
    return boxes if len(sources) == 1 else [replace(box, label=n) for n, box in enumerate(boxes, start=1)]


def segment_one(values: argparse.Namespace, progress: Progress) -> Dict[str, Any]:
    """Segment the boxes of one image and write the segmentation."""
    from qmedsam import QMedSAMError, Segmenter
    from qmedsam.files import Origin, check_fits, check_output, check_targets, read_volume, write_segmentation

    output = values.outputSegmentation
    if output is None:
        raise QMedSAMError("There is nowhere to write the segmentation to.", "Choose an output segmentation.")
    check_targets([output], values.inputVolume, values.boxesFile, values.inputSegmentation)
    check_output(output, values.inputVolume)
    options, window = options_of(values), window_of(values.window)
    volume = read_volume(values.inputVolume)
    check_fits(output, volume)
    boxes = boxes_of(values, volume)
    progress.comment("Segmenting")
    result = Segmenter(values.model or None, threads=values.threads).segment(
        volume,
        boxes,
        values.modality,
        values.strategy,
        None if values.frame == "auto" else values.frame,
        window,
        progress,
        options=options,
    )
    segments = [(found.label, found.name, box.color) for found, box in zip(result.objects, boxes)]
    write_segmentation(output, result.labels_kji, volume, segments, Origin(values.inputVolume, None, result.model))
    for message in result.messages:
        progress.say(f"Note: {message}")
    for found in result.objects:
        size = f", {found.volume_ml:.2f} ml" if volume.has_ml else ""
        progress.say(f"{found.name}: {found.voxels} voxels{size}, confidence {found.confidence:.2f}")
    return {
        "objects": len(result.objects),
        "voxels": sum(found.voxels for found in result.objects),
        "volumeMl": sum(found.volume_ml for found in result.objects) if volume.has_ml else 0.0,
    }


def segment_cohort(values: argparse.Namespace, progress: Progress) -> Tuple[Dict[str, Any], int]:
    """Segment every case of a folder or list; what came out, and the exit code."""
    from qmedsam import QMedSAMError

    source = values.casesFile or values.casesFolder
    if source is None:
        raise QMedSAMError("There is neither an image nor a cohort.", "Choose an image, a folder of cases or a list.")
    if values.outputFolder is None:
        raise QMedSAMError("There is no folder for the cohort's segmentations.", "Choose an output folder.")
    from qmedsam.batch import Settings, collect, run_batch

    settings = Settings(
        model=values.model or None,
        modality=values.modality,
        strategy=values.strategy,
        frame=None if values.frame == "auto" else values.frame,
        window=window_of(values.window),
        options=options_of(values),
        margin=values.margin,
        format=values.format,
    )
    folder = Path(values.outputFolder)
    cases = collect([source], folder, values.format)

    def tell(event: str, **about: Any) -> None:
        if values.json:
            progress.say(json.dumps({"event": event, **about}))
        elif event == "case":
            progress.say(f"{about['case']}: {about['state']} {about['message']}".rstrip())

    told = itertools.count(1)

    def report(outcome: Any) -> None:
        progress.comment(f"{outcome.case}: {outcome.state}")
        tell("case", done=next(told), total=len(cases), **outcome.to_json())

    tell("start", total=len(cases), folder=str(folder))
    result = run_batch(
        cases,
        folder,
        settings,
        workers=values.workers,
        threads=values.threads,
        again=values.again,
        progress=progress,
        report=report,
    )
    tell("end", cancelled=result.cancelled, exit_code=result.exit_code, report=str(folder / "index.html"))
    if not values.json:
        progress.say(f"Report: {folder / 'index.html'}")
    if result.failed:
        sys.stderr.write(f"{len(result.failed)} of {len(result.outcomes)} cases failed; the report says why.\n")
    done = [outcome for outcome in result.outcomes if outcome.state in ("done", "unchanged")]
    found = {
        "objects": len(done),
        "voxels": sum(outcome.voxels or 0 for outcome in done),
        "volumeMl": sum(outcome.volume_ml or 0.0 for outcome in done),
    }
    return found, result.exit_code


def write_results(path: Path, results: Dict[str, Any]) -> None:
    """The return parameter file: ``name = value`` lines."""
    from qmedsam.files import writing

    texts = {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in results.items()}
    with writing(path) as beside:
        beside.write_text("".join(f"{name} = {text}\n" for name, text in texts.items()), encoding="utf-8")


def run(values: argparse.Namespace) -> int:
    """Do what the command line says.

    Raises:
        QMedSAMError: something that the user can mend; nothing was written then.
    """
    with Progress() as progress:
        if values.inputVolume is not None:  # a panel hands over folders that nobody chose: the image goes before
            results, code = segment_one(values, progress), 0
        else:
            results, code = segment_cohort(values, progress)
        if values.returnparameterfile is not None:
            write_results(values.returnparameterfile, results)
    return code


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point; the exit code."""
    values = parse(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a console may not know the letters of a name; who reads JSON may decode anyhow
        stream.reconfigure(encoding="ascii" if values.json else stream.encoding, errors="backslashreplace")
    if values.xml:
        sys.stdout.write(DESCRIPTION.read_text(encoding="utf-8"))
        return 0
    find_engine()
    try:
        from qmedsam import QMedSAMError
        from qmedsam.batch.priority import raise_priority
    except ImportError as error:
        sys.stderr.write(f"The engine of QMedSAM is not there ({error}): install the extension QMedSAM again.\n")
        return 2

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    raise_priority()  # Slicer's own is the lowest, and its children inherit it
    try:
        if values.json:  # Slicer's launcher passes no signal on: who stops a run needs this process
            Progress.say(json.dumps({"event": "process", "pid": os.getpid()}))
        return run(values)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Nothing half-written was left.\n")
        return 130
    except QMedSAMError as error:
        text = str(error)
    except Exception as error:
        if os.environ.get("QMEDSAM_DEBUG"):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        text = f"{first} If this looks like a bug, please report it; QMEDSAM_DEBUG=1 shows where."
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    if values.json:
        Progress.say(json.dumps({"event": "error", "message": text}))
    return 2


if __name__ == "__main__":
    sys.exit(main())
