"""What no check vouches for is read in a process of its own; that one may die, the program goes on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from qmedsam.batch import Settings, collect, run_batch
from qmedsam.errors import QMedSAMError
from qmedsam.evaluation.cases import read_manifest
from qmedsam.evaluation.loop import evaluate
from qmedsam.files import read_frames, read_segments, read_volume
from qmedsam.files.apart import Reader, is_vouched
from qmedsam.network.fake import FakeNetwork
from qmedsam.segmenter import Segmenter

COLOR = np.random.default_rng(1).integers(0, 255, (30, 40, 3)).astype(np.uint8)
GREY = np.random.default_rng(2).integers(0, 255, (5, 30, 40)).astype(np.int16)


@pytest.fixture(scope="module")
def reader():
    with Reader(seconds=60) as made:
        yield made


def picture(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(COLOR, isVector=True), str(path))
    return path


def test_what_is_read_apart_is_the_same(tmp_path: Path, reader: Reader) -> None:
    path = picture(tmp_path / "a.png")
    assert not is_vouched(path)
    here, there = read_volume(path), reader.read(path)
    assert np.array_equal(here.array_kji, there.array_kji) and np.array_equal(here.ijk_to_ras, there.ijk_to_ras)
    assert (here.name, here.measured, here.notes) == (there.name, there.measured, there.notes)
    first = reader._process
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:600])
    with pytest.raises(QMedSAMError) as apart:
        reader.read(tmp_path / "cut.png")
    with pytest.raises(QMedSAMError) as beside:
        read_volume(tmp_path / "cut.png")
    assert str(apart.value) == str(beside.value)
    assert reader._process is first  # kept


def test_what_checks_vouch_for_is_read_here(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "a.nrrd"))
    with Reader() as reader:
        assert np.array_equal(reader.read(tmp_path / "a.nrrd").array_kji, GREY)
        assert reader._process is None
        with pytest.raises(QMedSAMError, match="no file"):
            reader.read(tmp_path / "none.png")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_end_of_the_process_is_a_sentence(tmp_path: Path, reader: Reader, monkeypatch) -> None:
    """A reader of C that a file ends, and one that never comes back."""
    path = picture(tmp_path / "a.png")
    folder = tmp_path / "site"
    folder.mkdir()
    for code, word in (("os.kill(os.getpid(), 11)", "ended the process"), ("time.sleep(60)", "could not be read in 8 s")):
        (folder / "sitecustomize.py").write_text(
            "import os, time\nimport qmedsam.files.reading as reading\n"
            "def broken(*given, **named):\n"
            f"    {code}\n"
            "reading.read_image.__code__ = broken.__code__\nreading.os, reading.time = os, time\n"
        )
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(read_volume.__code__.co_filename).parents[2]}")
        with Reader(seconds=8) as fragile, pytest.raises(QMedSAMError, match=word):
            fragile.read(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_too_much_memory_is_a_sentence(tmp_path: Path, monkeypatch) -> None:
    path = picture(tmp_path / "a.png")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import qmedsam.files.reading as reading\n"
        "def broken(*given, **named):\n    return bytearray(20 << 30)\n"
        "reading.read_image.__code__ = broken.__code__\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(read_volume.__code__.co_filename).parents[2]}")
    with Reader(memory=1 << 30) as small, pytest.raises(QMedSAMError, match="too much memory"):
        small.read(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_batch_without_workers_survives_a_file_that_ends_its_reader(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.json").write_text("[[5, 5, 20, 20]]")
    sitk.WriteImage(sitk.GetImageFromArray(GREY), str(tmp_path / "in" / "c.nrrd"))
    (tmp_path / "in" / "c.json").write_text("[[5, 5, 1, 20, 20, 3]]")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os\nimport qmedsam.files.reading as reading\n"
        "true = reading.read_image\n"
        "def broken(path, *given):\n"
        "    return os.kill(os.getpid(), 11) if path.name == 'a.png' else true(path, *given)\n"
        "import qmedsam.files.volumes as volumes\nvolumes.read_image = broken\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(read_volume.__code__.co_filename).parents[2]}")
    segmenter = Segmenter(network=FakeNetwork())
    cases = collect([tmp_path / "in"], tmp_path / "out")
    result = run_batch(cases, tmp_path / "out", Settings(pictures=False), segmenter=segmenter)
    assert [outcome.state for outcome in result.outcomes] == ["failed", "done", "done"]
    assert "ended the process" in result.outcomes[0].message
    shutil.rmtree(folder)


def test_masks_and_time_points_are_read_apart_too(tmp_path: Path, reader: Reader, monkeypatch) -> None:
    """By a batch and an evaluation alike: no picture is opened in their own process."""
    disc = np.zeros((30, 40), np.uint8)
    disc[8:20, 10:28] = 1
    sitk.WriteImage(sitk.GetImageFromArray(disc), str(tmp_path / "m.png"))
    photo = picture(tmp_path / "a.png")
    pages = [Image.fromarray(page.astype(np.uint8)) for page in GREY]
    told = "ImageJ=1.54\nimages=5\nframes=5\n"
    pages[0].save(tmp_path / "t.tif", save_all=True, append_images=pages[1:], description=told)
    (case,) = read_manifest(_listed(tmp_path / "m.csv", "image,mask\na.png,m.png\n"))
    here = [frame.array_kji for frame in read_frames(tmp_path / "t.tif")]
    volume = read_volume(photo)

    def broken(*given, **named):
        raise AssertionError("opened here")

    monkeypatch.setattr("qmedsam.files.volumes.read_image", broken)
    assert np.array_equal(np.stack([frame.array_kji for frame in reader.frames(tmp_path / "t.tif")]), np.stack(here))
    (box,) = read_segments(tmp_path / "m.png", volume, read=reader.read)
    assert box.corners_ijk[:, :2].min(axis=0).tolist() == [9.5, 7.5]
    case.load(reader.read)
    segmenter = Segmenter(network=FakeNetwork())
    result = run_batch(
        collect([tmp_path / "m.csv"], tmp_path / "out"), tmp_path / "out", Settings(pictures=False), segmenter=segmenter
    )
    assert [outcome.state for outcome in result.outcomes] == ["done"], result.outcomes[0].message
    assert evaluate([case], segmenter, tmp_path / "scores")["picture"]["mean_all"]["cases"] == 1


def _listed(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
