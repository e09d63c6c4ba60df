"""Small sound files of every kind that is read here: what the fuzzer damages."""

import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless
from safetensors.numpy import save

from tests.fakes import indiana_university, medmnist_cxr
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import deep, draw_image

# pydicom's own images of codings that nothing here can write: JPEG-LS, and JPEG 2000 in colour.
_OF_PYDICOM = (
    *("MR_small_jpeg_ls_lossless.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm"),
)


def png() -> list[bytes]:
    grey = Image.fromarray(draw_image(1, 40, 32))
    clear = grey.convert("LA")
    clear.putalpha(Image.new("L", grey.size, 40))
    pictures = (
        *(grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("P"), grey.convert("1")),
        *(Image.fromarray(deep(4, 9000, 21000, 40, 32)), clear),
    )
    return [_saved(picture, "PNG") for picture in pictures]


def jpeg() -> list[bytes]:
    grey = Image.fromarray(draw_image(2, 40, 32))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "an image"
    return [
        _saved(grey, "JPEG", quality=95),
        _saved(grey.convert("RGB"), "JPEG", quality=80),
        _saved(grey, "JPEG", progressive=True),
        _saved(grey.convert("RGB"), "JPEG", progressive=True, optimize=True),
        _saved(grey.convert("CMYK"), "JPEG"),
        _saved(grey, "JPEG", exif=exif, restart_marker_blocks=2),
        _saved(Image.fromarray(draw_image(3, 300, 260)), "JPEG", quality=30),
    ]


def dicom() -> list[bytes]:
    window = {"WindowCenter": 2000.0, "WindowWidth": 3000.0, "RescaleSlope": 2.0}
    tags = {"PatientAge": "061Y", "PatientSex": "F", "ViewPosition": "PA"}
    small, small16 = draw_image(1, 40, 32), deep(1, 100, 4000, 40, 32)
    colour = np.stack([small] * 3, axis=-1)
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], list(range(0, 65536, 256))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    with tempfile.TemporaryDirectory() as folder:
        made = []

        def write(pixels: np.ndarray, syntax: str = "", **arguments) -> None:
            path = Path(folder) / "image.dcm"
            write_dicom(path, pixels, **arguments, **tags)
            if syntax:
                _rewritten(path, syntax)
            made.append(path.read_bytes())

        write(small)
        write(small16, bits=12, RescaleIntercept=-100.0, **window)
        write(small16, bits=12, photometric="MONOCHROME1", PixelPaddingValue=100)
        write(small, photometric="MONOCHROME1", VOILUTSequence=[item])
        write(colour, photometric="RGB")
        write(draw_image(2, 300, 260), coding="jpeg")
        write(deep(2, 0, 4095, 300, 260), coding="jpeg2000", bits=16)
        write(small, ImplicitVRLittleEndian)
        write(small16, ExplicitVRBigEndian)
        write(small16, RLELossless)
    own = Path(pydicom.__file__).parent / "data/test_files"
    return made + [(own / name).read_bytes() for name in _OF_PYDICOM if (own / name).is_file()]


def _rewritten(path: Path, syntax: str) -> None:
    dataset = pydicom.dcmread(path)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = syntax
    little = syntax != ExplicitVRBigEndian
    if not little:
        dataset.PixelData = dataset.pixel_array.byteswap().tobytes()
    implicit = syntax == ImplicitVRLittleEndian
    with path.open("wb") as file:
        pydicom.dcmwrite(
            file, dataset, enforce_file_format=True, implicit_vr=implicit, little_endian=little
        ) if syntax != RLELossless else dataset.save_as(file, enforce_file_format=True)


def xml() -> list[bytes]:
    """NLM's reports 1 to 7."""
    with tempfile.TemporaryDirectory() as folder:
        indiana_university.write(Path(folder))
        paths = sorted(Path(folder).glob("ecgen-radiology/?.xml"))
        return [path.read_bytes() for path in paths]


def npz() -> list[bytes]:
    """MedMNIST's arrays, then weights."""
    images = medmnist_cxr.arrays()
    weights = {"conv1.weight": np.ones((4, 1, 3, 3), np.float32), "bn1.bias": np.arange(4.0)}
    made = []
    for arrays, write in ((images, np.savez_compressed), (weights, np.savez)):
        stream = io.BytesIO()
        write(stream, **arrays)
        made.append(stream.getvalue())
    return made


def safetensors() -> list[bytes]:
    arrays = {
        "conv1.weight": np.ones((4, 1, 3, 3), np.float32),
        "bn1.bias": np.arange(4, dtype=np.float16),
        "steps": np.array(7),
    }
    brain_float = json.dumps(
        {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    ).encode()
    return [
        save(arrays, {"format": "pt"}),
        struct.pack("<Q", len(brain_float)) + brain_float + b"\x80\x3f\0\0",
    ]


def torch_zip() -> list[bytes]:
    """Returns files as torch.save writes them: bare state_dicts, and one nested in a checkpoint."""
    state = _pickled_dict({"conv1.weight": (0, (2, 3), (3, 1)), "bn1.bias": (6, (4,), (1,))})
    nested = b"}(" + _text("epoch") + b"K\x05" + _text("state_dict") + state + b"u"
    made = []
    for pickled, compression in ((state, zipfile.ZIP_STORED), (nested, zipfile.ZIP_DEFLATED)):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as archive:
            archive.writestr("weights/data.pkl", b"\x80\x02" + pickled + b".")
            archive.writestr("weights/byteorder", "little")
            archive.writestr("weights/data/0", np.arange(10, dtype=np.float32).tobytes())
            archive.writestr("weights/version", "3\n")
        made.append(stream.getvalue())
    return made


def _pickled_dict(tensors: dict[str, tuple]) -> bytes:
    """Tensors (offset, shape, strides) of one storage of ten floats, as opcodes of protocol 2."""
    ordered = b"ccollections\nOrderedDict\n)R"
    code = b"}("
    for name, (offset, shape, strides) in tensors.items():
        storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
        code += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage[1:] + b"K\x0atQ"
        code += bytes([0x4B, offset]) + _numbers(shape) + _numbers(strides) + b"\x89" + ordered
        code += b"tR"
    return code + b"u"


def _numbers(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(bytes([0x4B, number]) for number in numbers) + b"t"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _saved(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()
