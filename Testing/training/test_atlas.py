"""The atlas: what is packed comes back, what is drawn is what the engine draws, what is said is what a user or a walk says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from packs import SPACING, Watched, arrays, atlas_of, case, ellipse, picture, rectangles, smooth, volume  # noqa: E402
from qmedsam import QMedSAMError  # noqa: E402
from qmedsam.frames import Frame  # noqa: E402
from qmedsam.geometry import extent_of  # noqa: E402
from qmedsam.intensity import CT_WINDOWS, normalise  # noqa: E402
from qmedsam_training.atlas import drawing  # noqa: E402
from qmedsam_training.atlas.corrections import corrected, next_stroke  # noqa: E402
from qmedsam_training.atlas.drawing import Habits, draw, extent  # noqa: E402
from qmedsam_training.atlas.looks import normalised, repainted  # noqa: E402
from qmedsam_training.atlas.prompts import Prompts, deformed, looked_at_again, prompts_of  # noqa: E402
from qmedsam_training.atlas.scenes import scenes  # noqa: E402
from qmedsam_training.atlas.store import Atlas, held_out, pack, read_atlas, unpack, write_atlas  # noqa: E402

STILL = Habits(strength=0.0, wide=0.0, flat=1.0)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Two volumes, two CTs, two grey and two coloured pictures."""
    rng = np.random.default_rng(0)
    cases = [volume(rng, n) for n in range(2)] + [volume(rng, 2 + n, hounsfield=True) for n in range(2)]
    cases += [picture(rng, n, colour=n > 1) for n in range(4)]
    return atlas_of(cases, tmp_path_factory.mktemp("atlas"))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.setattr(drawing, "Slices", Watched)
    return Watched


def rows_where(atlas: Atlas, **wanted: int) -> torch.Tensor:
    chosen = torch.ones(len(atlas.group), dtype=torch.bool)
    for name, value in wanted.items():
        chosen &= atlas.columns[name] == value
    return chosen.nonzero()[:, 0]


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / max(a.sum() + b.sum(), 1)


@pytest.mark.parametrize(
    ("coding", "shape"),
    [("zlib", (40, 56)), ("zlib", (7, 40, 56)), ("webp", (40, 56)), ("webp", (3, 40, 56)), ("webp-slices", (7, 40, 56))],
)
def test_what_is_packed_comes_back(coding, shape) -> None:
    array = (smooth(np.random.default_rng(1), shape) * 200).astype(np.uint8)
    array += np.arange(shape[0], dtype=np.uint8).reshape(-1, *[1] * (len(shape) - 1))  # planes differ
    back = unpack(pack(array, coding), "uint8")
    assert back.shape == array.shape and back.dtype == np.uint8
    error = np.abs(back.astype(float) - array)
    assert error.max() == 0 if coding == "zlib" else error.mean() < 3


def test_labels_come_back_with_their_numbers() -> None:
    labels = np.random.default_rng(0).integers(0, 30000, (3, 5, 7)).astype(np.int16)
    assert (unpack(pack(labels), "int16") == labels).all()


def test_a_file_holds_every_object_once(atlas) -> None:
    assert atlas.patients == [f"balls/p{n}" for n in range(4)] + [f"blobs/p{n}" for n in range(4)]
    assert atlas.groups == ["MR/balls", "CT/balls", "US/blobs"] and len(atlas.group) == 4 + 4 * 3
    # Volumes lie there once; pictures of 70 x 90 also halved twice.
    assert len(atlas.values) == 4 * 18 * 40 * 46 + (2 + 2 * 3) * (70 * 90 + 35 * 45 + 17 * 22)
    for row in range(len(atlas.group)):
        if atlas.columns["region"][row] == 0:
            _, inside = arrays(atlas, row)
            found = np.argwhere(inside if inside.ndim == 3 else inside[None])
            assert [int(atlas.columns[f"{a}{n}"][row]) for n in (0, 1) for a in "kji"] == [
                *found.min(0).tolist(),
                *(found.max(0) + 1).tolist(),
            ]


