"""Public checkpoints end to end: exact names and shapes in, int8 model folder out, ``qmedsam segment`` runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
pytest.importorskip("openvino")

from qmedsam.commands.app import app as engine  # noqa: E402
from qmedsam.models import Model  # noqa: E402
from qmedsam_training.architectures import ARCHITECTURES, build  # noqa: E402
from qmedsam_training.cli import app as training  # noqa: E402
from qmedsam_training.export import census  # noqa: E402
from small import NARROW, invoke  # noqa: E402

#: What is not int8, and why: the box prompt is float by design (KeptFloat).
MAY_BE_FLOAT = "/prompt_encoder/"
#: What OpenVINO makes of an Einsum: ViT-B's relative positions, exact products of queries with a table, two in each of its
#: blocks, tiny beside the attention that they bias.
OF_EINSUM = "MatMul_"
#: One block of each kind, with windows and without, a quarter as wide; what the other ten add is seconds.
VIT_B = {"width": 192, "depth": 2, "heads": 3, "global_blocks": [1]}


def _with(architecture: str, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command knows an architecture by its name alone: give the name to a smaller network."""
    public = ARCHITECTURES[architecture]
    monkeypatch.setitem(ARCHITECTURES, architecture, replace(public, make=lambda: public.make(**options)))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sitk = pytest.importorskip("SimpleITK")
    y, x = np.mgrid[:120, :160]
    image = (60 + 120 * (((x - 80) / 30) ** 2 + ((y - 60) / 20) ** 2 <= 1)).astype(np.uint8)
    path = tmp_path_factory.mktemp("picture") / "blob.png"
    sitk.WriteImage(sitk.GetImageFromArray(image), str(path))
    return path


# At least so many products: OpenVINO splits some of them where it works on several cores (122 on one, 128 on two).
@pytest.mark.parametrize(("architecture", "options", "least", "einsums"), [("litemedsam", {}, 100, 0), ("medsam", VIT_B, 50, 4)])
def test_a_random_checkpoint_becomes_a_model_that_the_engine_runs(
    architecture: str, options: dict, least: int, einsums: int, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with(architecture, options, monkeypatch)
    torch.manual_seed(0)
    torch.save({"model": build(architecture).state_dict(), "epoch": 7}, tmp_path / "public.pth")
    folder = tmp_path / architecture
    invoke(training, "import-checkpoint", tmp_path / "public.pth", "--architecture", architecture, "-o", folder, "--images", 1)
    (tmp_path / "public.pth").unlink()
    model = Model.read(folder)
    side = ARCHITECTURES[architecture].input_size
    assert model.manifest.precision == "int8" and model.manifest.input_size == side
    assert model.manifest.frame == {"kind": "slice"} and model.manifest.normalization == {"kind": "minmax"}
    rows = census(model.encoder) + census(model.decoder)
    float_rows = [row for row in rows if row[2] not in ("i8", "u8") and not row[0].startswith(MAY_BE_FLOAT)]
    assert len(rows) >= least and len(float_rows) == einsums, (len(rows), float_rows)
    assert all(name.startswith(OF_EINSUM) for name, _, _ in float_rows), float_rows
    output = tmp_path / "mask.nrrd"
    invoke(engine, "segment", picture, "--box", "45,35,115,85", "-o", output, "--model", folder, "--modality", "US")
    import SimpleITK as sitk

    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    inside = np.zeros((120, 160), bool)
    inside[35:86, 45:116] = True
    assert labels.shape[-2:] == (120, 160) and not labels[..., ~inside].any()


def test_a_float_import_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with("litemedsam", NARROW, monkeypatch)
    torch.save(build("litemedsam").state_dict(), tmp_path / "lite.pth")
    arguments = ("import-checkpoint", tmp_path / "lite.pth", "--architecture", "litemedsam", "-o", tmp_path / "lite")
    invoke(training, *arguments, "--precision", "float32")
    model = Model.read(tmp_path / "lite")
    assert model.manifest.precision == "float32" and model.manifest.input_size == 256
    assert all(precision == "f32" for _, _, precision in census(model.encoder) + census(model.decoder))
