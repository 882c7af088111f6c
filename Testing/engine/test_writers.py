"""What leaves the engine is whole, or what was there before still is: tried on disks that are really full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict

import numpy as np
import pytest
import SimpleITK as sitk
from fulldisk import PAGE, fill, limited, small_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from qmedsam import QMedSAMError, Segmenter
from qmedsam.files import (
    check_target,
    image_of,
    read_boxes,
    read_labels,
    read_segments,
    write_boxes,
    write_image,
    write_segmentation,
    writing,
)
from qmedsam.files.paths import NotWhole
from qmedsam.files.saving import check_saved, save_image
from qmedsam.geometry import Box, Volume
from qmedsam.intensity import Intensity
from qmedsam.network.fake import FakeNetwork

RANDOM = np.random.default_rng(3)
SUFFIXES = [".seg.nrrd", ".nrrd", ".nii", ".nii.gz", ".mha", ".npz"]
#: Noise, so that a compressed file is large.
LABELS = RANDOM.integers(0, 4, (12, 40, 44)).astype(np.uint8)
OLDER = (LABELS == 2).astype(np.uint8)
MATRIX = np.array([[-0.7, 0, 0, 31], [0, -0.9, 0, 12], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])
VOLUME = Volume(RANDOM.normal(0, 100, LABELS.shape).astype(np.float32), MATRIX, "CT", "noise")
SEGMENTS = [(1, "liver", (0.8, 0.3, 0.1)), (2, "left kidney", None), (3, "", None)]
SHIPPED = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "400", "NO_COLOR": "1"}


def write(path: Path, labels: np.ndarray = LABELS) -> None:
    write_segmentation(path, labels, VOLUME, SEGMENTS)


def shares(size: int) -> list[int]:
    return [0, 1, size // 3, size * 9 // 10, size - 9, size - 1]


# A limit on the size of files, as quotas are


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_segmentation_that_does_not_fit_is_an_error_and_the_older_one_stays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write(path)
    needed = path.stat().st_size
    write(path, OLDER)
    before = path.read_bytes()
    for size in shares(needed):
        with limited(size), pytest.raises(QMedSAMError, match="could not be written") as error:
            write(path)
        assert "MB free" in error.value.hint and "quota" in error.value.hint, size
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name], size
    assert np.array_equal(read_labels(path), OLDER)
    with limited(needed):
        write(path)
    assert np.array_equal(read_labels(path), LABELS)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".nii"])
def test_a_map_of_votes_that_does_not_fit(tmp_path: Path, suffix: str) -> None:
    votes = RANDOM.integers(0, 101, LABELS.shape).astype(np.uint8)
    path = tmp_path / f"votes{suffix}"
    write_image(path, votes, VOLUME)
    needed, before = path.stat().st_size, path.read_bytes()
    for size in shares(needed):
        with limited(size), pytest.raises(QMedSAMError, match="could not be written"):
            write_image(path, votes, VOLUME)
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1, size


def _picture(path: Path) -> None:
    from qmedsam.pictures.overlays import overlay_png

    overlay_png(path, VOLUME, LABELS, SEGMENTS, [], Intensity.of(VOLUME, "CT", None), "noise")


def _boxes(path: Path) -> None:
    write_boxes(path, [Box.from_voxels((1, 2, 3), (9, 8, 7), name=f"box {n}") for n in range(40)], VOLUME)


@pytest.mark.slow
@pytest.mark.parametrize("name, make", [("a.png", _picture), ("a.mrk.json", _boxes)])
def test_pictures_and_boxes_that_do_not_fit(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / name
    make(path)
    needed, before = path.stat().st_size, path.read_bytes()
    for size in shares(needed):
        with limited(size), pytest.raises(QMedSAMError, match="could not be written"):
            make(path)
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1, size


@pytest.mark.parametrize("name", ["a" * 300 + ".seg.nrrd", "b" * 300 + "/a.seg.nrrd", "a\0.seg.nrrd"])
def test_names_that_the_system_does_not_take(tmp_path: Path, name: str) -> None:
    for action in (lambda: check_target(tmp_path / name), lambda: write(tmp_path / name)):
        with pytest.raises(QMedSAMError):
            action()


# What was read back


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nrrd", ".nii", ".nii.gz", ".mha", ".mhd"])
def test_reading_back_finds_a_file_that_lacks_its_last_bytes(tmp_path: Path, suffix: str) -> None:
    """Zeros at the end, which readers that fill up what is missing would not tell from what was there."""
    labels = LABELS.copy()
    labels[8:] = 0
    path = tmp_path / f"a{suffix}"
    save_image(path, labels, VOLUME)
    data = path if suffix != ".mhd" else next(p for p in tmp_path.iterdir() if p != path)
    whole = data.read_bytes()
    for missing in (*range(1, 24), len(whole) // 3, len(whole) - 1):
        data.write_bytes(whole[:-missing])
        with pytest.raises(NotWhole):
            check_saved(path, labels, MATRIX)
    data.write_bytes(whole)
    check_saved(path, labels, MATRIX)


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz", ".mha"])
def test_reading_back_finds_other_voxels_another_place_and_another_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    fields = {"Segment0_Name": "liver"} if suffix == ".seg.nrrd" else {}
    save_image(path, LABELS, VOLUME, fields)
    check_saved(path, LABELS, MATRIX, fields)
    other = LABELS.copy()
    other[-1, -1, -1] ^= 1
    moved = MATRIX + np.array([[0, 0, 0, 0.1]] * 3 + [[0] * 4])
    for labels, matrix, said in ((other, MATRIX, fields), (LABELS, moved, fields), (LABELS, MATRIX, {"Segment0_Name": "other"})):
        with pytest.raises(NotWhole):
            check_saved(path, labels, matrix, said)


def test_what_a_writer_keeps_silent_about(tmp_path: Path) -> None:
    """Why it is done: of this size of file SimpleITK writes a third, and says nothing."""
    with limited(5000):
        sitk.WriteImage(image_of(LABELS, MATRIX), str(tmp_path / "a.nrrd"), True)
    assert (tmp_path / "a.nrrd").stat().st_size <= 5000


def test_files_are_on_the_disk_before_they_take_a_place(tmp_path: Path, monkeypatch) -> None:
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    write(tmp_path / "a.seg.nrrd")
    assert order[:2] == ["sync", "rename"]


def test_a_disk_that_complains_when_it_is_flushed(tmp_path: Path, monkeypatch) -> None:
    """As disks over a network and quotas do."""
    (tmp_path / "a.txt").write_text("older")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QMedSAMError, match="No space left") as error, writing(tmp_path / "a.txt") as beside:
        beside.write_text("newer")
    assert "MB free" in error.value.hint
    assert (tmp_path / "a.txt").read_text() == "older" and len(list(tmp_path.iterdir())) == 1


# What is written is what its reader takes

anything = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.filterwarnings("error")  # numpy's would stand on the user's terminal
@given(
    st.lists(
        st.builds(
            Box,
            st.tuples(*[st.one_of(st.floats(-50, 50), anything)] * 3),
            st.tuples(*[st.one_of(st.floats(0, 9), anything)] * 3).map(np.diag),
            label=st.sampled_from([0, 1, 2, 7, 65535, 65536, -1]),
            name=st.text(st.characters(), max_size=8),
            color=st.one_of(st.none(), st.tuples(*[st.one_of(st.floats(0, 1), st.floats())] * 3), st.just((0.5, 0.5))),
        ),
        max_size=3,
    )
)
def test_boxes_are_written_only_as_they_are_read(tmp_path_factory, boxes) -> None:
    path = tmp_path_factory.mktemp("boxes") / "a.mrk.json"
    try:
        write_boxes(path, boxes, VOLUME)
    except QMedSAMError:
        assert not list(path.parent.iterdir())
        return
    read = read_boxes(path, VOLUME)
    assert [b.label for b in read] == [b.label or n for n, b in enumerate(boxes, 1)]
    assert [b.color for b in read] == [b.color for b in boxes]
    for a, b in zip(read, boxes):
        assert np.allclose(a.center_ijk, b.center_ijk, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "color, label", [((0.2, 1.2, 0), 1), ((0.1, float("nan"), 0), 1), ((1, 1), 1), ((-1, 0, 0), 1), (None, 65536), (None, -3)]
)
def test_boxes_that_would_not_be_read(tmp_path: Path, color, label) -> None:
    box = Box.from_voxels((1, 2, 3), (9, 8, 7), name="liver", color=color, label=label)
    with pytest.raises(QMedSAMError, match="liver"):
        write_boxes(tmp_path / "a.mrk.json", [box], VOLUME)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nrrd", ".npz"])
@pytest.mark.parametrize("color", [(2, 0, 0), (0.1, float("nan"), 0), (0, -0.1, 0), (1, 1), (1, 1, 1, 1)])
def test_colours_that_are_none(tmp_path: Path, suffix: str, color) -> None:
    with pytest.raises(QMedSAMError, match="liver"):
        write_segmentation(tmp_path / f"a{suffix}", LABELS, VOLUME, [(1, "liver", color), (2, "", None), (3, "", None)])
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Converting `np.character`:DeprecationWarning")  # of SimpleITK 2.2
@pytest.mark.filterwarnings("error")
@settings(max_examples=60)
@given(st.lists(st.text(st.characters(), max_size=40), min_size=3, max_size=3))
def test_names_of_segments_are_read_as_one_line(tmp_path_factory, names) -> None:
    """Whatever stands in them: line breaks, the fields' own signs, halves of letters that no encoding has."""
    path = tmp_path_factory.mktemp("names") / "a.seg.nrrd"
    labels = LABELS[:2, :6, :6]
    volume = Volume(labels, MATRIX)
    write_segmentation(path, labels, volume, [(n, name, None) for n, name in enumerate(names, 1)])
    read = {box.label: box.name for box in read_segments(path, volume)}
    for n, name in enumerate(names, 1):
        assert read[n] and "\n" not in read[n]
        if name.isprintable() and name.strip():
            assert read[n] == " ".join(name.split())