@pytest.mark.parametrize(
    "content", [b"", b"no atlas at all", (2).to_bytes(8, "little") + b"[]", (9).to_bytes(8, "little") + b'[{"a": 1}]']
)
def test_foreign_files_are_refused(tmp_path: Path, content) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(QMedSAMError, match="no atlas"):
        read_atlas(tmp_path / "a")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_atlas(tmp_path / "a", [volume(np.random.default_rng(0))])
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[:-2000])
    with pytest.raises(QMedSAMError, match="damaged"):
        read_atlas(tmp_path / "a")


def test_held_out_patients_are_whole_and_stay(atlas) -> None:
    many = [f"large/p{n % 200}" for n in range(600)] + [f"small/p{n}" for n in range(4)]
    held = held_out(many, 0.2)
    assert 20 < len(held) < 60 and all(name.startswith("large/") for name in held)
    assert held_out([*many, *(f"large/q{n}" for n in range(50))], 0.2) >= held
    assert held_out(many, 0.0) == set()
    chosen = atlas.of_patients({"blobs/p1"})
    assert chosen.sum() == 3 and (atlas.columns["case"][chosen] == 5).all()


def of_engine(atlas: Atlas, row: int, n: int, watched: Watched, frame: Frame):
    """Image ``3 x S x S``, valid pixels and mask as the engine draws them."""
    values, inside = arrays(atlas, row)
    if atlas.columns["is_3d"][row]:
        view, index = watched.view(n), int(watched.z[n])
        values, inside = view.slice_of(values, index), view.slice_of(inside, index)

    def grey(codes: np.ndarray) -> np.ndarray:
        if not atlas.columns["hounsfield"][row]:
            return codes.astype(np.float32) / 255
        from qmedsam_training.atlas.store import HU_KNOTS

        units, knots = zip(*HU_KNOTS)
        width, level = CT_WINDOWS["abdomen"]
        return np.clip((np.interp(codes, knots, units) - level) / width + 0.5, 0, 1).astype(np.float32)

    image, valid = frame.sample(values, grey)
    image = np.moveaxis(image, -1, 0) if image.ndim == 3 else np.repeat(image[None], 3, 0)
    return image, valid, frame.sample(inside.astype(np.float32))[0] > 0.5, inside


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_drawn_is_what_the_engine_draws(atlas, watched, kind) -> None:
    """Pictures, colours, MR and CT with air and metal at its sides, along all three axes: to 0.006 of the grey scale
    (0.02 where frames are coarser than the slice: the engine averages, here points are picked).

    Masks come from the nearest of four points a pixel, the engine's from linear interpolation: borders may differ by a pixel.
    """
    torch.manual_seed(0)
    rows = rows_where(atlas, region=0).repeat(6)
    drawn = draw(atlas, rows, STILL, torch.full_like(rows, kind))
    seen = watched.last
    assert set(seen.axis[seen.walks].tolist()) == {0, 1, 2}
    boxes = list(rectangles(drawn, seen, STILL.size))
    for n, row in enumerate(rows.tolist()):
        view = seen.view(n)
        x0, y0, x1, y1 = boxes[n]
        if max((x1 - x0) * view.pixel_mm[0], (y1 - y0) * view.pixel_mm[1]) < 2 * max(view.pixel_mm):
            continue  # a speck: two pixels are shown at least, of the engine one
        frame = Frame.around(boxes[n], view, STILL.size, STILL.margin)
        there = seen.frame(n, STILL.size)
        for name in ("left", "top", "scale_x", "scale_y"):
            assert getattr(there, name) == pytest.approx(getattr(frame, name), abs=0.02), (n, name)
        image, valid, mask, inside = of_engine(atlas, row, n, seen, frame)
        assert (valid == drawn.valid[n].numpy()).mean() > 0.99
        both = valid & drawn.valid[n].numpy()
        assert np.abs(image - drawn.image[n].numpy())[:, both].max() < (0.02 if min(frame.scale_x, frame.scale_y) < 1 else 0.006)
        if inside.sum() > 60:
            assert dsc(mask, drawn.mask[n].numpy() > 0.5) > 0.96
        # The box: of a volume's the whole object's, else the object's on this slice as far as a first look of 64 pixels tells.
        found = extent_of(inside)
        bounds = found
        c = {name: int(column[row]) for name, column in atlas.columns.items() if name in ("i0", "i1", "j0", "j1", "k0", "k1")}
        x, y = ("ijk"[a] for a in view.in_plane)
        whole = (c[f"{x}0"] - 0.5, c[f"{y}0"] - 0.5, c[f"{x}1"] - 0.5, c[f"{y}1"] - 0.5)
        if (kind and atlas.columns["is_3d"][row]) or found is None:
            bounds, slack = whole, 0.02
        else:
            longest = max((whole[2] - whole[0]) * view.pixel_mm[0], (whole[3] - whole[1]) * view.pixel_mm[1])
            slack = 1.1 * longest / 64 / min(view.pixel_mm) + 0.02
        height, width = view.shape_yx
        grown = drawing.grown(torch.tensor([bounds]), drawn.growth[n : n + 1])[0].tolist()
        grown = [max(grown[0], -0.5), max(grown[1], -0.5), min(grown[2], width - 0.5), min(grown[3], height - 0.5)]
        assert boxes[n] == pytest.approx(grown, abs=slack * 1.4), n


