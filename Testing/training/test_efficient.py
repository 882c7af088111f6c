"""EfficientViT-SAM and EfficientSAM: the public definitions, and random checkpoints all the way to a segmentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import List

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
sitk = pytest.importorskip("SimpleITK")

from qmedsam import ModelStore, QMedSAMError  # noqa: E402
from qmedsam.commands import app as cli  # noqa: E402
from qmedsam.files import read_labels  # noqa: E402
from qmedsam.models import Model, shipped_folder  # noqa: E402
from qmedsam.network.openvino_network import OpenVINONetwork  # noqa: E402
from qmedsam_training import cli as training  # noqa: E402
from qmedsam_training.architectures import ARCHITECTURES, build  # noqa: E402
from qmedsam_training.architectures.efficient_sam import EfficientSam  # noqa: E402
from qmedsam_training.architectures.efficientvit import HEAD, LinearAttention, efficientvit_sam  # noqa: E402
from qmedsam_training.export import census  # noqa: E402
from qmedsam_training.overflow import certificate, unsafe  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

CHECKPOINTS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "checkpoints"
#: Parameters (all) and GMAC (encoder). EfficientViT-SAM's paper: 34.8 M and 35 G, 47.7 M and 49 G, 61.3 M and 69 G.
SIZES = {
    "efficientvit-sam-l0": (34_792_784, 34.77),
    "efficientvit-sam-l1": (47_650_128, 48.98),
    "efficientvit-sam-l2": (61_328_592, 68.55),
    "efficient-sam-ti": (10_223_204, 102.27),
    "efficient-sam-s": (26_413_028, 245.62),
}
#: Imported, exported and run below: one of each kind, the smallest,
PUBLIC = {"efficientvit-sam-l0": "efficientvit_sam_l0", "efficient-sam-ti": "efficient_sam_ti"}
#: with fewer of the blocks that it repeats, and at full width and size: what every layer becomes is the same.
SHORT = {
    "efficientvit-sam-l0": lambda: efficientvit_sam((1, 1, 1, 1, 2), neck=1),
    "efficient-sam-ti": lambda: EfficientSam(width=192, heads=3, depth=2),
}


def _meta(name: str) -> torch.nn.Module:
    """Shapes without numbers: nothing is computed."""
    with torch.device("meta"):
        return build(name).eval()


def _shapes(model: torch.nn.Module) -> dict:
    return {k: list(v.shape) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_size_and_cost_are_the_published_ones(name: str) -> None:
    model, side = _meta(name), ARCHITECTURES[name].input_size
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as count:
        embedding = model.encode(torch.zeros(1, 3, side, side))
    assert embedding.shape == (1, 256, 64, 64)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name][0]
    assert count.get_total_flops() / 2e9 == pytest.approx(SIZES[name][1], abs=0.01)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_names_and_shapes_are_the_public_ones(name: str) -> None:
    path = CHECKPOINTS / f"{PUBLIC[name]}.json"
    if not path.is_file():
        pytest.skip("the list of public names is not at hand")
    assert _shapes(_meta(name)) == json.loads(path.read_text())


def test_efficient_sam_s_is_ti_at_twice_the_width() -> None:
    wider = {192: 384, 576: 1152, 768: 1536}
    ti, s = _shapes(_meta("efficient-sam-ti")), _shapes(_meta("efficient-sam-s"))
    assert s == {k: [wider.get(n, n) for n in v] if k.startswith("image_encoder.") else v for k, v in ti.items()}


def test_linear_attention_is_attention_with_normalised_relu_weights() -> None:
    torch.manual_seed(0)
    module = LinearAttention(64).eval()
    x = torch.randn(2, 64, 5, 6)
    with torch.no_grad():
        qkv = module.qkv(x)
        q, k, v = torch.cat([qkv, module.aggreg[0](qkv)], 1).reshape(2, -1, 3 * HEAD, 30).split(HEAD, dim=2)
        weights = q.relu().transpose(2, 3) @ k.relu()
        mixed = v @ (weights / weights.sum(3, keepdim=True)).transpose(2, 3)
        assert torch.allclose(module(x), module.proj(mixed.reshape(2, -1, 5, 6)), atol=1e-5)


def test_efficientvit_sam_takes_boxes_in_a_frame_of_1024() -> None:
    torch.manual_seed(0)
    model = build("efficientvit-sam-l0").eval()
    embedding, boxes = torch.randn(1, 256, 64, 64), torch.tensor([[10.0, 20.0, 400.0, 380.0], [300.0, 5.0, 360.0, 90.0]])
    with torch.no_grad():
        here = model.decode(embedding, boxes)  # network pixels
        assert torch.equal(here, model.predict(embedding, 2 * boxes)[0])
        assert not torch.allclose(here, model.predict(embedding, boxes)[0], atol=1e-3)
        assert torch.allclose(here[1], model.decode(embedding, boxes[1:])[0], atol=1e-5)
    eps = {m.eps for m in model.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.LayerNorm))}
    assert eps == {1e-6}


def test_efficient_sam_draws_the_mask_it_believes_in() -> None:
    torch.manual_seed(0)
    model = build("efficient-sam-ti").eval()
    embedding, boxes = torch.randn(1, 256, 64, 64), torch.tensor([[100.0, 20.0, 700.0, 380.0], [5.0, 5.0, 60.0, 90.0]])
    head, drawn = model.mask_decoder.iou_prediction_head.fc, []
    for best in range(4):
        with torch.no_grad():
            head.bias.copy_(torch.eye(4)[best] * 50)
            logits, confidence = model.predict(embedding, boxes)
        assert logits.shape == (2, 256, 256)
        assert (confidence > 40).all() == (best > 0)  # mask 0 is never chosen, however sure the network is of it
        drawn.append(logits)
    assert all(not torch.allclose(drawn[a], drawn[b], atol=1e-3) for a, b in ((1, 2), (1, 3), (2, 3)))
    with torch.no_grad():
        assert torch.allclose(drawn[3][1], model.decode(embedding, boxes[1:])[0], atol=1e-5)


def _run(main, monkeypatch: pytest.MonkeyPatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


@pytest.fixture(scope="module", params=sorted(PUBLIC))
def imported(request, tmp_path_factory: pytest.TempPathFactory):
    """The float network and the folder of the int8 model that the command made of its checkpoint."""
    name, folder = request.param, tmp_path_factory.mktemp("models") / request.param
    torch.manual_seed(1)
    model = SHORT[name]().eval()
    path = folder.parent / "public.pt"
    torch.save({"model": model.state_dict()}, path)
    options = ["--images", "1", "--modality", "microscopy", "--modality", "X-Ray", "--modality", "XRay", "--priority", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, name, replace(ARCHITECTURES[name], make=SHORT[name]))
        assert _run(training.main, patch, "import-checkpoint", path, "--architecture", name, "-o", folder, *options) == 0
    path.unlink()
    return name, model, Model.read(folder)


def test_the_manifest_says_all_that_the_engine_needs(imported) -> None:
    name, _, model = imported
    manifest = model.manifest
    assert manifest.architecture == name and manifest.precision == "int8" and manifest.prompt_size == 1024
    assert manifest.input_size == ARCHITECTURES[name].input_size and manifest.frame == {"kind": "slice"}
    assert manifest.normalization["kind"] == "fixed" and manifest.normalization["mean"] == [0.485, 0.456, 0.406]
    assert manifest.modalities == ("Microscopy", "XRay") and manifest.priority == 3


def test_every_product_runs_in_int8(imported) -> None:
    """All convolutions, linear layers and attention products; the prompt's sines stay float (2 x 128 numbers)."""
    name, _, model = imported
    rows: List = census(model.encoder) + census(model.decoder)
    kinds = [kind for _, kind, _ in rows]
    floats = [row for row in rows if row[2] not in ("i8", "u8")]
    assert all(row[0].startswith("/prompt_encoder/pe_layer/") for row in floats) and len(floats) <= 1, floats
    convolutions, attentions, products = (kinds.count(kind) for kind in ("Convolution", "Attention", "MatMul"))
    # All convolutions, two of them transposed; two products in each of 2 linear attentions; the last mask product.
    # OpenVINO fuses an attention's two products where the processor has AVX-512, and leaves them apart where it has not.
    products += 2 * attentions
    if name == "efficientvit-sam-l0":
        assert (convolutions, products) == (40 + 2, 2 * 7 + 2 * 2 + 1)
    else:  # patches, neck, two transposed; 2 blocks of the encoder and 7 attentions of the decoder
        assert (convolutions, products) == (3 + 2, 2 * (2 + 7) + 1)
    assert "Deconvolution" not in kinds  # the decoder's two are convolutions and shuffles
    assert not unsafe(certificate(model.encoder) + certificate(model.decoder))


