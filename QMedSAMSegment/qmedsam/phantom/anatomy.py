"""The organs of the abdominal phantom: shapes in RAS mm and the HU they are filled with.

HU are those of a portal venous phase at 120 kV: liver 110, spleen 120, renal cortex 190, aorta 165, fat -100.
"""

from __future__ import annotations

import numpy as np

from .shapes import Array, Scene, column, cut, ellipsoid, join, local, rounded, tube

#: Turn of the right and the left kidney about R, A and S in degrees: upper poles lie medially and to the back.
KIDNEY_TURN = ((7.0, 14.0, -24.0), (6.0, -16.0, 26.0))

_KIDNEY_CENTER = ((63.0, -33.0, -26.0), (-60.0, -32.0, -16.0))


def paint_abdomen(scene: Scene) -> None:
    """Paint the whole phantom; labels as in ``phantom.ORGANS``."""
    p = scene.p
    x, y, z = p
    cavity = rounded(x, y - 5, 121, 74, 2.3)
    _wall(scene, cavity)
    right_dome = 72 - 0.0085 * ((x - 58) ** 2 + (y - 6) ** 2)
    left_dome = 64 - 0.0085 * ((x + 62) ** 2 + (y - 2) ** 2)
    below_lung = z - np.maximum(right_dome, left_dome)
    _lungs(scene, cavity, below_lung)
    _spine(scene)
    _bowel(scene, cavity)
    kidneys = _kidneys(scene, cavity)
    liver = _liver_shape(p, cavity, below_lung, kidneys[0])
    stomach = _stomach_and_pancreas(scene, np.maximum(cavity, -4 - liver), below_lung)
    spleen = cut(ellipsoid(p, (-94, -30, 24), (30, 45, 47), (0, 0, -18)), ellipsoid(p, (-60, -14, 18), (26, 40, 52)), 8)
    spleen = np.maximum(np.maximum(spleen, cavity + 3), np.maximum(below_lung + 4, 2 - np.minimum(stomach, kidneys[1])))
    scene.paint(spleen, 120, 2, 5)
    _liver(scene, liver)
    _vessels(scene)


def _wall(scene: Scene, cavity: Array) -> None:
    p = scene.p
    x, y, z = p
    body = rounded(x, y, 150, 104, 2.3)
    couch = rounded(x / 6, y + 119, 32, 7, 4)
    scene.paint(couch, -870, soft=2)  # foam
    scene.paint(np.abs(couch) - 0.8, -350, soft=2)  # shell
    scene.paint(body, 5)  # skin
    scene.paint(body + 2.2, -105, texture=5)
    # Three layers of lateral muscle; the wall thins out at the linea alba and the flanks' fat stripes.
    front = np.clip(y / 70, 0, 1)
    thick = 15 - 6 * front - 7 * np.exp(-((x / 7) ** 2)) * front
    scene.paint(cavity - thick, 58, texture=7)
    for depth in (4.5, 9.0):
        scene.paint(np.where(np.abs(x) > 62, np.abs(cavity - depth) - 0.5, 9), -50)
    for side in (-1, 1):
        scene.paint(rounded(x - side * 33, y + 76, 31, 21, 2), 60 + 22 * np.minimum(scene.texture, 0), texture=9)
    scene.paint(cavity + 1, -102, texture=6)
    angle = np.arctan2(np.abs(x), -(y - 5)) / np.pi  # 0 at the spine, 1 at the breastbone
    for number in range(-1, 7):
        height = 96 - 31 * number - 85 * angle
        end = 0.74 - 0.085 * max(number - 2, 0)
        rib = np.hypot((z - height) * 0.75, cavity - 7.5) - 4.6
        rib = np.maximum(rib, (angle - end) * 150)
        scene.paint(rib, 520)
        scene.paint(rib + 2.0, 180)