def test_large_objects_on_large_pictures_are_averaged(tmp_path, watched) -> None:
    """The level of halved pixels stands for the engine's average: to 0.02 on average with noise in every pixel."""
    rng = np.random.default_rng(0)
    shape = (600, 720)
    inside = ellipse(shape, (300, 360), (220, 260))
    noisy = np.clip(smooth(rng, shape) * 100 + 60 * inside + rng.normal(0, 30, shape), 0, 255)
    atlas = atlas_of([case(noisy, inside)], tmp_path)
    habits = Habits(size=128, strength=0.0, wide=0.0)
    drawn = draw(atlas, torch.tensor([0]), habits)
    image, valid, mask, _ = of_engine(atlas, 0, 0, watched.last, watched.last.frame(0, 128))
    assert watched.last.frame(0, 128).scale_x < 0.3
    assert np.abs(image - drawn.image[0].numpy())[:, valid].mean() < 0.03
    assert dsc(mask, drawn.mask[0].numpy() > 0.5) > 0.99


def test_a_strip_that_cannot_be_halved_is_read_where_it_lies(tmp_path, watched) -> None:
    """24 rows are halved once; a look four times as coarse has to make do with that."""
    grey = np.tile(np.linspace(20, 230, 1200), (24, 1))
    inside = np.zeros(grey.shape, bool)
    inside[4:20, 100:1100] = True
    atlas = atlas_of([case(grey, inside)], tmp_path)
    drawn = draw(atlas, torch.tensor([0]), STILL, torch.tensor([0]))
    image, valid, _, _ = of_engine(atlas, 0, 0, watched.last, watched.last.frame(0, STILL.size))
    assert watched.last.frame(0, STILL.size).scale_x < 0.2
    assert np.abs(image - drawn.image[0].numpy())[:, valid].max() < 0.02


def test_regions_of_a_coarser_map_lie_where_they_were_found(atlas, watched) -> None:
    rows = rows_where(atlas, region=1)
    drawn = draw(atlas, rows, STILL)
    for n, row in enumerate(rows.tolist()):
        frame = watched.last.frame(n, STILL.size)
        half = np.zeros((70, 90), np.float32)
        half[:, slice(0, 44) if atlas.columns["label"][row] == 1 else slice(44, 90)] = 1
        expected, valid = frame.sample(half)
        assert dsc(expected > 0.5, drawn.mask[n].numpy() > 0.5) > 0.97
        assert (valid == drawn.valid[n].numpy()).mean() > 0.99
    assert not drawn.neighbour.any() and torch.equal(drawn.mask, drawn.beside)


