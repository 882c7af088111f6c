"""A model folder on a full disk: an error, and the model that was there is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Dict

import pytest
from fulldisk import PAGE, fill, limited, small_disk

pytest.importorskip("torch")
pytest.importorskip("brevitas")

import torch
from qmedsam.errors import QMedSAMError
from qmedsam.models import Model, shipped_folder
from qmedsam_training.config import NetworkConfig
from qmedsam_training.export import model_fields, write_folder, write_model
from qmedsam_training.networks import make
from small import TINY


def _files(folder: Path) -> Dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    network = NetworkConfig(architecture="qmedsam-compact", input_size=64, options=TINY)
    return make(network).eval(), model_fields(network, "tiny", license="Apache-2.0")


def test_an_export_that_does_not_fit_leaves_the_older_model(tiny, tmp_path: Path) -> None:
    model, fields = tiny
    folder = write_model(tmp_path / "tiny", model, fields, "# Tiny\n", keep_onnx=True)
    sizes = {name: len(content) for name, content in _files(folder).items()}
    before = _files(folder)
    # Less than the ONNX file of either part, the networks, and the manifest take.
    limits = {sizes["encoder.onnx"] // 2, sizes["decoder.onnx"] - 1, sizes["encoder.bin"] - 1, sizes["manifest.json"] // 2, 0}
    for limit in limits:
        with limited(limit), pytest.raises(QMedSAMError, match="could not be written") as error:
            write_model(folder, model, fields, "# Newer\n")
        assert "MB free" in error.value.hint
        assert _files(folder) == before and [p.name for p in tmp_path.iterdir()] == ["tiny"], limit


def test_an_export_onto_a_full_disk(tiny, tmp_path: Path) -> None:
    model, fields = tiny
    with small_disk(tmp_path / "disk", 2048 * PAGE) as disk:
        folder = write_model(disk / "tiny", model, fields, "# Tiny\n")
        before = _files(folder)
        fill(disk, leave=24 * PAGE)
        with pytest.raises(QMedSAMError, match="could not be written"):
            write_model(folder, model, fields, "# Newer\n")
        assert _files(folder) == before
        Model.read(folder).verify()


@pytest.mark.parametrize("name", ["encoder.bin", "decoder.bin", "encoder.xml", "decoder.xml"])
def test_a_network_that_was_cut_off_is_not_given_a_checksum(tmp_path: Path, name: str) -> None:
    """What OpenVINO leaves when it keeps silent: a file that is too short, and no error."""
    shipped = next(p for p in sorted(shipped_folder().iterdir()) if p.is_dir())
    fields = json.loads((shipped / "manifest.json").read_text())
    fields.pop("reference", None)  # its file is not copied

    def parts(scratch: Path) -> None:
        for part in ("encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"):
            shutil.copyfile(shipped / part, scratch / part)
        content = (scratch / name).read_bytes()
        (scratch / name).write_bytes(content[: len(content) - 40])

    with pytest.raises(QMedSAMError, match="could not be written"):
        write_folder(tmp_path / "cut", parts, fields, "# Cut\n")
    assert not list(tmp_path.iterdir())
