"""Public checkpoints end to end: exact names and shapes in, int8 model folder out, ``qmedsam segment`` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
pytest.importorskip("openvino")

from qmedsam.cli import app as engine  # noqa: E402
from qmedsam.models import Model  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.cli import app as training  # noqa: E402
from qmedsam_training.export import census  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

#: What is not int8, and why: the box prompt is float by design (KeptFloat).
MAY_BE_FLOAT = "/prompt_encoder/"
#: What OpenVINO makes of an Einsum: ViT-B's relative positions, exact products of queries with a table, two in each of its
#: twelve blocks, tiny beside the attention that they bias.
OF_EINSUM = "MatMul_"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sitk = pytest.importorskip("SimpleITK")
    y, x = np.mgrid[:120, :160]
    image = (60 + 120 * (((x - 80) / 30) ** 2 + ((y - 60) / 20) ** 2 <= 1)).astype(np.uint8)
    path = tmp_path_factory.mktemp("picture") / "blob.png"
    sitk.WriteImage(sitk.GetImageFromArray(image), str(path))
    return path


def _invoke(app, *arguments: str) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.mark.parametrize(("architecture", "images", "einsums"), [("litemedsam", 4, 0), ("medsam", 1, 24)])
def test_a_random_checkpoint_becomes_a_model_that_the_engine_runs(
    architecture: str, images: int, einsums: int, picture: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save({"model": build(architecture).state_dict(), "epoch": 7}, tmp_path / "public.pth")
    folder = tmp_path / architecture
    _invoke(
        training, "import-checkpoint", tmp_path / "public.pth", "--architecture", architecture, "-o", folder, "--images", images
    )
    (tmp_path / "public.pth").unlink()
    model = Model.read(folder)
    assert model.manifest.precision == "int8"
    rows = census(model.encoder) + census(model.decoder)
    float_rows = [row for row in rows if row[2] not in ("i8", "u8") and not row[0].startswith(MAY_BE_FLOAT)]
    assert len(rows) > 60 and len(float_rows) == einsums, float_rows
    assert all(name.startswith(OF_EINSUM) for name, _, _ in float_rows), float_rows
    output = tmp_path / "mask.nrrd"
    _invoke(engine, "segment", picture, "--box", "45,35,115,85", "-o", output, "--model", folder, "--modality", "US")
    import SimpleITK as sitk

    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    inside = np.zeros((120, 160), bool)
    inside[35:86, 45:116] = True
    assert labels.shape[-2:] == (120, 160) and not labels[..., ~inside].any()


def test_the_manifest_of_an_import_says_how_to_feed_it(tmp_path: Path) -> None:
    torch.save(build("litemedsam").state_dict(), tmp_path / "lite.pth")
    arguments = ("import-checkpoint", tmp_path / "lite.pth", "--architecture", "litemedsam", "-o", tmp_path / "lite")
    _invoke(training, *arguments, "--precision", "float32")
    manifest = json.loads((tmp_path / "lite" / "manifest.json").read_text())
    assert manifest["frame"] == {"kind": "slice"} and manifest["normalization"] == {"kind": "minmax"}
    assert manifest["input_size"] == 256 and manifest["precision"] == "float32"