@given(
    st.tuples(*[st.integers(0, 20)] * 3),
    st.tuples(*[st.integers(4, 18)] * 3),
    st.tuples(*[st.floats(0.5, 4)] * 3),
)
@settings(max_examples=8, deadline=None)
def test_boxes_lie_in_the_right_pixels(tmp_path_factory, first, size, spacing) -> None:
    """Cuboids anywhere, voxels of any shape: tight boxes to 0.75 of a network pixel, cuts of the 3D box to 0.05."""
    labels = np.zeros((40, 40, 40), np.int16)
    labels[tuple(slice(a, a + n) for a, n in zip(first, size))] = 1
    atlas = atlas_of([case(labels * 100 + 50, labels, spacing_mm=spacing)], tmp_path_factory.mktemp("a"))
    rows = torch.zeros(6, dtype=torch.long)
    habits = Habits(size=96, strength=0.0, wide=0.0, flat=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "Slices", Watched)
        patch.setattr(drawing, "_growth", lambda kind, walks, like: like.new_zeros(len(kind), 4))
        for kind, tolerance in ((0, 0.75), (1, 0.05)):
            drawn = draw(atlas, rows, habits, torch.full_like(rows, kind))
            seen = Watched.last
            boxes = prompts_of(drawn, neighbours=False).boxes
            for n in range(len(rows)):
                x, y = (2 - axis for axis in seen.view(n).in_plane)
                truth = (first[x] - 0.5, first[y] - 0.5, first[x] + size[x] - 0.5, first[y] + size[y] - 0.5)
                if drawn.kind[n] == kind:
                    assert boxes[n].tolist() == pytest.approx(seen.frame(n, 96).to_network(truth), abs=tolerance)


def test_neighbouring_slices_are_before_and_behind_at_the_networks_distance(tmp_path, watched) -> None:
    """As :class:`qmedsam.predictor.SlicePredictor` has them: a slice's grey value is its number."""
    grey = np.broadcast_to(np.arange(40)[:, None, None] * 5, (40, 50, 50))
    atlas = atlas_of([case(grey, ellipse((40, 50, 50), (20, 25, 25), (12, 15, 15)), spacing_mm=(1, 1, 1.5))], tmp_path)
    habits = Habits(strength=0.0, wide=0.0, flat=0.0, depth_px=16.0)
    drawn = draw(atlas, torch.zeros(20, dtype=torch.long), habits)
    seen = watched.last
    along_k = [n for n in range(20) if seen.axis[n] == 2]
    assert along_k
    for n in along_k:
        apart = max(round(16.0 / seen.frame(n, habits.size).scale_x / 1.5), 1)
        expected = [min(max(int(seen.z[n]) + step * apart, 0), 39) * 5 / 255 for step in (-1, 0, 1)]
        assert apart > 1 and drawn.image[n][:, drawn.valid[n]].mean(1).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_walked_frame_shows_the_slice_that_the_walk_comes_from(tmp_path, watched) -> None:
    """First colour the slice beside, the other two this one, in one frame; nothing of it where none lies beside."""
    grey = np.broadcast_to(np.arange(40)[:, None, None] * 5, (40, 50, 50))
    inside = ellipse((40, 50, 50), (20, 25, 25), (12, 15, 15))
    atlas = atlas_of([case(grey, inside)], tmp_path)
    torch.manual_seed(0)
    habits = Habits(size=48, strength=0.0, wide=0.0, flat=1.0, walked=0.7)
    drawn = draw(atlas, torch.zeros(40, dtype=torch.long), habits)
    seen = watched.last
    assert drawn.walked.any() and not drawn.walked.all() and (drawn.walked <= drawn.neighbour).all()
    for n in range(40):
        here, beside = int(seen.z[n]), int(seen.z_beside[n] if drawn.walked[n] else seen.z[n])
        if seen.axis[n] == 2:
            levels = [slice_ * 5 / 255 for slice_ in (beside, here, here)]
            assert drawn.image[n][:, drawn.valid[n]].mean(1).tolist() == pytest.approx(levels, abs=1e-4)
    scene = scenes(12, replace(habits, walked=1.0), torch.device("cpu"))
    assert scene.walked.all() and (scene.image[:, 0] != scene.image[:, 1]).flatten(1).any(1).all()


