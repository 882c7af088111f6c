"""The public face: a volume and boxes go in, labels come out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import QMedSAMError
from .geometry import Box, Frame, View, Volume, extent_of
from .intensity import MODALITIES, Intensity, known_modality
from .models import Model, ModelStore
from .network import Network
from .predictor import Clock, SlicePredictor
from .strategies import STRATEGIES, Item, Options, SliceMask
from .strategies.voting import LEAST_SLICES, box_slices

#: ``progress(done, total)`` in box-slices; ``cancelled()`` is asked after every slice.
Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

#: What ``auto`` means for a volume where the model's manifest does not say otherwise; measured in ``Docs/Strategies``.
AUTO = {"PET": "vote", "CT": "vote", "MR": "vote", "": "propagate"}

#: Network pixels below which a long object is lost: strips of 3000 px were found from 2.6 (``slice``) and 5.3 (``roi``).
THIN = 4


@dataclass
class ObjectResult:
    """What became of one box.

    Attributes:
        label: value in the label array.
        name: of the box.
        voxels: that carry its label in the label array.
        volume_ml: the same in millilitres.
        covered: voxels of its own mask that a smaller box's label covers.
        confidence: predicted IoU, averaged over its slices by area; 0 for an empty mask.
        slices: how many slices its mask is on.
        crop: ``(k, j, i)`` slices of the voxels that the box can touch.
        mask_kji_crop: its own mask in ``crop`` (only with ``keep_masks``).
    """

    label: int
    name: str
    crop: Tuple[slice, slice, slice]
    voxels: int = 0
    volume_ml: float = 0.0
    covered: int = 0
    confidence: float = 0.0
    slices: int = 0
    mask_kji_crop: Optional[np.ndarray] = None


@dataclass
class Segmentation:
    """Result of :meth:`Segmenter.segment`.

    Attributes:
        labels_kji: uint8 (uint16 above 255 boxes), 0 = background. Where boxes overlap the smaller one lies on top.
        objects: one per box, in the order given.
        seconds: per stage (``prepare``, ``load``, ``frame``, ``encode``, ``decode``, ``restore``) and ``total``.
        model, modality, strategy: what was used.
        messages: sentences for the user (an assumption made, a box cut at the volume's border).
        cancelled: true when stopped early; the labels then hold what was done so far.
        cost: ``encodes`` and ``decodes`` of the network, and ``single_encodes`` and ``single_decodes``: what one look at
            every slice of every box would have taken.
        agreement_kji: with ``Options.agreement`` and ``vote``: uint8, per cent of the votes for an object (0: background
            by all views, 100: object by all, as a thin box's one view always is); the highest where boxes overlap.
    """

    labels_kji: np.ndarray
    objects: List[ObjectResult]
    model: str
    modality: str
    strategy: str
    seconds: Dict[str, float] = field(default_factory=dict)
    messages: List[str] = field(default_factory=list)
    cancelled: bool = False
    cost: Dict[str, int] = field(default_factory=dict)
    agreement_kji: Optional[np.ndarray] = None


class Segmenter:
    """Segments boxes with a model of the store; keeps the loaded networks for the next call.

    Args:
        model: a name or folder; None routes by modality.
        store: where models are looked up.
        threads: CPU threads, 0 for all.
        network: use this one instead of loading one; for tests and other engines. Without a model it gets ROI frames and
            z-scores.
    """

    def __init__(
        self,
        model: Optional[str] = None,
        store: Optional[ModelStore] = None,
        threads: int = 0,
        network: Optional[Network] = None,
    ) -> None:
        self._name, self._store, self._threads = model, store or ModelStore(), threads
        self._given = network
        self._networks: Dict[str, Network] = {}

    def segment(
        self,
        volume: Volume,
        boxes: Sequence[Box],
        modality: str = "auto",
        strategy: str = "auto",
        frame: Optional[str] = None,
        window: Optional[Tuple[float, float]] = None,
        progress: Optional[Progress] = None,
        cancelled: Optional[Cancelled] = None,
        keep_masks: bool = False,
        options: Optional[Options] = None,
    ) -> Segmentation:
        """Segment the object in every box.

        Args:
            volume: grey or RGB, 3D or one slice; not modified.
            boxes: in the volume's voxel coordinates; at least one.
            modality: a known name, or ``auto`` for the volume's own.
            strategy: ``fixed``, ``propagate``, ``vote`` or ``auto``.
            frame: ``roi`` or ``slice``; None for what the model was trained for.
            window: (width, level) that overrules the modality's.
            progress: called with done and total box-slices.
            cancelled: asked after every slice.
            keep_masks: also return every box's own mask.
            options: of the strategies.

        Raises:
            QMedSAMError: something about the input or the model that the user can mend.
        """
        clock = Clock()
        with clock.stage("total"):
            boxes = _labelled(boxes)
            messages: List[str] = []
            with clock.stage("prepare"):
                modality = _resolve_modality(volume, modality, window is not None, messages)
                model = self._model(modality)
                settings = _settings(model)
                strategy = _resolve_strategy(strategy, settings, modality, volume, boxes, messages)
                options = options or Options()
                intensity = Intensity.of(volume, modality, window)
                run = _Run(volume, boxes, keep_masks, messages, options.agreement and strategy == "vote")
                kind = frame or settings["frame"]["kind"]
                if kind not in ("roi", "slice"):
                    raise QMedSAMError(f"There is no frame '{kind}'.", "Use 'roi' or 'slice'.")
            with clock.stage("load"):
                network = self._network(model)

            def rounds(items: Sequence[Item]) -> Iterator[Tuple[SlicePredictor, List[Item]]]:
                margin = settings["frame"].get("margin", 0.3)
                for (view, square), group in _by_frame(items, kind, network.input_size, margin).items():
                    yield SlicePredictor(network, volume, view, square, intensity, settings["normalization"], clock), group

            run.total = sum(box_slices(i, options) if strategy == "vote" else len(i.slices) for i in run.items)
            finished = STRATEGIES[strategy](rounds, run.items, run.ticker(progress, cancelled), options)
            run.finish()
        groups = _by_frame(run.items, kind, network.input_size, settings["frame"].get("margin", 0.3))
        single = sum(len({index for item in group for index in item.slices}) for group in groups.values())
        if finished:
            run.explain_empty(groups)
        return Segmentation(
            run.labels_kji,
            run.objects,
            model.name if model else "",
            modality,
            strategy,
            clock.seconds,
            messages,
            not finished,
            {
                "encodes": clock.encodes,
                "decodes": clock.decodes,
                "single_encodes": single,
                "single_decodes": sum(len(item.slices) for item in run.items),
            },
            run.agreement_kji,
        )

    def _model(self, modality: str) -> Optional[Model]:
        if self._given is not None and self._name is None:
            return None
        return self._store.get(self._name) if self._name else self._store.route(modality)

    def _network(self, model: Optional[Model]) -> Network:
        if self._given is not None:
            return self._given
        assert model is not None
        key = model.name + "".join(sorted(model.manifest.files.values()))  # a model may be replaced during a session
        if key not in self._networks:
            from .network.openvino_network import OpenVINONetwork

            self._networks[key] = OpenVINONetwork(model, self._threads)
        return self._networks[key]


def _settings(model: Optional[Model]) -> Dict[str, Any]:
    """What the engine needs of a manifest; plain defaults for a network given without one."""
    if model is None:
        return {"normalization": {"kind": "zscore"}, "frame": {"kind": "roi", "margin": 0.3}, "strategies": {}}
    manifest = model.manifest
    return {"normalization": manifest.normalization, "frame": manifest.frame, "strategies": manifest.strategies}


def _labelled(boxes: Sequence[Box]) -> List[Box]:
    """Boxes with labels: given ones kept, the others numbered by position."""
    boxes = list(boxes)
    if not boxes:
        raise QMedSAMError("There is no box to segment.", "Draw one, or give one with --box or --boxes.")
    if len(boxes) > np.iinfo(np.uint16).max:
        raise QMedSAMError(f"{len(boxes)} boxes are more than a label map can hold.", "Segment them in several runs.")
    numbered = [replace(box, label=box.label or n) for n, box in enumerate(boxes, start=1)]
    if not all(0 < box.label <= np.iinfo(np.uint16).max for box in numbered):
        raise QMedSAMError("The label of a box is not a number from 1 to 65535.", "Leave it out to number the boxes.")
    if len({box.label for box in numbered}) < len(numbered):
        raise QMedSAMError("Two boxes have the same label.", "Give every box a label of its own, or none at all.")
    return [replace(box, name=box.name or f"Segment_{box.label}") for box in numbered]


def _resolve_modality(volume: Volume, asked: str, windowed: bool, messages: List[str]) -> str:
    """The modality to work with; says so when it had to be assumed. Empty means "none known"."""
    if asked != "auto":
        return known_modality(asked)
    known = MODALITIES.get(volume.modality.strip().upper(), "")
    if known or volume.is_rgb or volume.array_kji.dtype == np.uint8:
        return known  # 8 bit is taken as it is, and holds no HU to know CT by
    named = f"names the unknown modality '{volume.modality}'" if volume.modality else "names no modality"
    if (volume.array_kji <= -500).any():
        # Also with a window of the user's: the model and the strategy depend on the modality.
        taken = "" if windowed else ", windowed as abdomen (W 400, L 40)"
        messages.append(f"The file {named}; values below -500 look like CT{taken}.")
        return "CT"
    if not windowed:
        messages.append(f"The file {named}; grey values are scaled between their 0.5 and 99.5 percentile.")
    return ""


def _resolve_strategy(
    asked: str, settings: Dict[str, Any], modality: str, volume: Volume, boxes: Sequence[Box], messages: List[str]
) -> str:
    if asked != "auto" and asked not in STRATEGIES:
        raise QMedSAMError(f"There is no strategy '{asked}'.", "Use one of: auto, " + ", ".join(STRATEGIES) + ".")
    if volume.array_kji.shape[0] == 1:
        return "fixed"  # one slice: nothing to walk through
    if asked != "auto":
        return asked
    if all(_thinnest(box, volume)[1] == 1 for box in boxes):
        return "fixed"
    chosen = strategy_for(modality, settings["strategies"])
    if not modality:
        messages.append(f"The strategy for an unknown modality is '{chosen}'; name the modality to get its own.")
    return chosen


def strategy_for(modality: str, of_model: Mapping[str, str]) -> str:
    """What ``auto`` takes for volumes of a modality (``""``: unknown): the model's manifest first."""
    return of_model.get(modality) or AUTO.get(modality, AUTO[""])


def _thinnest(box: Box, volume: Volume) -> Tuple[int, int]:
    """The axis along which a box is on the fewest slices (k before j before i), and on how many."""
    counts = [len(box.slices(axis, size)) for axis, size in enumerate(volume.shape_ijk)]
    axis = min((2, 1, 0), key=counts.__getitem__)
    return axis, counts[axis]


def _by_frame(items: Sequence[Item], kind: str, size: int, margin: float) -> Dict[Tuple[View, Frame], List[Item]]:
    """Items by the view and the frame that they share."""
    groups: Dict[Tuple[View, Frame], List[Item]] = {}
    for item in items:
        if kind == "slice":
            frame = Frame.whole_slice(item.view, size)
        else:
            x, y = item.view.in_plane
            corners = item.box.corners_ijk
            low, high = corners.min(axis=0), corners.max(axis=0)
            # Nothing lies beyond the image: the network's pixels are for what does.
            shown = item.view.clipped((low[x], low[y], high[x], high[y]))
            frame = Frame.around(shown, item.view, size, margin)
        groups.setdefault((item.view, frame), []).append(item)
    return groups


class _Run:
    """Boxes on their way into one label array."""

    def __init__(self, volume: Volume, boxes: List[Box], keep_masks: bool, messages: List[str], agreement: bool) -> None:
        self.volume, self._messages = volume, messages
        top = max(box.label for box in boxes)
        self.labels_kji = np.zeros(volume.array_kji.shape[:3], np.uint8 if top <= 255 else np.uint16)
        self.agreement_kji = np.zeros(self.labels_kji.shape, np.uint8) if agreement else None
        # Smaller boxes lie on top (a lesion drawn inside an organ), whatever the order of drawing and of computing.
        self._size_of = np.full(top + 1, np.inf)
        for box in boxes:
            self._size_of[box.label] = box.volume_voxels
        self.objects = [self._object(box, keep_masks, messages) for box in boxes]
        self.items = []
        for box, out in zip(boxes, self.objects):
            # A box drawn on a coronal or sagittal slice or two is segmented there: from the side it is a line.
            axis, count = _thinnest(box, volume)
            view = View.of(volume, axis if count < LEAST_SLICES else 2)
            self.items.append(Item(box, view, self._writer(box, view, out)))
        self._voxel_ml = abs(np.linalg.det(volume.ijk_to_ras[:3, :3])) / 1000
        self.total = self.done = 0

    def _object(self, box: Box, keep_masks: bool, messages: List[str]) -> ObjectResult:
        corners, shape = box.corners_ijk, np.array(self.volume.shape_ijk)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (high <= -0.5).any() or (low >= shape - 0.5).any():
            raise QMedSAMError(
                f"The box '{box.name}' lies outside the image "
                f"(voxels {np.round(low).astype(int).tolist()} to {np.round(high).astype(int).tolist()}; "
                f"the image has {shape.tolist()}).",
                "Move it onto the image; voxel indices start at 0.",
            )
        first = np.maximum(np.ceil(low - 1e-6), 0).astype(int)
        stop = np.minimum(np.floor(high + 1e-6), shape - 1).astype(int) + 1
        if (stop <= first).any():
            axis = "ijk"[int(np.argmax(stop <= first))]
            raise QMedSAMError(
                f"The box '{box.name}' is thinner than a voxel along {axis} and contains no voxel centre.",
                "Make it at least one voxel thick.",
            )
        beyond = (low < -1) | (high > shape)
        if beyond.any():
            axes = [f"{'ijk'[n]} ({int(np.ceil(low[n]))} to {int(np.floor(high[n]))}, not 0 to {shape[n] - 1})" for n in range(3)]
            along = " and ".join(text for text, one in zip(axes, beyond) if one)
            message = f"The box '{box.name}' reaches beyond the image along {along} and was cut at its border."
            if np.prod((stop - first) / (high - low)) < 1 / 3:
                message += " Most of it lies outside."
            messages.append(message)
        crop = tuple(slice(int(a), int(b)) for a, b in zip(first[::-1], stop[::-1]))
        out = ObjectResult(box.label, box.name, crop)  # type: ignore[arg-type]
        if keep_masks:
            out.mask_kji_crop = np.zeros([c.stop - c.start for c in crop], bool)
        return out

    def _writer(self, box: Box, view: View, out: ObjectResult) -> Callable[[SliceMask], None]:
        x_axis, y_axis = view.in_plane
        starts = [part.start for part in out.crop[::-1]]  # ijk

        def emit(found: SliceMask) -> None:
            if found.agreement is not None and self.agreement_kji is not None:
                region = view.slice_of(self.agreement_kji, found.index)
                x0, y0, x1, y1 = found.pixels
                np.maximum(region[y0:y1, x0:x1], found.agreement, out=region[y0:y1, x0:x1])
            extent = extent_of(found.mask)
            if extent is None:
                return
            # Only the part with the object: looking up sizes for a whole rectangle took a third of a long run's time.
            u0, v0, u1, v1 = (int(np.ceil(edge)) for edge in extent)
            mask = found.mask[v0:v1, u0:u1]
            x, y = found.pixels[0] + u0, found.pixels[1] + v0
            area = int(np.count_nonzero(mask))
            out.slices += 1
            out.voxels += area
            out.confidence += found.confidence * area
            region = view.slice_of(self.labels_kji, found.index)[y : y + v1 - v0, x : x + u1 - u0]
            free = mask
            if region.any():  # looking up sizes costs ten times as much as painting
                free = mask & (self._size_of[region] >= self._size_of[box.label])
            region[free] = box.label
            if out.mask_kji_crop is not None:
                own = view.slice_of(out.mask_kji_crop, found.index - starts[view.axis])
                x, y = x - starts[x_axis], y - starts[y_axis]
                own[y : y + v1 - v0, x : x + u1 - u0] = mask

        return emit

    def ticker(self, progress: Optional[Progress], cancelled: Optional[Cancelled]) -> Callable[[int], bool]:
        def tick(count: int) -> bool:
            self.done += count
            if progress:
                progress(self.done, self.total)
            return bool(cancelled and cancelled())

        return tick

    def explain_empty(self, groups: Mapping[Tuple[View, Frame], Sequence[Item]]) -> None:
        """Say of boxes too thin for the network's pixels why nothing was found in them."""
        empty = {out.label for out in self.objects if not out.slices}
        for (_, frame), group in groups.items():
            for item in group:
                u0, v0, u1, v1 = frame.to_network(item.rectangle(item.slices[len(item.slices) // 2]))
                thin = max(min(u1 - u0, v1 - v0), 0.0)
                if item.box.label in empty and thin < THIN:
                    self._messages.append(
                        f"Nothing was found in the box '{item.box.name}': the network sees it {thin:.1f} pixels thin. "
                        "Use the frame 'roi', or split a long box."
                    )

    def finish(self) -> None:
        for out in self.objects:
            own = out.voxels
            out.confidence = out.confidence / own if own else 0.0
            # slice by slice: comparing a whole crop would add a byte per voxel to the peak
            out.voxels = sum(int(np.count_nonzero(plane == out.label)) for plane in self.labels_kji[out.crop])
            out.covered = own - out.voxels
            out.volume_ml = out.voxels * self._voxel_ml
