"""The public face: a volume and boxes go in, labels come out."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from .choices import by_frame, resolved_modality, resolved_strategy, settings_of
from .correction import Correction, correct
from .corrector import Corrector, holding
from .errors import QMedSAMError, says_what_is_missing
from .geometry import Box, Volume
from .intensity import Intensity
from .kept import Kept
from .models import Model, ModelStore
from .network import Network
from .network.runtime import give_back
from .painting import Cancelled, ObjectResult, Progress, Run, labelled, repaint
from .predictor import ALONE_BYTES, CACHE_BYTES, Clock, SlicePredictor
from .sharing import failed, groups_of, joined, part_of
from .strategies import STRATEGIES, Item, Options, Rounds
from .strategies.voting import box_slices

#: Objects that a result lists on a screen.
_LISTED = 12


@dataclass(repr=False)
class Segmentation:
    """Result of :meth:`Segmenter.segment`.

    Attributes:
        labels_kji: uint8 (uint16 above 255 boxes), 0 = background. Where boxes overlap the smaller one lies on top.
        objects: one per box, in the order given.
        seconds: per stage (``prepare``, ``load``, ``frame``, ``encode``, ``decode``, ``restore``) and ``total``;
            ``correct`` after it, where boxes have strokes.
        model, modality, strategy: what was used; several models are named with commas between them.
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
            ml = f" ({one.volume_ml:.2f} ml)" if self.has_ml else ""
            lines.append(f"  {one.label} {one.name}: {one.voxels} voxels{ml}, confidence {one.confidence:.2f}")
        if len(self.objects) > _LISTED:
            lines.append(f"  and {len(self.objects) - _LISTED} more")
        return "\n".join([*lines, *(f"  Note: {message}" for message in self.messages)])

    @property
    def has_ml(self) -> bool:
        """Whether volumes can be told: a picture has no thickness."""
        return len(self.labels_kji) > 1

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
        threads: CPU threads, 0 for all: of a small network as many streams of one thread each, with the same masks.
        network: use this one instead of loading one; for tests and other engines. Without a model it gets ROI frames and
            z-scores.
        device: ``CPU``, or what OpenVINO offers beside it (``GPU``, ``NPU``, ``AUTO``): never tested on anything but a CPU, and
            refused where its answer differs from the model's own.
    """

    def __init__(
        self,
        model: Optional[str] = None,
        store: Optional[ModelStore] = None,
        threads: int = 0,
        network: Optional[Network] = None,
        device: str = "CPU",
    ) -> None:
        self._name, self._store, self._threads, self._device = model, store or ModelStore(), threads, device
        self._given = network
        self._networks: Dict[str, Network] = {}
        self._loading = threading.Lock()
        self._warming = threading.Lock()
        self._warm: Dict[Tuple[Any, ...], SlicePredictor] = {}

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
            shares = self._shares(volume, boxes, modality, window)
            if len(shares) > 1:
                settings_of_all = (modality, strategy, frame, window)
                return self._by_several(shares, volume, boxes, settings_of_all, progress, cancelled, keep_masks, options)
            keep_all, keep_masks = keep_masks, keep_masks or any(box.strokes for box in boxes)
            messages: List[str] = list(volume.notes)
            with clock.stage("prepare"):
                modality = resolved_modality(volume, modality, window is not None, messages)
                model, candidate = self._answering(modality, len(volume.array_kji) > 1, boxes[0])
                if candidate != boxes[0].candidate:
                    boxes = [replace(box, candidate=box.candidate - 1) for box in boxes]
                settings = settings_of(model)
                self._tell_of_taught(model, boxes, messages)
                run = Run(volume, boxes, keep_masks, messages)
                strategy = resolved_strategy(strategy, settings, modality, volume, run.boxes, messages)
                options = options or Options()
                intensity = Intensity.of(volume, modality, window)
                if options.agreement and strategy == "vote":
                    run.keep_agreement()
                kind = frame or settings["frame"]["kind"]
                if kind not in ("roi", "slice"):
                    raise QMedSAMError(f"There is no frame '{kind}'.", "Use 'roi' or 'slice'.")
            with clock.stage("load"):
                network = self._network(model)

            kept = Kept()

            def groups(items: Sequence[Item]) -> Iterator[Tuple[SlicePredictor, List[Item]]]:
                margin = settings["frame"].get("margin", 0.3)
                for (view, square), group in by_frame(items, kind, network.input_size, margin).items():
                    cached = CACHE_BYTES // network.streams if len(group) > 1 else ALONE_BYTES
                    seen = network, volume, view, square, intensity, settings["normalization"], clock, cached, kept
                    later = {index for item in group for index in item.later}
                    yield SlicePredictor(*seen, later, any(item.again for item in group)), group

            run.total = sum(box_slices(i, options, network.hinted) if strategy == "vote" else len(i.slices) for i in run.items)
            rounds = Rounds(groups, network.streams, network.hinted, kept)
            finished = STRATEGIES[strategy](rounds, run.items, run.ticker(progress, cancelled), options)
            run.finish()
        framed = by_frame(run.items, kind, network.input_size, settings["frame"].get("margin", 0.3))
        single = sum(len({index for item in group for index in item.slices}) for group in framed.values())
        if finished:
            run.explain_empty(framed)
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
        kept.clear()
        give_back()
        if finished and any(box.strokes for box in boxes):
            self._heard(result, volume, boxes, frame, window, keep_all)
        return result

    def _heard(
        self,
        result: Segmentation,
        volume: Volume,
        boxes: Sequence[Box],
        frame: Optional[str],
        window: Optional[Tuple[float, float]],
        keep_masks: bool,
    ) -> None:
        """Correct the objects whose boxes have strokes, and paint all anew, smaller boxes on top."""
        for box, found in zip(boxes, result.objects):
            if not box.strokes or found.error:
                continue
            present_kji = np.zeros(result.labels_kji.shape, bool)
            present_kji[found.crop] = found.mask_kji_crop
            done = self.correct(volume, box, present_kji, result.modality or "auto", frame, window)
            found.crop, found.mask_kji_crop = done.crop, done.mask_kji_crop
            result.messages.extend(message for message in done.messages if message not in result.messages)
            result.seconds["correct"] = result.seconds.get("correct", 0.0) + done.seconds["total"]
        repaint(result.labels_kji, result.objects, boxes, volume)
        if not keep_masks:
            for found in result.objects:
                found.mask_kji_crop = None

    @says_what_is_missing
    def correct(
        self,
        volume: Volume,
        box: Box,
        present_kji: Optional[np.ndarray] = None,
        modality: str = "auto",
        frame: Optional[str] = None,
        window: Optional[Tuple[float, float]] = None,
        shown: Optional[Tuple[int, int]] = None,
        kept: Collection[Tuple[int, int]] = (),
        candidate: int = 0,
        progress: Optional[Progress] = None,
        cancelled: Optional[Cancelled] = None,
    ) -> Correction:
        """Go on from an object with the strokes of a user.

        Slices with a stroke that the object does not obey yet, and the last stroke's, are asked anew, told of the mask there and
        of all strokes on them; their neighbours follow (:mod:`qmedsam.carrying`). Every stroke holds: what it adds is in,
        what it takes away is out, and the later one wins. The slices' embeddings stay for the next call on the same volume
        (32 MiB a view at most; :meth:`forget`), so that one more stroke costs a decoder call.

        Args:
            volume, modality, frame, window, progress, cancelled: as for :meth:`segment`.
            box: with all ``strokes`` so far, in order. One outside makes the box larger.
            present_kji: the object as it is, boolean, of the volume's shape, wherever it comes from; None: what the box gives.
            shown: ``(axis, index)``: answer this slice alone, for the one in view.
            kept: slices that nothing but strokes may change, ``(axis, index)``.
            candidate: 0 for the surest answer on the last stroke's slice, 1 and 2 for the others.

        Raises:
            QMedSAMError: as :meth:`segment`, or the object is not of the volume's shape.
        """
        clock = Clock()
        with clock.stage("total"):
            shape = volume.array_kji.shape[:3]
            if present_kji is None:
                plain = self.segment(volume, [replace(box, strokes=())], modality, "auto", frame, window, keep_masks=True)
                present_kji = np.zeros(shape, bool)
                present_kji[plain.objects[0].crop] = plain.objects[0].mask_kji_crop
            elif present_kji.shape != shape:
                raise QMedSAMError(
                    f"The object has the shape {present_kji.shape}, its volume {shape}.", "Give it on the volume's grid."
                )
            messages: List[str] = []
            modality = resolved_modality(volume, modality, window is not None, messages)
            model = self._corrects(modality, len(volume.array_kji) > 1, box)
            network, settings = self._network(model), settings_of(model)
            intensity = Intensity.of(volume, modality, window)
            kind, margin = frame or settings["frame"]["kind"], settings["frame"].get("margin", 0.3)
            corrector = Corrector(volume, holding(box, box.strokes), np.asarray(present_kji, bool), kept)

            def predictor_of(item: Item) -> SlicePredictor:
                ((view, square),) = by_frame([item], kind, network.input_size, margin)
                key = (id(volume.array_kji), id(network), view.axis, square, intensity)
                with self._warming:  # a correction that was given up may still be on its way when the next stroke comes
                    if self._warm and next(iter(self._warm))[:2] != key[:2]:
                        self._warm.clear()
                    predictor = self._warm.get(key)
                    if predictor is None:
                        predictor = SlicePredictor(network, volume, view, square, intensity, settings["normalization"], clock)
                        while len(self._warm) >= 3:
                            self._warm.pop(next(iter(self._warm)))
                        self._warm[key] = predictor
                    predictor.clock = clock
                    return predictor

            def tick(done: int, total: int) -> bool:
                if progress:
                    progress(done, total)
                return bool(cancelled and cancelled())

            heard: Tuple[float, ...] = ()
            finished = True
            if network.hinted:
                heard, finished = correct(corrector, predictor_of, candidate, shown, tick)
            else:
                corrector.settle()
                messages.append("This model does not listen to strokes: they changed their own voxels alone.")
        confidence, candidates = (heard[0], heard[1:]) if heard else (0.0, ())
        name = model.name if model else ""
        about = (confidence, candidates, messages, clock.seconds, not finished, name)
        return Correction(corrector.crop, corrector.mask, corrector.box, *about)

    def forget(self) -> None:
        """Let go of the volume that was corrected last and of its slices' embeddings."""
        with self._warming:
            self._warm.clear()

    def _corrects(self, modality: str, is_3d: bool, box: Box) -> Optional[Model]:
        """The model that would segment, or where it does not listen to strokes and was not asked for by name, one that does."""
        model = self._model(modality, is_3d, box)
        if model is None or self._name or model.manifest.prompts.get("hints"):
            return model
        others = [one for one in self._store.models() if one.manifest.prompts.get("hints") and not one.manifest.targets]
        return next((one for one in others if {modality, "*"} & set(one.manifest.modalities)), model)

    def _answering(self, modality: str, is_3d: bool, box: Box) -> Tuple[Optional[Model], int]:
        """The model that is asked about a box, and which of its answers is taken: a model that has one answer is followed by the
        answers of one that listens to strokes."""
        model = self._model(modality, is_3d, box)
        if not box.candidate or model is None:
            return model, box.candidate
        other = self._corrects(modality, is_3d, box)
        return (model, box.candidate) if other is None or other.name == model.name else (other, box.candidate - 1)

    def _shares(
        self, volume: Volume, boxes: Sequence[Box], modality: str, window: Optional[Tuple[float, float]]
    ) -> List[List[int]]:
        """Which boxes one model answers together."""
        everything = [list(range(len(boxes)))]
        if self._given is not None or self._name is not None:
            return everything
        taught = [model for model in self._store.models() if model.manifest.targets]
        if not taught and not any(box.candidate for box in boxes):
            return everything
        modality = resolved_modality(volume, modality, window is not None, [])
        is_3d = len(volume.array_kji) > 1
        chosen: Dict[Tuple[str, str, bool], str] = {}
        wanted = [(box.target or box.name, box.code, box.candidate > 0) for box in boxes]
        for box, (name, code, another) in zip(boxes, wanted):  # every answer reads the manifests
            if (name, code, another) not in chosen:
                known = another or any(model.was_taught(name, code) for model in taught)
                found = self._answering(modality, is_3d, box)[0] if known else None
                named = found is not None and (another or bool(found.manifest.targets))
                chosen[name, code, another] = found.name if named and found is not None else ""
        return groups_of([chosen[one] for one in wanted])

    def _by_several(
        self,
        shares: Sequence[Sequence[int]],
        volume: Volume,
        boxes: Sequence[Box],
        settings: Tuple[str, str, Optional[str], Optional[Tuple[float, float]]],
        progress: Optional[Progress],
        cancelled: Optional[Cancelled],
        keep_masks: bool,
        options: Optional[Options],
    ) -> Segmentation:
        """Every model its own boxes, one model after the other."""
        parts: List[Tuple[Sequence[int], Segmentation]] = []
        lost: Dict[int, ObjectResult] = {}
        messages: List[str] = []
        stopped = False
        done = 0
        errors: List[QMedSAMError] = []
        for indices in shares:
            own = [boxes[index] for index in indices]
            told = part_of(progress, done / len(boxes), len(indices) / len(boxes))
            done += len(indices)
            reason = "It was not reached: the run was stopped." if stopped else ""
            if not stopped:
                try:
                    found = self.segment(volume, own, *settings, told, cancelled, True, options)
                    parts.append((indices, found))
                    stopped = found.cancelled
                    continue
                except QMedSAMError as error:  # none of its boxes lies on the image; the others' do
                    errors.append(error)
                    reason = str(error)
                    messages.append(f"{error.message} The others were segmented.")
            lost.update(zip(indices, failed(own, reason, keep_masks)))
        if not parts:
            raise errors[0]
        result = Segmentation(**joined(parts, boxes, volume, keep_masks, lost))
        result.messages += messages
        return result

    def _tell_of_taught(self, model: Optional[Model], boxes: Sequence[Box], messages: List[str]) -> None:
        if model is not None and model.manifest.targets and self._name is None:
            names = ", ".join(dict.fromkeys(f"'{box.target or box.name}'" for box in boxes))
            messages.append(
                f"{names}: answered by the model '{model.name}', which was taught this. Choose another one to go back."
            )

    def _model(self, modality: str, is_3d: bool, box: Box) -> Optional[Model]:
        if self._given is not None and self._name is None:
            return None
        return self._store.get(self._name) if self._name else self._store.route(modality, is_3d, box.target or box.name, box.code)

    def _network(self, model: Optional[Model]) -> Network:
        if self._given is not None:
            return self._given
        assert model is not None
        key = model.name + "".join(sorted(model.manifest.files.values()))  # a model may be replaced during a session
        with self._loading:
            if key not in self._networks:
                from .network.openvino_network import OpenVINONetwork

                self._networks[key] = OpenVINONetwork(model, self._threads, ahead=True, device=self._device)
            return self._networks[key]