def test_the_slice_beside_shows_the_object_there_or_counts_as_none(atlas, watched) -> None:
    torch.manual_seed(0)
    rows = rows_where(atlas, is_3d=1).repeat(12)
    drawn = draw(atlas, rows, STILL, torch.ones_like(rows))
    seen = watched.last
    assert torch.equal(drawn.neighbour, seen.z != seen.z_beside) and drawn.neighbour.float().mean() > 0.8
    for n, row in enumerate(rows.tolist()):
        inside = seen.view(n).slice_of(arrays(atlas, row)[1], int(seen.z_beside[n]))
        if inside.sum() > 60:
            expected = seen.frame(n, STILL.size).sample(inside.astype(np.float32))[0] > 0.5
            assert dsc(expected, drawn.beside[n].numpy() > 0.5) > 0.96


def test_at_a_volumes_end_a_slice_is_not_its_own_neighbour(tmp_path, watched) -> None:
    """The truth itself would be told as the neighbour's mask."""
    inside = np.zeros((16, 24, 24), bool)
    inside[:3, 6:18, 6:18] = True
    torch.manual_seed(0)
    rows = torch.zeros(80, dtype=torch.long)
    drawn = draw(atlas_of([case(inside * 100, inside)], tmp_path), rows, Habits(size=32, strength=0.0))
    alone = watched.last.z == watched.last.z_beside
    assert alone.any() and not alone.all() and torch.equal(drawn.neighbour, ~alone)


def test_turned_and_bent_frames_keep_image_and_mask_together(tmp_path) -> None:
    """An object that is brighter than all else is its own mask, however it is drawn."""
    inside = ellipse((20, 48, 48), (10, 24, 24), (6, 14, 16))
    atlas = atlas_of([case(inside * 200 + 20, inside)], tmp_path)
    torch.manual_seed(0)
    rows = torch.zeros(64, dtype=torch.long)  # cuts of the 3D box: tight ones would show slices of a voxel or two as large
    drawn = draw(atlas, rows, Habits(strength=1.0, flat=1.0), torch.ones_like(rows))
    bright = drawn.image[:, 0] > 120 / 255
    large = drawn.mask.flatten(1).sum(1) > 800
    overlap = (
        2 * (bright & (drawn.mask > 0.5)).flatten(1).sum(1) / (bright.flatten(1).sum(1) + (drawn.mask > 0.5).flatten(1).sum(1))
    )
    assert large.sum() > 20 and overlap[large].min() > 0.9
    assert ((drawn.mask > 0) <= drawn.valid).all()


def test_looks_keep_borders_where_they_are() -> None:
    """A vertical border at column 30, repainted at full strength: its largest step stays within two pixels."""
    torch.manual_seed(0)
    image = torch.full((200, 3, 64, 64), 0.2)
    image[..., 30:] = 0.8
    changed = repainted(image, torch.zeros(200, dtype=torch.bool), 1.0)
    step = (changed.mean((1, 2))[:, 1:] - changed.mean((1, 2))[:, :-1]).abs()
    assert ((step.argmax(1) - 29).abs() <= 2).all()
    assert (changed - image).abs().flatten(1).amax(1).gt(0.02).float().mean() > 0.9
    still = repainted(image, torch.ones(200, dtype=torch.bool), 0.0)
    assert torch.allclose(still, (image - 0.2) / 0.6, atol=1e-5)


def test_slices_of_a_volume_are_repainted_alike() -> None:
    torch.manual_seed(0)
    image = torch.rand(64, 1, 32, 32).expand(-1, 3, -1, -1).clone()
    changed = repainted(image, torch.ones(64, dtype=torch.bool), 0.5)
    apart = (changed - changed.mean(1, keepdim=True)).abs().flatten(1).amax(1)
    assert (apart < 1e-5).all(), "of one slice that is shown three times, noise too"
    image[:, 0] += 0.1
    changed = repainted(image, torch.ones(64, dtype=torch.bool), 1.0)
    apart = (changed - changed[:, 1:2]).flatten(2).std(2).amax(1)
    assert 0.2 < (apart > 1e-3).float().mean() < 0.95, "other slices have noise of their own"


