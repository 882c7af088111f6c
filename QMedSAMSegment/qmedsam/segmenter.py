"""The public face: a volume and boxes go in, labels come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import QMedSAMError, says_what_is_missing
from .frames import Frame
from .geometry import Box, View, Volume
from .intensity import MODALITIES, Intensity, known_modality, looks_like_ct
from .models import Model, ModelStore
from .network import Network
from .painting import Cancelled, ObjectResult, Progress, Run, labelled, thinnest
from .predictor import Clock, SlicePredictor
from .strategies import STRATEGIES, Item, Options
from .strategies.voting import box_slices

#: Objects that a result lists on a screen.
_LISTED = 12

#: What ``auto`` means for a volume where the model's manifest does not say otherwise; measured in ``Docs/Evidence/Strategies``.
AUTO = {"PET": "vote", "CT": "vote", "MR": "vote", "": "propagate"}

#: Projections and photographs: slices of one image are frames in time. Nothing is to be followed from one to the next, and
#: ``propagate``, which ends objects before the box does, loses the first and last ones (12 equal frames: DSC 0.872, alone 0.996).
FRAMES_IN_TIME = ("XRay", "Mammography", "Endoscopy", "Dermoscopy", "Fundus")


@dataclass(repr=False)
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

    labels_kji: np.ndarray = field(repr=False)
    objects: List[ObjectResult]
    model: str
    modality: str
    strategy: str
    seconds: Dict[str, float] = field(default_factory=dict)
    messages: List[str] = field(default_factory=list)
    cancelled: bool = False
    cost: Dict[str, int] = field(default_factory=dict)
    agreement_kji: Optional[np.ndarray] = field(default=None, repr=False)

    def __repr__(self) -> str:
        """One line for each object and note: arrays say nothing on a screen."""
        size = " x ".join(str(n) for n in self.labels_kji.shape[::-1])
        about = ", ".join(filter(None, [self.model, self.modality or "no modality", self.strategy]))
        lines = [f"Segmentation of {size} voxels ({about})"]
        for one in self.objects[:_LISTED]:
            ml = "" if len(self.labels_kji) == 1 else f" ({one.volume_ml:.2f} ml)"  # a picture has no thickness
            lines.append(f"  {one.label} {one.name}: {one.voxels} voxels{ml}, confidence {one.confidence:.2f}")
        if len(self.objects) > _LISTED:
            lines.append(f"  and {len(self.objects) - _LISTED} more")
        return "\n".join([*lines, *(f"  Note: {message}" for message in self.messages)])

    @property
    def errors(self) -> List[str]:
        """Why boxes could not be segmented, one sentence each; the others were."""
        return [one.error for one in self.objects if one.error]

    def written(self, boxes: Sequence[Box]) -> Tuple[List[Box], List[Tuple[int, str, Optional[Tuple[float, float, float]]]]]:
        """Of the boxes (in the order given) those that could be segmented, and their labels, names and colours for a writer."""
        good = [(one, box) for one, box in zip(self.objects, boxes) if not one.error]
        return [box for _, box in good], [(one.label, one.name, box.color) for one, box in good]


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

    @says_what_is_missing
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

        Returns:
            The labels, and what became of every box. One that cannot be segmented (outside the image, thinner than a voxel) is
            named there and costs the others nothing.

        Raises:
            QMedSAMError: something about the input or the model that the user can mend; or no box can be segmented.
        """
        clock = Clock()
        with clock.stage("total"):
            boxes = labelled(boxes)
            messages: List[str] = list(volume.notes)
            with clock.stage("prepare"):
                modality = _resolve_modality(volume, modality, window is not None, messages)
                model = self._model(modality, len(volume.array_kji) > 1)
                settings = _settings(model)
                run = Run(volume, boxes, keep_masks, messages)
                strategy = _resolve_strategy(strategy, settings, modality, volume, run.boxes, messages)
                options = options or Options()
                intensity = Intensity.of(volume, modality, window)
                if options.agreement and strategy == "vote":
                    run.keep_agreement()
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
        doubt = getattr(network, "doubt", "")  # of a network that compares itself with a reference answer
        if doubt:
            messages.append(doubt)
        result = Segmentation(
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
        run.forget()
        return result

    def _model(self, modality: str, is_3d: bool) -> Optional[Model]:
        if self._given is not None and self._name is None:
            return None
        return self._store.get(self._name) if self._name else self._store.route(modality, is_3d)

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


def _resolve_modality(volume: Volume, asked: str, windowed: bool, messages: List[str]) -> str:
    """The modality to work with; says so when it had to be assumed. Empty means "none known"."""
    if asked != "auto":
        return known_modality(asked)
    known = MODALITIES.get(volume.modality.strip().upper(), "")
    if known or volume.is_rgb or volume.array_kji.dtype == np.uint8:
        return known  # 8 bit is taken as it is, and holds no HU to know CT by
    named = f"names the unknown modality '{volume.modality}'" if volume.modality else "names no modality"
    ct = looks_like_ct(volume.array_kji)
    if ct:
        # Also with a window of the user's: the model and the strategy depend on the modality.
        taken = "" if windowed else ", windowed as abdomen (W 400, L 40)"
        messages.append(f"The file {named}; values below -500 look like CT{taken}.")
        return "CT"
    if ct is None:
        named += "; some values lie below -500 as in CT, but the others do not look like it (if it is one, name it)"
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
    if all(thinnest(box, volume)[1] == 1 for box in boxes):
        return "fixed"
    if (volume.is_rgb or modality in FRAMES_IN_TIME) and modality not in settings["strategies"]:
        messages.append("The slices are taken for frames in time, each segmented by itself; name a strategy to get another.")
        return "fixed"
    chosen = strategy_for(modality, settings["strategies"])
    if not modality:
        messages.append(f"The strategy for an unknown modality is '{chosen}'; name the modality to get its own.")
    return chosen


def strategy_for(modality: str, of_model: Mapping[str, str]) -> str:
    """What ``auto`` takes for volumes of a modality (``""``: unknown): the model's manifest first."""
    return of_model.get(modality) or AUTO.get(modality, AUTO[""])


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
