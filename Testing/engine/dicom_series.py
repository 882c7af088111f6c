"""Synthetic DICOM series and multi-frame files, oblique and in an order that says nothing."""

from __future__ import annotations

from pathlib import Path

import dicoms
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = (0.7, 0.9, 2.5)  # of columns, rows and slices
ORIGIN_LPS = np.array([-31.0, 17.5, 210.25])


def write_series(folder: Path, array_kji: np.ndarray, axes_lps: np.ndarray, **attributes) -> str:
    """A CT whose file names and instance numbers say nothing about the slices' order; its series UID."""
    folder.mkdir()
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    order = np.random.default_rng(7).permutation(len(array_kji))
    for k, place in enumerate(order):
        image = pydicom.Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Müller^Anna", "P-17", "19700131", "F"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20260102", "101112", "S1", "A9"
        image.ReferringPhysicianName, image.PositionReferenceIndicator = "", ""
        image.Modality, image.SeriesNumber, image.InstanceNumber = "CT", 4, int(place) + 1
        image.SeriesDescription = "abdomen"
        image.ImagePositionPatient = [float(v) for v in np.round(ORIGIN_LPS + axes_lps[:, 2] * SPACING[2] * k, 6)]
        image.ImageOrientationPatient = [float(v) for v in np.round([*axes_lps[:, 0], *axes_lps[:, 1]], 8)]
        image.PixelSpacing, image.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        image.Rows, image.Columns = array_kji.shape[1:]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.RescaleIntercept, image.RescaleSlope = -1024, 1
        image.PixelData = (array_kji[k] + 1024).astype("<i2").tobytes()
        for key, value in attributes.items():
            setattr(image, key, value)
        dicoms.written(image, folder / f"{place:03d}.dcm")
    return series


def cubes() -> np.ndarray:
    """Two boxes of 120 and 90 in -100, ``(9, 40, 30)``."""
    array = np.full((9, 40, 30), -100, np.int16)
    array[2:7, 8:20, 5:15] = 120
    array[3:5, 25:34, 16:27] = 90
    return array


def _of(**attributes):
    made = pydicom.Dataset()
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def write_multiframe(path: Path, like: Path, array_kji: np.ndarray, axes_lps: np.ndarray, order=None) -> None:
    """An enhanced CT: all slices as frames of one file (in an order), patient and study as in another image."""
    order = range(len(array_kji)) if order is None else order
    image, kept = pydicom.Dataset(), pydicom.dcmread(like, stop_before_pixels=True)
    for element in kept:
        if element.keyword not in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            image.add(element)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = EnhancedCTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.ImageType, image.NumberOfFrames = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], len(array_kji)
    image.PixelData = (array_kji[list(order)] + 1024).astype("<i2").tobytes()
    measures = _of(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=SPACING[2], SpacingBetweenSlices=SPACING[2])
    values = _of(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")
    plane = _of(ImageOrientationPatient=kept.ImageOrientationPatient)
    image.SharedFunctionalGroupsSequence = [
        _of(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane], PixelValueTransformationSequence=[values])
    ]
    uid = generate_uid()
    image.DimensionOrganizationSequence = [_of(DimensionOrganizationUID=uid)]
    index = _of(DimensionOrganizationUID=uid, DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113)
    image.DimensionIndexSequence = [index]
    positions = [[float(v) for v in np.round(ORIGIN_LPS + axes_lps[:, 2] * SPACING[2] * k, 6)] for k in order]
    image.PerFrameFunctionalGroupsSequence = [
        _of(
            PlanePositionSequence=[_of(ImagePositionPatient=position)],
            FrameContentSequence=[_of(DimensionIndexValues=[k], StackID="1", InStackPositionNumber=k)],
        )
        for k, position in enumerate(positions, start=1)
    ]
    dicoms.written(image, path)