def _lungs(scene: Scene, cavity: Array, below_lung: Array) -> None:
    p = scene.p
    x, y, _ = p
    between = 9 + 22 * np.exp(-(((y - 2) / 30) ** 2)) + 14 * np.exp(-(((y + 50) / 18) ** 2)) - np.abs(x + 2)  # mediastinum
    lung = np.maximum(np.maximum(cavity + 4, 1.5 - below_lung), between)
    scene.paint(np.maximum(np.maximum(cavity + 2, -2.5 - below_lung), between), 55)  # diaphragm
    scene.paint(lung, -850, texture=14)
    for n in range(14):  # vessels of the lung bases
        side = 1 if n % 2 else -1
        turn = 2.4 * n
        foot = (side * (62 + 26 * np.cos(turn)), 2 + 42 * np.sin(turn), 30.0)
        vessel = tube(p, (foot, (side * 34, 0, 110)), (0.8, 3.4))
        scene.paint(np.maximum(vessel, lung + 1), 40)
    scene.paint(column(p, (30, 60, 100), (-18, -6, -2), (-2, -10, -14), (7, 8, 8)), 50, texture=8)  # oesophagus
    heart = ellipsoid(p, (-22, 32, 96), (50, 38, 34), (0, 0, 20))
    scene.paint(np.maximum(heart, cavity + 6), 60)
    scene.paint(np.maximum(heart + 8, cavity + 8), 150, texture=4)


def _spine(scene: Scene) -> None:
    p = scene.p
    x, y, z = p
    for side in (-1, 1):
        scene.paint(column(p, (-100, 0, 60), (side * 42, side * 32, side * 26), (-40, -42, -44), (19, 12, 3)), 62, texture=6)
        scene.paint(column(p, (-20, 40, 100), (side * 8 - 4, side * 16 - 4, side * 18 - 4), (-20, -19, -14), (4, 5, 3)), 58)
    level = np.mod(z + 17, 36) - 18  # 0 in the middle of a vertebra
    body = rounded(x, y + 43, 22.5, 16.5, 2.4) + 0.077 * np.clip(15 - np.abs(level), 0, None) ** 1.2  # waisted
    scene.paint(body, 85)  # discs
    bone = np.maximum(body + 0.5, np.abs(level) - 14.5)
    arch = np.minimum(
        np.abs(rounded(x, y + 67, 14, 12, 2)) - 3.2,
        np.maximum(tube(p[:2], ((-20, -70), (20, -70)), (4, 4)), np.abs(level + 4) - 9),
    )
    process = np.maximum(np.maximum(np.abs(x) - 3.2 - (y < -92), np.abs(level + 9) - 10), np.maximum(y + 78, -97 - y))
    ribs_heads = np.maximum(
        np.minimum(*(tube(p[:2], ((s * 18, -66), (s * 42, -76)), (4, 3.4)) for s in (-1, 1))), np.abs(level - 3) - 5
    )
    for shape in (ribs_heads, arch, process, bone):
        scene.paint(shape, 540)
        scene.paint(shape + 2.1, 215, texture=28)
    scene.paint(rounded(x, y + 67, 11, 9, 2), 15)  # dural sac
    scene.paint(rounded(x, y + 67, 6, 5, 2), 48)  # cord


def _bowel(scene: Scene, cavity: Array) -> None:
    p = scene.p
    y = p[1]
    colon = np.minimum(
        tube(
            p, ((96, 4, -110), (92, 2, -60), (84, 26, -36), (40, 55, -34), (-30, 58, -28), (-78, 38, 0)), (22, 21, 19, 17, 17, 18)
        ),
        tube(p, ((-78, 38, 0), (-100, 2, -20), (-102, -8, -60), (-98, -6, -110)), (18, 16, 15, 15)),
    )
    colon = colon + 2.2 * scene.texture  # haustra
    loops = [
        ((20, 38, -80), (-10, 20, -62), (-40, 42, -72)),
        ((-60, 24, -50), (-40, 6, -64), (-66, 4, -84)),
        ((44, 14, -76), (30, 44, -58), (56, 46, -72)),
        ((-20, 46, -50), (4, 34, -44), (14, 12, -52)),
        ((-48, 48, -78), (-74, 32, -84), (-60, 12, -98)),
        ((-74, 12, -34), (-52, 22, -30), (-36, 36, -36)),
        ((-30, 8, -34), (-46, 2, -46), (-28, 20, -56)),
        ((36, 12, -18), (38, -2, -44), (14, 2, -54), (-22, -2, -46)),  # duodenum
    ]
    for n in range(22):  # mesenteric branches
        turn = 0.9 * n
        tip = (8 + 72 * np.cos(turn), 22 + 26 * np.sin(2.3 * turn), -30 - 2.6 * n)
        scene.paint(tube(p, ((0, 12, -16 - 1.6 * n), tip), (2.2, 1.0)), 95, soft=2)
    for n, loop in enumerate(loops):
        gut = np.maximum(tube(p, loop, (13, 12, 12, 12)), cavity + 4)
        scene.paint(gut, 88, texture=8)
        scene.paint(gut + 3.2, 22 + 8 * n, texture=8)
    colon = np.maximum(colon, cavity + 4)
    scene.paint(colon, 70)
    scene.paint(colon + 3, 35 + 60 * np.minimum(scene.texture, 0), texture=18)
    scene.paint(np.maximum(colon + 4, 44 - y + 5 * scene.texture), -930)  # gas collects in front


