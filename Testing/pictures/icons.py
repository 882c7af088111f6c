"""PNG renders of the icons' SVG sources (both under ``QMedSAMSegment/Resources/Icons``).

python Testing/pictures/icons.py
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "QMedSAMSegment" / "Resources" / "Icons"

#: PNG, source, side in pixels. An effect's icon is drawn at 21 px; 42 serves screens of twice the density.
RENDERS = (
    ("QMedSAMEffect.png", "QMedSAMEffect.svg", 42),
    ("QMedSAMEffectDark.png", "QMedSAMEffectDark.svg", 42),
    ("QMedSAMSegment.png", "QMedSAMSegment.svg", 128),
)


def render(source: Path, target: Path, side: int) -> None:
    """One SVG as a square PNG."""
    from PySide6 import QtCore, QtGui, QtSvg

    image = QtGui.QImage(side, side, QtGui.QImage.Format_ARGB32)
    image.fill(0)
    painter = QtGui.QPainter(image)
    QtSvg.QSvgRenderer(str(source)).render(painter, QtCore.QRectF(0, 0, side, side))
    painter.end()
    assert image.save(str(target))


def main() -> None:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from PySide6 import QtGui

    application = QtGui.QGuiApplication.instance() or QtGui.QGuiApplication([])
    for target, source, side in RENDERS:
        render(FOLDER / source, FOLDER / target, side)
    del application


if __name__ == "__main__":
    main()