def test_int8_in_the_engine_follows_the_float_network(imported) -> None:
    """Correlation: weights are random and one image calibrates. When written 0.994 or more; 0.96 to 0.99 in a wrong frame."""
    _, float_model, model = imported
    side = model.manifest.input_size
    network = OpenVINONetwork(model, precision="f32")
    torch.manual_seed(2)
    image = torch.nn.functional.interpolate(torch.randn(1, 3, 16, 16), size=(side, side), mode="bilinear")
    boxes = np.array([[0.1, 0.2, 0.8, 0.9], [0.6, 0.1, 0.7, 0.3]], np.float32) * side
    with torch.no_grad():
        embedding = float_model.encode(image)
        right, wrong = (float_model.decode(embedding, torch.from_numpy(b)).numpy() for b in (boxes, boxes / 2))
    assert np.corrcoef(network.encode(image[0].numpy()).ravel(), embedding.numpy().ravel())[0, 1] > 0.995
    ours, confidence = network.decode(embedding.numpy(), boxes)
    assert ours.shape == (2, 1, 256, 256) and np.isfinite(confidence).all()
    for n in range(2):
        here, elsewhere = (np.corrcoef(ours[n].ravel(), logits[n].ravel())[0, 1] for logits in (right, wrong))
        assert here > 0.99 and here > elsewhere, (here, elsewhere)