def _stomach_and_pancreas(scene: Scene, cavity: Array, below_lung: Array) -> Array:
    p = scene.p
    y = p[1]
    stomach = join(
        ellipsoid(p, (-60, 8, 40), (36, 40, 38), (0, 20, 0)),
        tube(p, ((-52, 30, 18), (-20, 48, -4), (18, 40, -6)), (25, 19, 12)),
        10,
    )
    stomach = np.maximum(np.maximum(stomach, cavity + 5), below_lung + 4)
    scene.paint(stomach, 80, texture=6)
    scene.paint(stomach + 4, 12 + 10 * np.clip(-y / 30, 0, 1), texture=5)
    scene.paint(np.maximum(stomach + 4.5, 27 - y), -960)  # the patient lies on the back: a level of fluid
    pancreas = tube(p, ((34, 10, -22), (24, 16, -8), (-6, 14, 2), (-36, -2, 10), (-66, -20, 18)), (14, 11, 8.5, 9, 7.5))
    scene.paint(pancreas + 1.6 * scene.texture, 96, texture=11)
    return stomach


def _kidneys(scene: Scene, cavity: Array) -> list[Array]:
    """Paint both; the distances to their outlines, right one first."""
    outlines = []
    for label, side, center, turn in ((3, 1, _KIDNEY_CENTER[0], KIDNEY_TURN[0]), (4, -1, _KIDNEY_CENTER[1], KIDNEY_TURN[1])):
        medial = local(scene.p, center, turn)
        medial[0] *= side  # from here on, the hilum lies at negative x on both sides
        outline = cut(ellipsoid(medial, (0, 0, 0), (27, 24, 55)), ellipsoid(medial, (-29, 3, 0), (15, 13, 19)), 9)
        outline = np.maximum(outline, cavity + 5)
        scene.paint(outline, 196, label, 5)
        # Medullary pyramids: blobs that repeat along the kidney, inside of the cortex.
        angle = np.arctan2(medial[1], medial[0] + 14)
        pyramids = np.cos(medial[2] / 54 * 13) + 0.9 * np.cos(3.2 * angle) - 0.5
        scene.paint(np.maximum(outline + 7.5, -4 * pyramids), 142, label, 6, soft=3)
        sinus = np.maximum(ellipsoid(medial, (-13, 1, 0), (15, 9.5, 25)), outline + 4)
        scene.paint(sinus, -65, texture=12, soft=3)  # neither sinus fat nor pelvis is labelled
        scene.paint(tube(medial, ((-4, 0, 8), (-16, 1, 0), (-32, 4, -8)), (3, 5, 4)), 25, soft=2)
        outlines.append(outline)
    return outlines