def test_frames_are_normalised_as_in_the_engine() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)
    valid = rng.uniform(0, 1, (2, 32, 32)) > 0.3
    found = normalised(torch.from_numpy(image), torch.from_numpy(valid)).numpy()
    for n in range(2):
        assert np.allclose(found[n], normalise(np.moveaxis(image[n], 0, -1), valid[n], "zscore", (), ()), atol=1e-4)


def _masks(seed: int, count: int = 24, side: int = 40):
    """Ellipses, and answers that miss a part, take in a part, are right, or are empty."""
    rng = np.random.default_rng(seed)
    truth = np.stack([ellipse((side, side), rng.uniform(12, 28, 2), rng.uniform(5, 12, 2)) for _ in range(count)])
    found = np.stack([np.roll(t, rng.integers(-5, 6, 2), (0, 1)) for t in truth])
    found[:2], found[2:4] = truth[:2], False
    truth[4] = False
    return torch.from_numpy(found), torch.from_numpy(truth)


@given(st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_stroke_never_lies_on_the_wrong_side(seed) -> None:
    found, truth = _masks(seed)
    torch.manual_seed(seed)
    for exact in (True, False):
        adds, removes = (stroke > 0 for stroke in next_stroke(found, truth, exact))
        assert not (adds & ~truth).any() and not (removes & truth).any()
        assert not (adds.flatten(1).any(1) & removes.flatten(1).any(1)).any()
        wrong = (found ^ truth).flatten(1).any(1)
        in_error = ((adds | removes) & (found ^ truth)).flatten(1).any(1)
        if exact:
            assert torch.equal(in_error, wrong) and not (adds | removes)[~wrong].any()
            assert not ((adds | removes).flatten(1).sum(1) > 9).any(), "a click"
    assert in_error[wrong].float().mean() > 0.7


def test_strokes_add_up_and_the_present_mask_is_the_last_one() -> None:
    found, truth = _masks(0)
    hints = torch.zeros(len(truth), 4, 40, 40)
    hints[:, 0] = 1
    first = next_stroke(found, truth, exact=True)
    once = corrected(hints, found, first)
    twice = corrected(once, truth, next_stroke(truth, ~truth, exact=True))
    assert not hints[:, 1:].any(), "what was given is not changed"
    assert torch.equal(twice[:, 1], truth.float() * 2 - 1) and (twice[:, 0] == 1).all()
    for channel in (2, 3):
        assert torch.equal(once[:, channel], first[channel - 2]) and (twice[:, channel] >= once[:, channel]).all()
    assert twice[:, 2:].sum() > once[:, 2:].sum()


def test_deformed_masks_are_about_the_object_a_neighbours_less_changed() -> None:
    torch.manual_seed(0)
    mask = torch.from_numpy(np.stack([ellipse((80, 80), (40, 38), (14, 20))] * 300))[:, None]
    overlaps = []
    for neighbour in (True, False):
        changed = deformed(mask, torch.full((300,), neighbour))
        assert changed.dtype == torch.bool and changed.shape == mask.shape
        overlap = (changed & mask).flatten(1).sum(1) / (changed | mask).flatten(1).sum(1)
        assert overlap.min() > 0.05 and overlap.max() < 1 and (overlap < 0.999).float().mean() > 0.95
        overlaps.append(float(overlap.mean()))
    assert overlaps[0] > 0.75 > overlaps[1] > 0.5
    assert not deformed(torch.zeros(4, 1, 32, 32, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)).any()


def test_prompts_say_what_the_walks_say(atlas) -> None:
    torch.manual_seed(0)
    rows = rows_where(atlas, region=0).repeat(16)
    drawn = draw(atlas, rows, Habits(size=96, strength=0.5))
    prompts = prompts_of(drawn)
    kind = prompts.kinds.argmax(1)
    assert torch.equal(prompts.kinds.sum(1), torch.ones(len(rows))) and set(kind.tolist()) == {0, 1, 2}
    assert set(prompts.hints[:, 0].unique().tolist()) == {-1.0, 0.0, 1.0} and not prompts.hints[:, 1:].any()
    said = prompts.hints[:, 0].flatten(1).any(1)
    assert said[kind == 0].float().mean() < 0.35 < 0.7 < said[kind == 2].float().mean()
    sides = prompts.boxes[:, 2:] - prompts.boxes[:, :2]
    assert (sides > 0).all() and (prompts.boxes >= -0.5).all() and (prompts.boxes <= 95.5).all()
    propagated = prompts.boxes[kind == 2]
    outer = drawn.outer[kind == 2].clamp(-0.5, 95.5)
    assert (propagated[:, :2] >= outer[:, :2] - 1e-3).all() and (propagated[:, 2:] <= outer[:, 2:] + 1e-3).all()
    edges, some = extent(drawn.mask > 0.5)
    tight = (kind == 0) & some
    assert (prompts.boxes[tight] - edges[tight]).abs().flatten().median() < 8
    silent = prompts_of(drawn, neighbours=False)
    assert not silent.hints.any() and silent.kinds[:, 2].sum() == 0


def test_what_the_network_found_beside_is_told_within_the_box(atlas) -> None:
    torch.manual_seed(0)
    rows = rows_where(atlas, is_3d=1).repeat(12)
    drawn = draw(atlas, rows, Habits(size=96, strength=0.5, flat=1.0, walked=0.6))
    prompts = prompts_of(drawn, guess=torch.ones(len(rows), 48, 48, dtype=torch.bool))
    told = drawn.walked & prompts.hints[:, 0].flatten(1).any(1)
    assert told.any()
    for hint, box in zip(prompts.hints[told, 0] > 0, drawn.outer[told]):
        edges = (extent(hint[None])[0][0] + 0.5) * 2 - 0.5
        assert (edges[:2] >= box[:2] - 1).all() and (edges[2:] <= box[2:] + 1).all(), "a walk finds nothing beyond its box"
        sides = box.clamp(-0.5, 95.5)[2:] - box.clamp(-0.5, 95.5)[:2]
        assert (edges[2:] - edges[:2]).tolist() == pytest.approx(sides.tolist(), abs=4)


def test_a_second_look_is_a_tight_box_around_what_was_found() -> None:
    found = torch.zeros(3, 32, 32, dtype=torch.bool)
    found[:2, 10:20, 8:24] = True
    before = Prompts(torch.full((3, 4), 7.0), torch.randn(3, 4, 32, 32), torch.tensor([[0.0, 1, 0]] * 3), found.float())
    after = looked_at_again(before, found, torch.tensor([True, False, True]))
    assert after.boxes[0].tolist() == pytest.approx([15.5 - 0.96, 19.5 - 0.6, 47.5 + 0.96, 39.5 + 0.6], abs=1e-4)
    assert after.kinds[0].tolist() == [1, 0, 0] and torch.equal(after.hints, before.hints)
    for n in (1, 2):  # not asked for, and nothing found
        assert torch.equal(after.boxes[n], before.boxes[n]) and torch.equal(after.kinds[n], before.kinds[n])


def test_nobody_draws_a_tight_box_around_nothing(tmp_path) -> None:
    inside = ellipse((40, 40, 40), (20, 20, 20), (4, 10, 10))
    atlas = atlas_of([case(inside * 100, inside, spacing_mm=SPACING)], tmp_path)
    torch.manual_seed(0)
    habits = Habits(size=64, strength=0.0, wide=0.0)
    drawn = draw(atlas, torch.zeros(60, dtype=torch.long), habits, torch.zeros(60, dtype=torch.long))
    empty = drawn.mask.flatten(1).amax(1) <= 0.5
    assert empty.any() and (prompts_of(drawn).kinds[empty, 0] == 0).all()


def test_a_scenes_target_lies_in_its_box() -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        drawn = scenes(12, Habits(size=64), torch.device("cpu"))
        edges, some = extent(drawn.mask > 0.5)
        low, high = drawn.outer[:, :2] <= edges[:, :2] + 1e-3, drawn.outer[:, 2:] >= edges[:, 2:] - 1e-3
        assert (low & high)[some].all() and some.float().mean() > 0.5
        assert (drawn.kind[~some] > 0).all() and torch.isfinite(drawn.image).all()
        assert drawn.image.flatten(1).std(1).min() > 0