def test_the_command_segments_a_picture_with_it(imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, model = imported
    picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(tmp_path / "cells.png"))
    out, report = tmp_path / "cells.seg.nrrd", tmp_path / "cells.json"
    arguments = ("--box", "30,20,90,70", "--box", "5,5,20,25", "--model", model.folder, "-o", out, "--report", report)
    assert _run(cli.main, monkeypatch, "segment", tmp_path / "cells.png", *arguments) == 0
    labels, said = read_labels(out)[0], json.loads(report.read_text())
    assert said["model"] == model.name and labels.shape == (90, 120)
    outside = labels.copy()
    outside[20:71, 30:91] = outside[5:26, 5:21] = 0
    assert not outside.any()
    assert [o["voxels"] for o in said["objects"]] == [(labels == 1).sum(), (labels == 2).sum()]


def test_auto_routes_its_modalities_to_it_and_no_others(imported) -> None:
    """Beside the models that are shipped, which take anything and may have a higher priority."""
    _, _, model = imported
    store = ModelStore([shipped_folder(), model.folder.parent])
    assert {store.route(m).name for m in ("Microscopy", "XRay")} == {model.name}
    assert all(store.route(m).name != model.name for m in ("CT", "MR", "PET", "US", ""))


def test_importing_for_a_modality_nobody_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").write_bytes(b"never read")
    arguments = ("--architecture", "efficient-sam-ti", "-o", tmp_path / "out", "--modality", "Palmistry")
    assert _run(training.main, monkeypatch, "import-checkpoint", tmp_path / "a.pt", *arguments) == 2
    with pytest.raises(QMedSAMError, match="holds no manifest"):
        Model.read(tmp_path / "out")
