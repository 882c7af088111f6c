"""Public architectures: the names and shapes that users' checkpoints have, and what can be known without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training.architectures import build, names  # noqa: E402
from qmedsam_training.checkpoints import load_public  # noqa: E402

CHECKPOINTS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "checkpoints"
COUNTS = {"litemedsam": (5_726_740, 6_220, 4_058_340), "medsam": (89_670_912, 6_220, 4_058_340)}


@pytest.fixture(scope="module", params=sorted(COUNTS))
def public(request):
    return request.param, build(request.param).eval()


def test_parameter_counts(public) -> None:
    name, model = public
    parts = (model.image_encoder, model.prompt_encoder, model.mask_decoder)
    assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == COUNTS[name]


def test_names_and_shapes_are_the_public_ones(public) -> None:
    name, model = public
    path = CHECKPOINTS / f"{name}.json"
    if not path.is_file():
        pytest.skip("the list of public names is not at hand")
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == json.loads(path.read_text())


def test_boxes_of_one_image_are_decoded_as_if_alone(public) -> None:
    _, model = public
    torch.manual_seed(0)
    embedding = torch.randn(1, 256, 64, 64)
    boxes = torch.tensor([[10.0, 20.0, 200.0, 180.0], [5.0, 5.0, 60.0, 90.0]])
    with torch.no_grad():
        logits, confidence = model.predict(embedding, boxes)
        alone = model.decode(embedding, boxes[1:])
    assert logits.shape == (2, 256, 256) and confidence.shape == (2,)
    assert torch.allclose(logits[1], alone[0], atol=1e-5) and not torch.allclose(logits[0], logits[1], atol=1e-3)


def test_litemedsam_encodes_to_its_grid() -> None:
    with torch.no_grad():
        assert build("litemedsam").eval().encode(torch.zeros(1, 3, 256, 256)).shape == (1, 256, 64, 64)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="litemedsam"):
        build("nobody")
    assert "qmedsam-compact" in names()


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_checkpoints_load_whatever_their_wrapping(tmp_path: Path, wrap) -> None:
    source, target = build("litemedsam"), build("litemedsam")
    torch.save(wrap(source.state_dict()), tmp_path / "lite.pth")
    load_public(target, tmp_path / "lite.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values()))


def test_wrong_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    model = build("litemedsam")
    state = model.state_dict()
    state["image_encoder.surprise"] = state.pop("image_encoder.neck.0.weight")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(QMedSAMError, match=r"image_encoder\.neck\.0\.weight.*image_encoder\.surprise"):
        load_public(model, tmp_path / "a.pth")
    state = model.state_dict()
    state["image_encoder.neck.0.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(QMedSAMError, match="shape"):
        load_public(model, tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(QMedSAMError, match="checkpoint"):
        load_public(model, tmp_path / "c.pth")


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(QMedSAMError):
        load_public(build("litemedsam"), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
