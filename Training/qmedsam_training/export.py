"""A trained network to a model folder: ONNX with QDQ nodes -> mended graph -> OpenVINO IR -> manifest and card."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple
from xml.etree import ElementTree

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from qmedsam import QMedSAMError
from qmedsam.files.paths import NotWhole, advice, flush, reason_of
from qmedsam.models import Model
from qmedsam.network import HINTS, KINDS
from qmedsam.network.runtime import import_openvino
from torch import Tensor, nn

from .architectures import ARCHITECTURES
from .architectures.promptable import Promptable
from .config import NetworkConfig
from .constants import shrink_constants
from .networks import frame_kind
from .overflow import certificate, unsafe
from .reference import FILE as REFERENCE
from .reference import reference_answer

#: Exported with this many boxes and kept dynamic in that dimension; the engine fixes it when it loads.
_TRACED_BOXES = 2
_OPSET = 17
#: Names of inputs and outputs, by which callers know them.
_PUBLIC = ("image", "embedding", "boxes", "hints", "kinds", "logits", "confidence")
#: Operations that keep their names, by which the census says what a layer is; nobody looks for the others'.
_NAMED = ("Parameter", "Result", "MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData")
#: What tells that a folder is a model of ours, and all that one can hold.
_MARKS = {"manifest.json", "encoder.xml"}
_FILES = (
    {f"{part}.{kind}" for part in ("encoder", "decoder") for kind in ("xml", "bin", "onnx")}
    | _MARKS
    | {"MODEL_CARD.md", REFERENCE}
)
#: OpenVINO's runtime names of the layers that multiply.
PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


class _Decoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # a Promptable, or what quantizing made of one

    def forward(self, embedding: Tensor, boxes: Tensor, *said: Tensor) -> Tuple[Tensor, Tensor]:
        return self.model.predict(embedding, boxes, *said)


class _Encoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # a Promptable, or what quantizing made of one

    def forward(self, image: Tensor) -> Tensor:
        return self.model.encode(image)


def to_onnx(model: nn.Module, input_size: int, quantized: bool) -> Dict[str, onnx.ModelProto]:
    """``encoder`` and ``decoder`` as ONNX graphs (QCDQ for a quantized model), already mended for OpenVINO."""
    network: Any = model.eval().cpu()
    image = torch.zeros(1, 3, input_size, input_size)
    # Traced with two *different* boxes: equal ones could be folded into one.
    boxes = torch.tensor([[0.2, 0.2, 0.8, 0.8], [0.1, 0.3, 0.7, 0.9]])[:_TRACED_BOXES] * input_size
    graphs = {"encoder": _traced(_Encoder(network), (image,), quantized, input_names=["image"], output_names=["embedding"])}
    with torch.no_grad():  # run, for its shape: the graph need not know it where windows are folded into the batch
        embedding = network.encode(image)
    # Told something: zeros could be folded away.
    said = tuple(part + 0.1 * torch.rand_like(part) for part in network.silence(boxes))
    graphs["decoder"] = _traced(
        _Decoder(network),
        (embedding, boxes, *said),
        quantized,
        input_names=["embedding", "boxes", *(["hints", "kinds"] if said else [])],
        output_names=["logits", "confidence"],
        dynamic_axes={name: {0: "count"} for name in ("boxes", "hints", "kinds", "logits", "confidence")},
    )
    return {name: mend(graph) for name, graph in graphs.items()}


def _traced(module: nn.Module, arguments: Tuple[Tensor, ...], quantized: bool, **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # the TorchScript exporter's deprecation and tracer notes
        path = Path(scratch) / "graph.onnx"
        # dynamo=False: the TorchScript path stores weights as int8; dynamo keeps them float behind a QuantizeLinear
        if quantized:
            from brevitas.export import export_onnx_qcdq

            export_onnx_qcdq(module.eval(), args=arguments, export_path=str(path), dynamo=False, opset_version=_OPSET, **options)
        else:
            torch.onnx.export(module.eval(), arguments, str(path), dynamo=False, opset_version=_OPSET, **options)
        return onnx.load(path)


def mend(graph: onnx.ModelProto) -> onnx.ModelProto:
    """What OpenVINO needs to run a QCDQ graph in int8, in place.

    1. Constant weights are stored as int8: ``QuantizeLinear`` and ``Clip`` on a constant are folded into its initialiser.
       A Clip left between int8 weights and their DequantizeLinear makes OpenVINO run the layer in float.
    2. Every weight's DequantizeLinear loses its (all-zero) zero point: exporters merge equal zero-point vectors of several
       layers into one initialiser, upon which OpenVINO refuses int8 to all of them.
    3. Activations of fewer bits are clipped before they are quantized, not between ``QuantizeLinear`` and
       ``DequantizeLinear``: there OpenVINO's float way (``LP_TRANSFORMS_MODE=NO``) computes something else.

    Raises:
        ValueError: a weight has a zero point that is not zero.
    """
    nodes = graph.graph
    constants = {i.name: numpy_helper.to_array(i) for i in nodes.initializer}
    constants.update({n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in nodes.node if n.op_type == "Constant"})
    folded: Dict[str, np.ndarray] = {}
    gone: List[onnx.NodeProto] = []
    for node in nodes.node:
        source = folded.get(node.input[0], constants.get(node.input[0])) if node.input else None
        if source is None:
            continue
        if node.op_type == "QuantizeLinear":
            scale = constants[node.input[1]]
            zero = constants[node.input[2]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [1] * source.ndim
            if scale.ndim:
                shape[axis] = -1
            limits = np.iinfo(zero.dtype)
            values = np.clip(
                np.rint(source / scale.reshape(shape)) + zero.reshape(shape if zero.ndim else ()), limits.min, limits.max
            )
            folded[node.output[0]] = values.astype(zero.dtype)
            gone.append(node)
        elif node.op_type == "Clip" and source.dtype in (np.int8, np.uint8):
            folded[node.output[0]] = np.clip(source, constants[node.input[1]], constants[node.input[2]]).astype(source.dtype)
            gone.append(node)
        elif node.op_type == "DequantizeLinear":
            if len(node.input) > 2:
                if constants[node.input[2]].any():
                    raise ValueError(f"The weight of {node.name} is not symmetric.")
                del node.input[2:]
            if node.input[0] in folded:
                nodes.initializer.append(numpy_helper.from_array(folded[node.input[0]], node.input[0]))
                del folded[node.input[0]]
    for node in gone:
        nodes.node.remove(node)
    _clip_first(graph, constants)
    _drop_unused(graph)
    onnx.checker.check_model(graph)
    return graph


def _clip_first(graph: onnx.ModelProto, constants: Dict[str, np.ndarray]) -> None:
    """Exchange ``QuantizeLinear`` and the ``Clip`` of its integers, in place."""
    nodes = graph.graph.node
    quantizers = {node.output[0]: node for node in nodes if node.op_type == "QuantizeLinear"}
    for clip in [node for node in nodes if node.op_type == "Clip" and node.input[0] in quantizers]:
        quantizer = quantizers[clip.input[0]]
        scale, zero = (constants[name] for name in quantizer.input[1:3])
        if scale.size != 1 or zero.any():
            raise ValueError(f"The quantizer {quantizer.name} of fewer than 8 bits is not symmetric.")
        limits: List[str] = []
        for name in clip.input[1:3]:
            limits.append(f"{clip.name}/{len(limits)}")
            value = np.float32(constants[name]) * scale.astype(np.float32).reshape(())
            graph.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), limits[-1]))
        source, between = quantizer.input[0], f"{clip.name}/clipped"
        quantizer.input[0], quantizer.output[0] = between, clip.output[0]
        place = list(nodes).index(quantizer)
        nodes.remove(clip)
        nodes.insert(place, onnx.helper.make_node("Clip", [source, *limits], [between], name=clip.name))


def _drop_unused(graph: onnx.ModelProto) -> None:
    """Remove constants that nothing reads any more."""
    used = {name for node in graph.graph.node for name in node.input} | {o.name for o in graph.graph.output}
    for initializer in [i for i in graph.graph.initializer if i.name not in used]:
        graph.graph.initializer.remove(initializer)
    # The exporter lists weights among the inputs too, which keeps ONNX Runtime from treating them as constant.
    constant = {i.name for i in graph.graph.initializer}
    for value in [i for i in graph.graph.input if i.name in constant or i.name not in used]:
        graph.graph.input.remove(value)
    for node in [n for n in graph.graph.node if n.op_type == "Constant" and n.output[0] not in used]:
        graph.graph.node.remove(node)


def census(ir: Path, shapes: Optional[Dict[str, list]] = None) -> List[Tuple[str, str, str]]:
    """What precision each matrix product really runs in: ``(layer, type, precision)`` of the compiled graph.

    Read from OpenVINO's runtime graph under the f32 hint, so that "int8" cannot be confused with a bf16 default.
    """
    ov = import_openvino()
    core = ov.Core()
    model = core.read_model(ir)
    model.reshape(shapes or {i.any_name: [d.get_length() if d.is_static else 1 for d in i.partial_shape] for i in model.inputs})
    sources = {op.get_friendly_name(): op for op in model.get_ops()}
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = {key: str(value.value) for key, value in op.get_rt_info().items()}
        kind, names = info.get("layerType", ""), info.get("originalLayersNames", "")
        name = op.get_friendly_name()
        if name in sources:
            name = _product_of(sources[name]).get_friendly_name()
        if kind.startswith(PRODUCTS):
            rows.append((name, kind, info["runtimePrecision"]))
        elif kind == "Subgraph" and "MatMul" in names:
            rows.append((name, "Attention", info["runtimePrecision"]))
    return rows


def _product_of(op: Any) -> Any:
    """A fused layer is called like its last operation: back through bias and scale to what multiplies."""
    while op.get_type_name() in ("Add", "Multiply"):
        op = op.input_value(0).get_node()
    return op


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    found = element.find(name)
    if found is None:
        raise ValueError(f"This is no IR: {element.tag} has no {name}.")
    return found


def slim(ir: Path) -> None:
    """Drop from an IR's XML what only a reader of it needs, in place: a fifth of a small model is such text.

    Indentation, the exporter's names of tensors (inputs and outputs keep theirs), shapes of inputs, and constants that
    repeat another one (except weights, which OpenVINO wants apart). Products keep their names: the census shows them.
    """
    try:
        tree = ElementTree.parse(ir)
    except ElementTree.ParseError as error:  # OpenVINO does not say that a disk is full
        raise NotWhole() from error
    layers, edges = (_child(tree.getroot(), name) for name in ("layers", "edges"))
    first: Dict[tuple, str] = {}
    same: Dict[str, str] = {}
    for layer in list(layers):
        number, kind = layer.attrib["id"], layer.attrib["type"]
        for port in layer.iter("port"):
            kept = [name for name in port.attrib.pop("names", "").split(",") if name in _PUBLIC]
            if kept:
                port.set("names", ",".join(kept))
        for port in layer.findall("input/port"):  # what an input looks like is said by the output that feeds it
            for dim in port.findall("dim"):
                port.remove(dim)
        if kind not in _NAMED:
            layer.set("name", number)
        if kind == "Const":
            data = _child(layer, "data").attrib
            key = tuple(sorted(data.items()))
            if data["element_type"] not in ("i8", "u8") and first.setdefault(key, number) != number:
                same[number] = first[key]
                layers.remove(layer)
    for edge in edges:
        edge.set("from-layer", same.get(edge.attrib["from-layer"], edge.attrib["from-layer"]))
    for information in tree.getroot().findall("rt_info"):
        tree.getroot().remove(information)
    for element in tree.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
    tree.write(ir, encoding="utf-8", xml_declaration=True)


def model_fields(network: NetworkConfig, name: str, **others: Any) -> Dict[str, Any]:
    """Fields of the manifest that a network decides, and neutral values for those that only a person knows.

    Args:
        network: of a checkpoint.
        name: of the model.
        others: fields that overrule.
    """
    kind = frame_kind(network)
    fields = {
        "name": name,
        "title": name,
        "version": "1",
        "license": "see the model card",
        "architecture": network.architecture,
        "precision": "int8" if network.quantization else "float32",
        "input_size": network.input_size,
        "normalization": ARCHITECTURES[network.architecture].normalization,
        "frame": {"kind": kind} if kind == "slice" else {"kind": kind, "margin": network.margin},
        "modalities": ["*"],
    }
    if network.options.get("hints"):
        asked = {"hints": list(HINTS), "kinds": list(KINDS), "candidates": network.options.get("candidates", 1)}
        # Slices before and behind as channels lost on volumes what they won on slices: see Docs/Decisions.
        fields["prompts"] = {**asked, "depth_px": 0.0}
    return {**fields, **others}


def write_model(
    folder: Path, model: Promptable, fields: Dict[str, Any], card: str, keep_onnx: bool = False, allow_overflow: bool = False
) -> Path:
    """Export a network into a model folder that the engine loads.

    Args:
        folder: of the model; a model that is there is replaced.
        model: float, or quantized by :func:`~qmedsam_training.quantization.quantize` (``precision`` of the fields says which).
        fields: of the manifest (``manifest.schema.json`` of the engine), without the files that are written here.
        card: text of the model card.
        keep_onnx: also keep the mended ONNX files (for ONNX Runtime).
        allow_overflow: write it even if processors without VNNI compute something else with it.

    Returns:
        ``folder``.

    Raises:
        QMedSAMError: see :func:`check_replaceable`; or a product can overflow.
    """
    ov = import_openvino()
    put_reference, reference = reference_answer(model, fields)

    def export(scratch: Path) -> None:
        for part, graph in to_onnx(model, fields["input_size"], fields["precision"] == "int8").items():
            path = scratch / f"{part}.onnx"
            onnx.save(graph, path)
            converted = ov.convert_model(path)
            shrink_constants(converted, model)
            try:
                ov.save_model(converted, scratch / f"{part}.xml", compress_to_fp16=False)
            except RuntimeError as error:  # "iostream error": a full disk
                raise NotWhole() from error
            slim(scratch / f"{part}.xml")
            if not keep_onnx:
                path.unlink()
        if not allow_overflow:
            _check_overflow(scratch)
        put_reference(scratch)

    prompt_size = round(fields["input_size"] * model.prompt_scale)
    return write_folder(folder, export, {"prompt_size": prompt_size, **fields, "reference": reference}, card)


def _check_overflow(folder: Path) -> None:
    """Refuse the networks in a folder if a product of theirs can leave 16 bits.

    Raises:
        QMedSAMError: with the worst layers of each.
    """
    found = {part: unsafe(certificate(folder / f"{part}.xml")) for part in ("encoder", "decoder")}
    count = sum(map(len, found.values()))
    if count:
        worst = "; ".join(f"{part}: {', '.join(map(str, rows[:3]))}" for part, rows in found.items() if rows)
        raise QMedSAMError(
            f"{count} products of this network can overflow on processors without VNNI: {worst}.",
            "Quantize with overflow: channel (or 7bit), or allow it with --allow-overflow to compare.",
        )


def check_replaceable(folder: Path) -> None:
    """Whether a model may be written here; asked before the minutes that an export takes.

    Raises:
        QMedSAMError: something is there that is not a model folder of ours, or holds more than a model.
    """
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if found - _FILES or not (found >= _MARKS or not found):
        foreign = sorted(found - _FILES) or sorted(found)
        raise QMedSAMError(
            f"'{folder}' is not a model folder and would be replaced: it holds {foreign[0]} (and {len(foreign) - 1} more).",
            "Give the folder of the model itself, such as MODELS/name; it need not exist.",
        )


def write_folder(folder: Path, write_parts: Callable[[Path], None], fields: Dict[str, Any], card: str) -> Path:
    """A model folder of ``encoder.xml`` and ``decoder.xml``: written beside, checksummed, and renamed when complete.

    Args:
        folder: of the model; a model that is there is replaced.
        write_parts: puts the networks' files into the folder that it is given.
        fields: see :func:`write_model`, with ``prompt_size``.
        card: text of the model card.

    Returns:
        ``folder``.

    Raises:
        QMedSAMError: see :func:`check_replaceable`, or the disk is full; a model that was there is then still whole.
    """
    folder = Path(folder)
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        write_parts(scratch)
        manifest = {
            "encoder": "encoder.xml",
            "decoder": "decoder.xml",
            **fields,
            "files": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(scratch.iterdir())},
        }
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        (scratch / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        scratch.chmod(0o755)  # mkdtemp's 0700 would hide a model installed for all users
        Model.read(scratch).verify()
        _check_written(scratch)
        old = scratch.with_name(scratch.name + ".old")
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(scratch, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        flush(folder.parent)
    except OSError as error:
        raise QMedSAMError(f"The model '{folder}' could not be written ({reason_of(error)}).", advice(folder, error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _check_written(folder: Path) -> None:
    """The checksums are of what is there, which after a full disk need not be what OpenVINO meant: let it read its networks.

    Raises:
        NotWhole: one cannot be read.
        OSError: a file cannot be put on the disk.
    """
    core = import_openvino().Core()
    for part in ("encoder", "decoder"):
        try:
            core.read_model(folder / f"{part}.xml")
        except RuntimeError as error:
            raise NotWhole() from error
    for path in (*folder.iterdir(), folder):
        flush(path)
