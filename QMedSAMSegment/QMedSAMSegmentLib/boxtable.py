"""The effect's table of boxes."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

from qmedsam import QMedSAMError

from .boxes import SEGMENT_ATTRIBUTE, boundRois, boxFromRoi, updateColor
from .signals import connected

SEGMENT, SIZE, SLICES = range(3)
#: Rows that are seen at most; more are scrolled.
ROWS = 3


class BoxTable:
    """Rows of ROI nodes: the segment's name and colour with a tick for visibility, size, and how many slices it covers.

    Args:
        table: ``QTableWidget`` of three columns.
        chosen: called with the ROI node of the row that the user chooses.
    """

    def __init__(self, table: Any, chosen: Callable[[Any], None]) -> None:
        import qt

        self._table, self._chosen = table, chosen
        self.rois: List[Any] = []
        self.slices = 0  # in all boxes
        header = table.horizontalHeader()
        header.setSectionResizeMode(SEGMENT, qt.QHeaderView.Stretch)
        for column in (SIZE, SLICES):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        compact(table)
        connected(table, "itemChanged(QTableWidgetItem*)", self._onItemChanged)
        connected(table, "itemSelectionChanged()", self._onSelectionChanged)

    @property
    def current(self) -> Optional[Any]:
        """The chosen box."""
        row = self._table.currentRow()
        return self.rois[row] if 0 <= row < len(self.rois) else None

    def fill(self, segmentationNode: Any, volumeNode: Any, selectedSegmentId: str) -> None:
        """Show the boxes of a segmentation; keeps the chosen one, else chooses the first of the selected segment."""
        import qt

        previous = self.current
        self.rois = boundRois(segmentationNode)
        slices = [_slices(roiNode, volumeNode) for roiNode in self.rois]
        self.slices = sum(slices)
        wasBlocked = self._table.blockSignals(True)
        self._table.setRowCount(len(self.rois))
        for row, roiNode in enumerate(self.rois):
            updateColor(roiNode)
            segment = segmentationNode.GetSegmentation().GetSegment(roiNode.GetAttribute(SEGMENT_ATTRIBUTE))
            name = qt.QTableWidgetItem(segment.GetName())
            name.setCheckState(qt.Qt.Checked if _visible(roiNode) else qt.Qt.Unchecked)
            name.setIcon(_swatch(segment.GetColor()))
            size = " x ".join(f"{length:.0f}" for length in roiNode.GetSize())
            for column, item in enumerate((name, qt.QTableWidgetItem(size), qt.QTableWidgetItem(str(slices[row] or "-")))):
                item.setToolTip(roiNode.GetName())
                self._table.setItem(row, column, item)
        self._choose(previous, selectedSegmentId)
        self._table.blockSignals(wasBlocked)
        self._table.setVisible(bool(self.rois))
        fitHeight(self._table, ROWS)

    def choose(self, roiNode: Any) -> None:
        """Make a box the chosen one."""
        wasBlocked = self._table.blockSignals(True)
        self._table.setCurrentCell(self.rois.index(roiNode), SEGMENT)
        self._table.blockSignals(wasBlocked)

    def _choose(self, previous: Any, selectedSegmentId: str) -> None:
        ofSegment = [row for row, roi in enumerate(self.rois) if roi.GetAttribute(SEGMENT_ATTRIBUTE) == selectedSegmentId]
        if previous in self.rois and self.rois.index(previous) in ofSegment:
            self._table.setCurrentCell(self.rois.index(previous), SEGMENT)
        elif ofSegment:
            self._table.setCurrentCell(ofSegment[0], SEGMENT)
        else:
            self._table.clearSelection()
            self._table.setCurrentCell(-1, -1)

    def _onItemChanged(self, item: Any) -> None:
        import qt

        if item.column() == SEGMENT and item.row() < len(self.rois):
            display = self.rois[item.row()].GetDisplayNode()
            if display is not None:
                display.SetVisibility(item.checkState() == qt.Qt.Checked)

    def _onSelectionChanged(self) -> None:
        if self.current is not None:
            self._chosen(self.current)


def _slices(roiNode: Any, volumeNode: Any) -> int:
    """Slices that a run over a box takes; none of one that is not placed yet, or without a volume."""
    if volumeNode is None or volumeNode.GetImageData() is None:
        return 0
    try:
        return len(boxFromRoi(roiNode, volumeNode).slices(2, volumeNode.GetImageData().GetDimensions()[2]))
    except QMedSAMError:
        return 0


def _visible(roiNode: Any) -> bool:
    display = roiNode.GetDisplayNode()
    return display is not None and bool(display.GetVisibility())


def _swatch(color: Any) -> Any:
    import qt

    pixmap = qt.QPixmap(12, 12)
    pixmap.fill(qt.QColor(*(round(255 * channel) for channel in color)))
    icon = qt.QIcon(pixmap)
    icon.addPixmap(pixmap, qt.QIcon.Selected)  # else the style tints it in the chosen row
    return icon


def compact(table: Any) -> None:
    """Rows and heading as high as their text, rows without numbers."""
    rows, high = table.verticalHeader(), table.fontMetrics().height() + 6
    rows.hide()
    rows.setMinimumSectionSize(1)
    rows.setDefaultSectionSize(high)
    table.horizontalHeader().setFixedHeight(high)


def fitHeight(table: Any, most: int) -> None:
    """Make a :func:`compact` table as high as its rows, of which ``most`` are seen at once."""
    lines = 1 + min(table.rowCount, most)
    table.setFixedHeight(lines * table.verticalHeader().defaultSectionSize + 2 * table.frameWidth)
