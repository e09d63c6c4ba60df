"""`python -m data_builders.overlap`: shared patients, near-identical images, nothing else."""

import csv
import functools
import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cxr_jax.data import seen_images
from cxr_jax.data.source import load_source
from data_builders import overlap
from data_builders.base import builder as cxr_builder
from data_builders.base.records import Record
from tests.fakes.pictures import draw_image


def draw(seed: int, change: str = "") -> np.ndarray:
    # Organs and ribs: a hash needs more than a few smooth waves.
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(coarse).resize((300, 320), Image.Resampling.BICUBIC))
    image = Image.fromarray((draw_image(seed, 320, 300) // 2 + texture // 2).astype(np.uint8))
    if change == "copy":  # smaller, another shape, recompressed, more contrast
        stream = io.BytesIO()
        image.resize((230, 260)).point(lambda v: min(255, int(1.2 * v))).save(
            stream, "JPEG", quality=40
        )
        image = Image.open(stream).convert("L")
    return np.asarray(image)


class One(cxr_builder.CxrBuilder, skip_registration=True):
    """Sixty images of thirty patients."""

    name = "one"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = cxr_builder.resolution_configs()
    images = tuple((seed, f"p{seed // 2}", "") for seed in range(60))

    def records(self, manual_dir):
        for seed, patient, change in self.images:
            yield Record(
                split="train" if seed % 60 < 40 else "test",
                image_id=f"{self.name}-{seed}",
                patient_id=patient,
                image=functools.partial(draw, seed, change),
            )


class Two(One, skip_registration=True):
    """Copies of ten images under other names, other images of five patients, and strangers."""

    name = "two"
    PARENT = "one"
    images = (
        *((seed, f"q{seed}", "copy") for seed in range(10)),
        *((100 + seed, f"p{20 + seed}", "") for seed in range(5)),
        *((200 + seed, f"r{seed}", "") for seed in range(20)),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for cls in (One, Two):
        builder = cls(data_dir=folder)
        builder.settings = cxr_builder.BuildSettings(num_workers=0, progress=False)
        builder.download_and_prepare(file_format="array_record")
    return folder


def run(data, output, *names):
    status = overlap.main([*names, f"--data_dir={data}", f"--output={output}"])
    with open(output / "overlap.csv") as stream:
        return status, list(csv.DictReader(stream))


def test_copies_and_patients_are_found_and_nothing_else(data, tmp_path, capsys):
    status, rows = run(data, tmp_path, "one", "two")
    assert status == 0
    pairs = {(row["image_id_a"], row["image_id_b"]) for row in rows}
    assert pairs == {(f"one-{seed}", f"two-{seed}") for seed in range(10)}
    assert {row["same_patient"] for row in rows} == {"0"}
    shown = capsys.readouterr().out
    table = [line.split() for line in shown.splitlines() if line.startswith("  t")]
    # Patients 20 to 24 have images 40 to 49, of the test split; strangers' images are of others.
    assert ["test", "test", "5", "0"] in table and ["train", "train", "0", "10"] in table
    assert "--config.data.name=one --config.data.exclude=two" in shown
    assert Image.open(tmp_path / "overlap.png").size[0] > 1000


def test_a_pretraining_leaves_out_what_is_listed(data, tmp_path):
    rows = run(data, tmp_path, "one", "two")[1]
    assert max(int(row["bits"]) for row in rows) > seen_images.MAX_DISTANCE  # looks must tell
    source = load_source("one", str(data), "train+test", ("image", "image_id"))
    kept = seen_images.leave_out(source, ["two"], str(data)).columns(("image_id",))["image_id"]
    # Neither copies, seeds 0 to 9, nor images of the same patients, 40 to 49.
    assert set(kept) == {f"one-{seed}" for seed in [*range(10, 40), *range(50, 60)]}


def test_a_dataset_against_itself_finds_its_duplicates_only(data, tmp_path):
    _, rows = run(data, tmp_path, "one", "one")
    assert rows == []


def test_hash_distances_agree_with_counting_bits():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**64, 50, dtype=np.uint64)
    flips = [np.uint64(0), np.uint64(1), np.uint64(3 << 40), np.uint64(7 << 50)]
    b = np.array([value ^ flip for value in a[:10] for flip in flips], np.uint64)
    found = seen_images.close_hashes(a, b, 2)
    expected = {
        (i, j, bin(int(x) ^ int(y)).count("1"))
        for i, x in enumerate(a)
        for j, y in enumerate(b)
        if bin(int(x) ^ int(y)).count("1") <= 2
    }
    assert set(zip(*(column.tolist() for column in found[:3]))) == expected
    within = seen_images.close_hashes(b, b, 2, within=True)
    assert (within.a < within.b).all() and len(within.a) == 10 * 2  # of each four, two pairs


def test_a_workdirs_ledger_can_be_compared(data, tmp_path, capsys):
    workdir = tmp_path / "run"
    workdir.mkdir()
    seen_images.write(workdir / seen_images.FILE, seen_images.read(data / "one/256/1.0.0"))
    status, rows = run(data, tmp_path / "out", str(workdir), "two")
    assert status == 0 and "Only hashes" in capsys.readouterr().out
    assert {row["image_id_a"] for row in rows} <= {""}
    assert all(int(row["bits"]) <= seen_images.MAX_DISTANCE for row in rows)


def test_a_dataset_without_a_ledger_or_that_is_not_built_is_refused(data, tmp_path, capsys):
    assert overlap.main(["three", "one", f"--data_dir={data}"]) == 1
    assert "'three' is not built" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="build the dataset again"):
        seen_images.read(tmp_path)
