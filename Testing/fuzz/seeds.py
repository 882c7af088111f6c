"""Sound files of every kind that a reader takes, small, for the fuzzer to damage."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

RNG = np.random.default_rng(3)
GREY = RNG.integers(-500, 1500, (5, 12, 14)).astype(np.int16)
BYTES = RNG.integers(0, 255, (12, 14)).astype(np.uint8)
COLOR = RNG.integers(0, 255, (12, 14, 3)).astype(np.uint8)
TIMES = RNG.integers(0, 90, (3, 4, 6, 7)).astype(np.uint8)


def _sitk(folder: Path, name: str, array: np.ndarray, vector: bool = False, packed: bool = False, meta=None) -> bytes:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array, isVector=vector)
    for key, value in (meta or {}).items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(folder / name), packed)
    return (folder / name).read_bytes()


def nifti(folder: Path) -> List[bytes]:
    import struct

    plain = _sitk(folder, "a.nii", GREY)
    second = bytearray(544)
    struct.pack_into("<i", second, 0, 540)
    second[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into("<hh8q3d8dq", second, 12, 4, 16, 3, 14, 12, 5, 1, 1, 1, 1, 0, 0, 0, *(1.0,) * 8, 544)
    return [
        plain,
        _sitk(folder, "b.nii.gz", GREY),
        _sitk(folder, "c.nii", TIMES),
        _sitk(folder, "d.nii", COLOR[None], True),
        bytes(second) + GREY.tobytes(),
        plain[:344] + b"\0" * 8 + plain[352:],
    ]


def nrrd(folder: Path) -> List[bytes]:
    header = b"NRRD0004\ntype: uchar\ndimension: 4\nspace: left-posterior-superior\nsizes: 3 7 6 4\n"
    header += b"space directions: none (1,0,0) (0,1,0) (0,0,2)\nkinds: %s domain domain domain\nencoding: raw\n"
    header += b"space origin: (0,0,0)\n\n"
    return [
        _sitk(folder, "a.nrrd", GREY),
        _sitk(folder, "b.nrrd", GREY, packed=True),
        header.replace(b"%s", b"list") + TIMES.tobytes(),
        header.replace(b"%s", b"time") + TIMES.tobytes(),
        _segmentation(folder),
    ]


def _segmentation(folder: Path) -> bytes:
    from qmedsam.files import write_segmentation
    from qmedsam.geometry import Volume

    labels = np.zeros(GREY.shape, np.uint8)
    labels[1:3, 2:9, 3:8], labels[3, 1:4, 1:4] = 1, 2
    write_segmentation(folder / "s.seg.nrrd", labels, Volume(GREY), [(1, "Liver", (1, 0, 0)), (2, "Tumour", None)])
    return (folder / "s.seg.nrrd").read_bytes()


def metaimage(folder: Path) -> List[bytes]:
    return [_sitk(folder, "a.mha", GREY), _sitk(folder, "b.mha", GREY, packed=True), _sitk(folder, "c.mha", TIMES)]


def png(folder: Path) -> List[bytes]:
    return [_sitk(folder, "a.png", BYTES), _sitk(folder, "b.png", COLOR, True), _sitk(folder, "c.png", GREY[0].astype(np.uint16))]


def jpeg(folder: Path) -> List[bytes]:
    return [_sitk(folder, "a.jpg", BYTES), _sitk(folder, "b.jpg", COLOR, True)]


def bmp(folder: Path) -> List[bytes]:
    return [_sitk(folder, "a.bmp", BYTES), _sitk(folder, "b.bmp", COLOR, True)]


def tiff(folder: Path) -> List[bytes]:
    from PIL import Image

    pages = [Image.fromarray(page) for page in TIMES.reshape(12, 6, 7)]
    text = "ImageJ=1.54\nimages=12\nslices=4\nframes=3\nunit=um\nspacing=2.0\n"
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], description=text, compression="tiff_lzw")
    return [
        _sitk(folder, "a.tif", GREY),
        _sitk(folder, "b.tif", COLOR, True),
        _sitk(folder, "c.tif", GREY, packed=True),
        stream.getvalue(),
    ]


def dicom(folder: Path) -> List[bytes]:
    import dicoms
    from pydicom.encaps import encapsulate

    same = {"SOPInstanceUID": "1.2.3.4.5"}  # a seed's bytes are the same in every run
    single = dicoms.write_slices(folder / "s", dicoms.planes(1), **same)[0].read_bytes()
    enhanced = dicoms.write_enhanced(folder / "e.dcm", dicoms.planes(3), **same).read_bytes()
    cine = dicoms.write_multiframe(folder / "c.dcm", TIMES[0], dicoms.US_MULTI, "US", FrameTime=30, **same).read_bytes()
    dataset = dicoms._base(dicoms.CT, "OT", "1.2.3.8", Rows=12, Columns=14, **same)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "YBR_FULL_422", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = encapsulate([_sitk(folder, "x.jpg", COLOR, True)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    packed = dicoms.save(dataset, folder / "p.dcm", "1.2.840.10008.1.2.4.50").read_bytes()
    return [single, enhanced, cine, packed, single[132:]]


def dicom_seg(folder: Path) -> List[bytes]:
    """Binary, fractional and label map; three planes of two segments on the grid of a volume of 5 x 12 x 14 voxels of 1 mm."""
    import dicoms
    from pydicom.dataset import Dataset

    def item(**values: object) -> Dataset:
        made = Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    made = []
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        dataset = dicoms._base(dicoms.SEG, "SEG", "1.2.3.7", SOPInstanceUID="1.2.3.4.6", Rows=12, Columns=14)
        dataset.SegmentationType, dataset.PixelRepresentation = kind, 0
        bits = 1 if kind == "BINARY" else 8
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit, dataset.MaximumFractionalValue = bits - 1, 255
        dataset.SegmentSequence = [item(SegmentNumber=n, SegmentLabel=name) for n, name in ((1, "Liver"), (2, "Tumour"))]
        plane = item(ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
        measures = item(PixelSpacing=[1, 1], SliceThickness=1)
        dataset.SharedFunctionalGroupsSequence = [item(PlaneOrientationSequence=[plane], PixelMeasuresSequence=[measures])]
        frames, groups = [], []
        for k, n in ((1, 1), (2, 1), (2, 2)):
            group = item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, k])])
            group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=n)]
            groups.append(group)
            frame = np.zeros((12, 14), np.uint8)
            frame[2 * n : 9, 3 * n : 10] = n if kind == "LABELMAP" else 1 if kind == "BINARY" else 200
            frames.append(frame)
        dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = groups, len(frames)
        pixels = np.stack(frames)
        dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes() if bits == 1 else pixels.tobytes()
        dataset.PixelData += b"\0" * (len(dataset.PixelData) % 2)
        dataset["PixelData"].VR = "OB"
        made.append(dicoms.save(dataset, folder / f"{kind}.dcm").read_bytes())
    return made


def rtstruct(folder: Path) -> List[bytes]:
    """Two structures, one with a hole, on slices of a volume of 5 x 12 x 14 voxels of 1 mm."""
    import dicoms
    from pydicom.dataset import Dataset

    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = dicoms.RTSTRUCT, "1.2.3.4.7", "RTSTRUCT"
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, name in ((1, "Liver"), (5, "Tumour")):
        structure, drawn, contours = Dataset(), Dataset(), []
        structure.ROINumber, structure.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, [255, 0, 10 * number]
        for k, low, high in ((1, 2, 9), (1, 4, 6), (2, 2, 8)):
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            square = [(low, low), (high, low), (high, high), (low, high)]
            contour.NumberOfContourPoints, contour.ContourData = 4, [f"{v}" for x, y in square for v in (-x, -y, k)]
            contours.append(contour)
        drawn.ContourSequence = contours
        made.StructureSetROISequence.append(structure)
        made.ROIContourSequence.append(drawn)
    syntaxes = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99")  # explicit, implicit, deflated
    return [dicoms.save(made, folder / "r.dcm", syntax).read_bytes() for syntax in syntaxes]


def npz(folder: Path) -> List[bytes]:
    made = []
    for compressed in (False, True):
        stream = io.BytesIO()
        (np.savez_compressed if compressed else np.savez)(
            stream, imgs=GREY, spacing=[1.0, 2.0, 3.0], boxes=np.array([[1, 1, 1, 9, 8, 3]]), segs=(GREY > 900).astype(np.uint8)
        )
        made.append(stream.getvalue())
    stream = io.BytesIO()
    box = {"z_min": 1, "z_max": np.int64(3), "z_mid_x_min": 2, "z_mid_y_min": 3, "z_mid_x_max": 9, "z_mid_y_max": 8, "z_mid": 2}
    np.savez(stream, imgs=GREY, boxes=np.array([box, box], dtype=object))
    return [*made, stream.getvalue()]


def boxes(folder: Path) -> List[bytes]:
    from qmedsam.files import write_boxes
    from qmedsam.geometry import Box, Volume

    write_boxes(folder / "a.mrk.json", [Box.from_voxels([1, 1, 1], [5, 6, 3], name="Leber", color=(1, 0, 0))], Volume(GREY))
    plain = {"boxes": [{"ijk": [1, 2, 1, 8, 9, 3], "name": "x", "label": 2, "color": [0, 1, 0]}, [1, 1, 1, 4, 4, 4]]}
    ras = {"boxes": [{"ras": {"center": [1, 2, 3], "half_axes": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}]}
    texts = [json.dumps(plain), json.dumps(ras), json.dumps([[1, 1, 1, 4, 4, 4]])]
    return [(folder / "a.mrk.json").read_bytes(), *(text.encode() for text in texts), texts[0].encode("utf-16")]


def lists(folder: Path) -> List[bytes]:
    rows = [{"volume": "a.nii", "boxes": "a.json", "window": "400,40", "modality": "CT", "name": "x", "series": "1.2"}] * 2
    return [
        b'volume,boxes,segmentation,modality,window,output\na.nii,a.json,,CT,,x.seg.nrrd\nb.nii,,b.seg.nrrd,MR,"400,40",\n',
        "\n".join(map(json.dumps, rows)).encode(),
    ]


def models(folder: Path) -> List[bytes]:
    import hashlib

    content = b"<net/>"
    manifest = {
        "name": "tiny", "title": "T", "version": "1", "license": "x", "architecture": "a", "precision": "int8",
        "encoder": "e.xml", "decoder": "d.xml",
        "files": dict.fromkeys(("e.xml", "e.bin", "d.xml", "d.bin"), hashlib.sha256(content).hexdigest()),
        "input_size": 256, "prompt_size": 256, "normalization": {"kind": "zscore"}, "frame": {"kind": "roi", "margin": 0.3},
        "modalities": ["*"],
    }  # fmt: skip
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("m/manifest.json", json.dumps(manifest))
            for name in manifest["files"]:
                archive.writestr(f"m/{name}", content)
        made.append(stream.getvalue())
    return made


#: Sound files by reader.
SEEDS: Dict[str, Callable[[Path], List[bytes]]] = {
    "dicom": dicom,
    "dicom-folder": dicom,
    "nifti": nifti,
    "nrrd": nrrd,
    "segmentation": nrrd,
    "metaimage": metaimage,
    "png": png,
    "jpeg": jpeg,
    "bmp": bmp,
    "tiff": tiff,
    "dicom-seg": dicom_seg,
    "rtstruct": rtstruct,
    "npz": npz,
    "boxes": boxes,
    "list": lists,
    "models": models,
}