def _liver_shape(p: Array, cavity: Array, below_lung: Array, kidney: Array) -> Array:
    right = ellipsoid(p, (60, -2, 22), (64, 72, 76), (8, 8, 0))
    left = ellipsoid(p, (-10, 40, 38), (66, 30, 33), (12, 14, 8))
    liver = join(right, left, 22)
    liver = cut(liver, ellipsoid(p, (15, -36, 2), (26, 48, 84)), 14)  # caval side and hilum
    liver = cut(liver, ellipsoid(p, (40, -62, 16), (26, 34, 48)), 12)  # adrenal and bare area
    liver = cut(liver, kidney - 3, 8)
    liver = cut(liver, ellipsoid(p, (26, 46, -34), (30, 34, 34)), 12)
    liver = cut(liver, np.maximum(ellipsoid(p, (2, 72, 14), (2.2, 26, 40), (0, 0, 12)), p[2] - 46), 3)  # falciform ligament
    return np.maximum(np.maximum(liver, cavity + 3), below_lung + 4)


def _liver(scene: Scene, liver: Array) -> None:
    p = scene.p
    scene.paint(liver, 108, 1, 4)
    trunks = [
        (((18, -14, 58), (44, -2, 50), (84, 8, 30)), (7, 5.2, 2)),  # hepatic veins
        (((18, -13, 60), (30, 22, 48), (48, 48, 24)), (6.5, 4.8, 2)),
        (((14, -10, 60), (-6, 30, 46), (-40, 46, 40)), (6, 4, 1.8)),
        (((24, 6, 8), (40, 6, 16), (62, -4, 16), (92, -18, 6)), (7.5, 7, 5.2, 2)),  # portal vein
        (((40, 6, 16), (58, 26, 12), (78, 40, 0)), (5.5, 4.2, 1.8)),
        (((62, -4, 16), (72, -24, 32), (90, -40, 40)), (5, 3.6, 1.7)),
        (((34, 6, 14), (10, 30, 28), (-22, 42, 34)), (5, 4.2, 1.8)),
    ]
    for line, radii in trunks:
        scene.paint(np.maximum(tube(p, line, radii), liver + 2), 162, 1, soft=2)
    lesion = join(ellipsoid(p, (88, 16, 10), (18, 17, 19)), ellipsoid(p, (78, 26, 20), (12, 12, 13)), 8) + scene.texture
    lesion = np.maximum(lesion, liver + 1)
    scene.paint(lesion, 66, 6, 6, soft=2.5)
    scene.paint(lesion + 7, 46, 6, 6, soft=6)
    bladder = join(ellipsoid(p, (36, 42, -14), (14, 15, 24), (24, 0, 0)), ellipsoid(p, (33, 28, 2), (7, 8, 12)), 6)
    scene.paint(bladder, 45)
    scene.paint(bladder + 1.6, 9)


def _vessels(scene: Scene) -> None:
    p = scene.p
    scene.paint(column(p, (-100, -10, 40, 100), (20, 21, 21, 17), (-17, -15, -12, -4), (10.5, 11, 12, 13)), 138, texture=3)
    for points, radii in (
        (((-8, -16, 16), (-10, 2, 12), (-8, 8, -20), (-4, 16, -60)), (3.5, 4, 4, 3)),  # superior mesenteric artery
        (((-8, -16, 30), (-10, 2, 26), (-38, -20, 16), (-76, -28, 18)), (4, 3.6, 3, 2.4)),  # coeliac trunk, splenic artery
        (((-72, -26, 12), (-30, -10, 2), (6, 6, -2), (24, 6, 8)), (4, 4.5, 6, 6.5)),  # splenic and portal vein
        (((6, 8, -2), (6, 14, -30), (8, 22, -70)), (6, 5.5, 4.5)),
        (((40, -32, -24), (26, -22, -18)), (4, 5)),  # renal veins
        (((-40, -30, -12), (-12, -4, -10), (14, -14, -10)), (4, 4, 5)),
    ):
        scene.paint(tube(p, points, radii), 148, texture=3)
    aorta = column(p, (-100, -40, 10, 60, 100), (-3, -7, -10, -10, -14), (-15, -14, -16, -20, -26), (8.2, 9.2, 10.5, 11.8, 12.2))
    scene.paint(aorta, 168, 5, 3)
    scene.paint(np.abs(aorta) - 0.5 + 2.0 * (scene.texture < 1.1), 420, 5)  # plaques
    scene.labels[(scene.labels == 5) & (aorta > 0)] = 0
