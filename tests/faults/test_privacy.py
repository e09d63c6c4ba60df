"""Canaries in every DICOM tag, CSV column and report: found nowhere that they do not belong.

Where they belong: patients' hashed ids and reports' own text within built datasets, and file names
in skipped.csv, beside the data.
"""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxr_jax.data import tokenizer
from cxr_jax.io import image_io
from cxr_jax.io.limits import ImageError
from tests.fakes.dataset import read
from tests.faults import canaries, hospital, planted
from tests.faults.canaries import (
    FINDINGS,
    NAME,
    RECORD_NUMBER,
    REPORTED,
    SURNAME,
)

ALL = canaries.needles((*canaries.WORDS, FINDINGS, REPORTED)) | canaries.needles()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> hospital.World:
    """Builds, pretrains, transfers, exports and fails, by the commands that people give."""
    return hospital.give(tmp_path_factory.mktemp("privacy"))


def test_commands_did_what_they_were_to_do(world):
    succeeded = {name for name, code in world.codes.items() if code == 0}
    expected = {"build", "build reports", "pretrain", "benchmark", "overlap", "export"}
    expected |= {"pretrain with reports"} if hospital.TEXTS else set()
    assert succeeded == expected, world.said
    refused = [name for name in world.codes if name not in succeeded]
    assert len(refused) == 17 and all(world.codes[name] == 1 for name in refused)
    examples = read(world.data / "ward/256/1.0.0")
    assert sum(map(len, examples.values())) > planted.NUM_IMAGES
    assert not list(world.tracebacks.glob("cxr_jax-*.txt"))  # our messages say it all


def test_nothing_that_was_said_holds_a_canary(world):
    # Only what was typed itself: --config.data.dir and the names of files that people chose.
    assert canaries.search(world.said.encode(), ALL) == set()
    assert canaries.search_files(world.tracebacks, ALL) == []


def test_no_result_holds_a_canary(world):
    results = {path.name for path in world.workdir.parent.rglob("*") if path.is_file()}
    assert {
        *("predictions.parquet", "films.parquet", "films.csv", "report.md", "metrics.jsonl"),
        *("saliency.png", "neighbours.png", "embedding.png", "metadata.tsv", "seen_images.parquet"),
        *("provenance.json", "config.json", "comparisons.json", "report.html", "scores.csv"),
    } <= results
    assert canaries.search_files(world.workdir.parent, ALL) == []
    assert canaries.search_files(world.exported, ALL) == []
    assert canaries.search(world.features.read_bytes(), ALL) == set()


@pytest.mark.skipif(not hospital.TEXTS, reason="needs the extra text")
def test_a_tokenizer_holds_words_of_ten_sentences_and_no_piece_of_a_name_in_nine(world):
    kept = json.loads((world.workdir.parent / "texts" / tokenizer.FILE).read_text())
    words = {word.removeprefix("##") for word in kept["model"]["vocab"]}
    assert set(FINDINGS.split()) <= words  # in sixteen: the control
    assert not [word for word in words if len(word) > 2 and word in REPORTED.lower()]
    said = [
        REPORTED in example["report"]
        for example in read(world.data / "indiana_university/256/1.0.0")["train"]
    ]
    assert sum(said) == planted.NUM_REPORTED < len(said)


def test_a_list_of_overlaps_holds_names_of_images_and_no_patient(world):
    listed = (world.data / "overlap/overlap.csv").read_text()
    assert "ward-seven/image-001" in listed and "ward-seven/twin" in listed
    assert canaries.search_files(world.data / "overlap", ALL) == []


def test_no_result_holds_an_id_of_the_dataset(world):
    wanted = {b"ward-seven": "path", b"image-0": "name", b"_im-0": "image of Open-i"}
    assert canaries.search_files(world.workdir.parent, wanted) == []
    with np.load(world.features) as held:
        assert canaries.search(repr(held["image_id"].tolist()).encode(), wanted) == set()
        assert len(held["image_id"][0]) == len(held["patient_id"][0]) == 17
    table = pq.read_table(world.workdir / "transfer/predictions.parquet")
    assert all(re.fullmatch("i[0-9a-f]{16}", one) for one in table["image_id"].to_pylist())
    assert all(re.fullmatch("p[0-9a-f]{16}", one) for one in table["patient_id"].to_pylist())
    ages = pq.read_table(world.workdir / "transfer/films.parquet")["age"].to_pylist()
    assert set(ages) == {90.0}  # of 91


def test_a_built_dataset_holds_hashed_patients_and_reports_own_text_alone(world):
    for folder in (world.data / "ward/256/1.0.0", world.data / "indiana_university"):
        found = canaries.search_files(folder, ALL)
        assert [one for one in found if "array_record" not in one] == []
    kept = {FINDINGS: 0}
    for name in ("ward/256", "indiana_university/256"):
        for examples in read(world.data / name / "1.0.0").values():
            for example in examples:
                report = example.pop("report", "")
                kept[FINDINGS] += FINDINGS in report
                assert canaries.search(report.encode(), canaries.needles()) == set()
                plain = {key: value for key, value in example.items() if key != "image"}
                assert canaries.search(repr(plain).encode(), ALL) == set()
    assert kept[FINDINGS] == sum(
        planted.NUM_REPORTS.values()
    )  # by design: a dataset of reports has them


def test_stored_images_are_coded_anew_without_what_files_held_beside_pixels(world):
    for path in world.data.rglob("*.array_record*"):
        content = path.read_bytes()
        assert canaries.search(content, canaries.needles()) == set()


def test_errors_of_images_hold_no_tag(world):
    refused = 0
    for path in sorted((world.raw / "broken").iterdir()):
        try:
            image_io.read_image(path, shorter_side=32)
        except ImageError as error:
            refused += 1
            assert canaries.search(str(error).encode(), canaries.needles()) == set(), path
    assert refused >= 8


def test_canaries_are_where_they_were_planted_and_the_search_finds_them(world, tmp_path):
    header = pydicom.dcmread(world.raw / "ward-seven/image-000.dcm")
    texts = [element for element in header.iterall() if SURNAME in str(element.value)]
    assert len(list(header.iterall())) > 3000 and len(texts) > 2000
    assert canaries.search_files(world.raw / "ward-seven", canaries.needles())
    image, info = Image.new("L", (4, 4)), PngInfo()
    info.add_text("note", f"{NAME} " * 9, zip=True)
    image.save(tmp_path / "chunk.png", pnginfo=info)
    np.savez_compressed(tmp_path / "arrays.npz", names=np.array([NAME.upper()]))
    pq.write_table(pa.table({"note": [NAME] * 99}), tmp_path / "t.parquet", compression="zstd")
    (tmp_path / "utf16.txt").write_text(NAME, encoding="utf-16")
    (tmp_path / "log.gz").write_bytes(canaries.gzip.compress(RECORD_NUMBER.encode()))
    (tmp_path / "coded.json").write_bytes(canaries.base64.b64encode(f"id: {NAME}.".encode()))
    (tmp_path / "hex.txt").write_text(NAME.encode().hex())
    found = {
        one.partition(":")[0].removesuffix(" (values)")
        for one in canaries.search_files(tmp_path, canaries.needles())
    }
    assert found == {path.name for path in tmp_path.iterdir()}
