"""DICOM images as hospitals write them: raw or encapsulated, with windows and personal tags."""

import io
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

NAME = "DOE^JANE"
BIRTH = "19571108"


def write_dicom(
    path: Path,
    pixels: np.ndarray | None,
    *,
    patient: str = "MRN0001",
    photometric: str = "MONOCHROME2",
    coding: str = "raw",
    bits: int | None = None,
    **tags,
) -> None:
    """Writes an image.

    Args:
      pixels: uint8 or uint16, [h w] or [frames h w], for RGB [h w 3]; None leaves them out.
      coding: "raw", "jpeg" (baseline, 8 bits) or "jpeg2000" (lossless).
      bits: BitsStored; default is all of the type's.
      tags: any other DICOM keywords, e.g. WindowCenter=…, PatientAge="061Y".
    """
    syntax = {
        "raw": ExplicitVRLittleEndian,
        "jpeg": JPEGBaseline8Bit,
        "jpeg2000": JPEG2000Lossless,
    }[coding]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient])
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID = NAME, BIRTH, patient
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    if pixels is not None:
        colour = photometric == "RGB"
        frames = 1 if pixels.ndim == 2 or colour else pixels.shape[0]
        dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
        if frames > 1:
            dataset.NumberOfFrames = frames
        dataset.SamplesPerPixel = 3 if colour else 1
        if colour:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = 8 * pixels.dtype.itemsize
        dataset.BitsStored = bits or dataset.BitsAllocated
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = 0
        dataset.PixelData = _encoded(pixels, coding)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def _encoded(pixels: np.ndarray, coding: str) -> bytes:
    if coding == "raw":
        data = pixels.tobytes()
        return data + b"\0" * (len(data) % 2)
    stream = io.BytesIO()
    if coding == "jpeg":
        Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    else:
        Image.fromarray(pixels).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    return encapsulate([stream.getvalue()])