def test_names_of_any_length(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a:=b " * 300, "\\n\\" * 200):
        write_segmentation(tmp_path / "a.seg.nrrd", LABELS, VOLUME, [(1, name, None), (2, "", None), (3, "", None)])
        assert read_segments(tmp_path / "a.seg.nrrd", VOLUME)[0].name == name.strip()[:256].strip()


# A disk of its own


@pytest.fixture
def disk(tmp_path: Path):
    with small_disk(tmp_path / "disk", 64 * PAGE) as folder:
        yield folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_segmentation_on_a_full_disk(disk: Path, suffix: str) -> None:
    path = disk / f"a{suffix}"
    write(path)
    needed = path.stat().st_size
    write(path, OLDER)
    before = path.read_bytes()
    filler = fill(disk)
    for pages in range(-(-needed // PAGE)):
        if pages:
            os.truncate(filler, filler.stat().st_size - PAGE)
        with pytest.raises(QMedSAMError, match="could not be written") as error:
            write(path)
        assert "MB free" in error.value.hint
        assert path.read_bytes() == before and {p.name for p in disk.iterdir()} == {path.name, filler.name}
    filler.unlink()
    write(path)
    assert np.array_equal(read_labels(path), LABELS)


def _files(folder: Path) -> Dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _noisy_case(folder: Path) -> None:
    values = (1000 * RANDOM.random((8, 48, 48)) - 500).astype(np.int16)
    write_image(folder / "ct.nrrd", values, Volume(values, MATRIX))
    (folder / "ct.json").write_text('{"boxes": [{"ijk": [4, 4, 1, 40, 40, 6], "name": "liver"}]}', encoding="utf-8")


def _command(*words: object) -> subprocess.CompletedProcess:
    line = [sys.executable, *map(str, words)]
    return subprocess.run(line, capture_output=True, encoding="utf-8", check=False, cwd=SHIPPED, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["-o", "--agreement"])
def test_the_command_line_on_a_full_disk(tmp_path: Path, disk: Path, what: str) -> None:
    """Exit code 2, a sentence, and the older result: whichever of its files does not fit."""
    pytest.importorskip("openvino")
    _noisy_case(tmp_path)
    name = {"-o": "a.seg.nrrd", "--agreement": "a.nii.gz"}[what]
    line = ["-m", "qmedsam", "segment", tmp_path / "ct.nrrd", "--boxes", tmp_path / "ct.json", "--modality", "CT"]
    line += ["--strategy", "vote", what, disk / name] + ([] if what == "-o" else ["-o", tmp_path / "a.nrrd"])
    assert _command(*line).returncode == 0
    before = _files(disk)
    filler = fill(disk)
    done = _command(*line)
    assert done.returncode == 2 and name in done.stderr and "MB free" in done.stderr and "Traceback" not in done.stderr
    assert str(disk / name) not in done.stdout
    filler.unlink()
    assert _files(disk) == before


@pytest.mark.slow
def test_the_command_line_module_on_a_full_disk(tmp_path: Path, disk: Path) -> None:
    pytest.importorskip("openvino")
    _noisy_case(tmp_path)
    module = SHIPPED / "QMedSAMBatch" / "QMedSAMBatch.py"
    line = [module, "--volume", tmp_path / "ct.nrrd", "--boxes", tmp_path / "ct.json", "--modality", "CT"]
    line += ["--output", disk / "a.seg.nrrd"]
    assert _command(*line).returncode == 0
    before = _files(disk)
    filler = fill(disk)
    done = _command(*line)
    assert done.returncode == 2 and "MB free" in done.stderr
    filler.unlink()
    assert _files(disk) == before


def test_a_cohort_on_a_full_disk(tmp_path: Path, disk: Path) -> None:
    """The case failed, the journal holds no checksum of a stump, and the next run does it again."""
    from qmedsam.batch import Case, Settings, run_batch

    _noisy_case(tmp_path)
    case = Case("ct", tmp_path / "ct.nrrd", disk / "ct.nii.gz", (tmp_path / "ct.json",), modality="CT")
    settings = Settings(strategy="fixed", pictures=False)
    segmenter = Segmenter(network=FakeNetwork(32))

    def run() -> object:
        return run_batch([case], tmp_path / "out", settings, segmenter=segmenter).outcomes[0]

    filler = fill(disk)
    outcome = run()
    assert outcome.state == "failed" and "could not be written" in outcome.message and not outcome.output_sha256
    assert not case.output.exists()
    filler.unlink()
    assert run().state == "done" and run().state == "unchanged"
    events = [json.loads(line) for line in (tmp_path / "out" / "batch.jsonl").read_text().splitlines()]
    assert [e["state"] for e in events if e["event"] == "case"] == ["failed", "done", "unchanged"]
