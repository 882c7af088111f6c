"""Manifests, checksums, the store and routing."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import qmedsam.models as models
from qmedsam import ModelStore, QMedSAMError
from qmedsam.models import Manifest, Model


def make_model(folder: Path, name: str = "toy", **changes) -> Path:
    """A model folder that is valid but for its networks."""
    folder = folder / name
    folder.mkdir(parents=True)
    files = {}
    for file in ("encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"):
        (folder / file).write_bytes(f"{name} {file}".encode())
        files[file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    manifest = {
        "name": name,
        "title": name.title(),
        "version": "1",
        "license": "CC0-1.0",
        "architecture": "toy",
        "precision": "int8",
        "encoder": "encoder.xml",
        "decoder": "decoder.xml",
        "files": files,
        "input_size": 64,
        "prompt_size": 64,
        "normalization": {"kind": "zscore"},
        "frame": {"kind": "roi", "margin": 0.3},
        "modalities": ["*"],
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    return folder


def store(tmp_path: Path, *folders: Path) -> ModelStore:
    return ModelStore([tmp_path / "user", *folders], user=tmp_path / "user")


BAD = [
    ({"license": None}, "lacks 'license'"),
    ({"input_size": "64"}, "input_size"),
    ({"input_size": True}, "input_size"),
    ({"input_size": 8}, "below"),
    ({"precision": "int2"}, "int2"),
    ({"frame": {"kind": "banana"}}, "banana"),
    ({"frame": {"margin": 0.3}}, "kind"),
    ({"modalities": []}, "modalities"),
    ({"normalization": {"kind": "fixed"}}, "mean and std"),
    ({"normalization": {"kind": "fixed", "mean": [1, 2, 3, 4], "std": [1, 1, 1]}}, "4 entries"),
    ({"surprise": 1}, "surprise"),
    ({"normalization": {"kind": "fixed", "mean": ["a", "b", "c"]}}, "mean"),
    ({"strategies": {"CT": "guess"}}, "guess"),
    ({"files": {"encoder.xml": "short"}}, "encoder.xml"),
]


@pytest.mark.parametrize("change,word", BAD)
def test_bad_manifests_are_refused_as_jsonschema_does(tmp_path: Path, change, word) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    folder = make_model(tmp_path, **change)
    with pytest.raises(QMedSAMError, match=word):
        Model.read(folder)
    schema = json.loads((Path(models.__file__).parent / "manifest.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads((folder / "manifest.json").read_text()), schema)


def test_a_good_manifest_is_read(tmp_path: Path) -> None:
    folder = make_model(tmp_path, scores={"dsc": 0.9}, data=[{"name": "x", "license": "CC0"}])
    model = Model.read(folder)
    model.verify()
    assert model.name == "toy" and model.manifest.modalities == ("*",) and model.bytes > 0


def test_a_manifest_that_is_no_json_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(QMedSAMError, match="cannot be read"):
        Manifest.read(tmp_path / "manifest.json")
    with pytest.raises(QMedSAMError, match="holds no manifest"):
        Model.read(tmp_path / "nothing")


def test_damage_is_found(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    model = Model.read(folder)
    (folder / "decoder.bin").write_bytes(b"flipped")
    with pytest.raises(QMedSAMError, match=r"decoder\.bin.*checksum"):
        model.verify()
    (folder / "decoder.bin").unlink()
    with pytest.raises(QMedSAMError, match="lacks its file"):
        model.verify()


def test_files_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../evil"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(QMedSAMError, match="outside"):
        Model.read(folder).verify()


def test_a_checkpoint_is_no_model_and_says_how_it_becomes_one(tmp_path: Path) -> None:
    make_model(tmp_path / "shipped", "any")
    (tmp_path / "mine.pth").write_bytes(b"weights")
    with pytest.raises(QMedSAMError, match=r"is no model\..*import-checkpoint.*Models at hand: any"):
        store(tmp_path, tmp_path / "shipped").get(str(tmp_path / "mine.pth"))


def test_some_models_are_for_volumes_or_pictures_alone(tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    make_model(shipped, "both")
    make_model(shipped, "volumes", priority=1, dimension=3)
    make_model(shipped, "pictures", priority=2, dimension=2)
    s = store(tmp_path, shipped)
    assert s.route("CT", is_3d=True).name == "volumes" and s.route("CT", is_3d=False).name == "pictures"
    assert s.routes()["MR"] == "volumes" and s.get("pictures").name == "pictures"
    shutil.rmtree(shipped / "both")
    shutil.rmtree(shipped / "volumes")
    with pytest.raises(QMedSAMError, match="No model at hand serves CT"):
        s.route("CT")


def test_routing_prefers_a_model_that_names_the_modality_then_priority(tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    make_model(shipped, "any", priority=9)
    make_model(shipped, "low", modalities=["CT"], priority=1)
    make_model(shipped, "high", modalities=["CT", "MR"], priority=5)
    s = store(tmp_path, shipped)
    assert [s.route(m).name for m in ("CT", "MR", "PET", "")] == ["high", "high", "any", "any"]
    assert s.get("low").name == "low"
    assert s.get(str(shipped / "any")).name == "any"
    with pytest.raises(QMedSAMError, match="Models at hand"):
        s.get("nobody")


def test_no_model_for_a_modality(tmp_path: Path) -> None:
    make_model(tmp_path / "shipped", "ct", modalities=["CT"])
    with pytest.raises(QMedSAMError, match="PET"):
        store(tmp_path, tmp_path / "shipped").route("PET")


def test_one_broken_folder_hides_no_other(tmp_path: Path) -> None:
    make_model(tmp_path / "shipped", "good")
    make_model(tmp_path / "shipped", "bad", license=None)
    s = store(tmp_path, tmp_path / "shipped")
    assert [m.name for m in s.models()] == ["good"]
    assert [f.name for f, _ in s.broken()] == ["bad"]


@pytest.mark.parametrize("zipped", [False, True])
def test_adding_and_removing(tmp_path: Path, zipped: bool) -> None:
    source = make_model(tmp_path / "download")
    (source / "MODEL_CARD.md").write_text("card")
    (source / "notes.txt").write_text("not listed, not copied")
    if zipped:
        with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
            for path in source.iterdir():
                archive.write(path, f"toy/{path.name}")
        source = tmp_path / "m.zip"
    s = store(tmp_path)
    added = s.add(source)
    assert added.folder == tmp_path / "user" / "toy" and s.get("toy").folder == added.folder
    assert (added.folder / "MODEL_CARD.md").is_file() and not (added.folder / "notes.txt").exists()
    with pytest.raises(QMedSAMError, match="already"):
        s.add(source)
    s.remove("toy")
    assert s.models() == []
    with pytest.raises(QMedSAMError, match="among those you added"):
        s.remove("toy")


def test_nothing_is_left_of_a_model_that_was_refused(tmp_path: Path) -> None:
    source = make_model(tmp_path / "download")
    (source / "encoder.bin").write_bytes(b"damaged")
    s = store(tmp_path)
    with pytest.raises(QMedSAMError, match="checksum"):
        s.add(source)
    assert list((tmp_path / "user").iterdir()) == []


def test_a_users_folder_that_is_read_only_is_said(tmp_path: Path, monkeypatch) -> None:
    def denied(*arguments, **more) -> None:
        raise PermissionError(13, "Permission denied")

    source = make_model(tmp_path / "download")
    (tmp_path / "user").mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(QMedSAMError, match=r"cannot be written to \(Permission denied\)"):
        store(tmp_path).add(source)


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b"])
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    source = make_model(tmp_path / "download")
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["name"] = name
    (source / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(QMedSAMError, match="usable"):
        store(tmp_path).add(source)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme", "x")
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", "x" * 1000)
    content = bytearray((tmp_path / "damaged.zip").read_bytes())
    start = 30 + len("manifest.json")
    content[start : start + 8] = b"\xff" * 8
    (tmp_path / "damaged.zip").write_bytes(content)
    for source in (tmp_path / "a.txt", tmp_path / "empty.zip", tmp_path / "damaged.zip", tmp_path / "missing"):
        with pytest.raises(QMedSAMError):
            store(tmp_path).add(source)


def test_the_shipped_models_are_intact() -> None:
    shipped = ModelStore([models.shipped_folder()]).models()
    assert shipped, "no model is shipped"
    for model in shipped:
        model.verify()
        assert (model.folder / "MODEL_CARD.md").is_file()
        assert model.folder.name == model.name


def test_a_damaged_model_is_replaced_by_a_whole_one(tmp_path: Path) -> None:
    source = make_model(tmp_path / "download", "toy")
    s = store(tmp_path)
    for damaged in ("manifest.json", s.add(source).manifest.encoder):
        (s.user / "toy" / damaged).write_bytes(b"damaged")
        s.add(source).verify()
    with pytest.raises(QMedSAMError, match="there already"):
        s.add(source)
    assert [path.name for path in s.user.iterdir()] == ["toy"]


def test_a_model_is_removed_by_its_folder_whatever_another_is_called(tmp_path: Path) -> None:
    s = store(tmp_path)
    make_model(s.user, "toy").rename(s.user / "elsewhere")
    (s.user / "toy").mkdir()
    (s.user / "toy" / "manifest.json").write_text("{")
    s.remove(s.user / "toy")
    assert [path.name for path in s.user.iterdir()] == ["elsewhere"]
    with pytest.raises(QMedSAMError, match="no model"):
        s.remove(s.user / "toy")


def test_routes_name_a_model_for_every_modality_that_has_one(tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    make_model(shipped, "ct", modalities=["CT"])
    assert store(tmp_path, shipped).routes() == {"CT": "ct"}
    make_model(shipped, "any", priority=9)
    routes = store(tmp_path, shipped).routes()
    assert routes["CT"] == "ct" and routes[""] == routes["PET"] == routes["XRay"] == "any"
