"""Canaries in every DICOM tag, CSV column and report: found nowhere that they do not belong.

Where they belong: patients' hashed ids and reports' own text within built datasets, and file names
in skipped.csv, beside the data.
"""

import contextlib
import os
import re
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import run
from cxr_jax.weights import export
from data_builders import build_command, films
from data_builders.film_error import FilmError
from tests.fakes.dataset import read
from tests.faults import canaries, planted
from tests.faults.canaries import FINDINGS, FREE, NAME, PATIENTS, RECORD_NUMBER, SURNAME


class World(NamedTuple):
    """What the commands left.

    Attributes:
      said: all that went to stdout and stderr, of the C libraries too.
      tracebacks: the folder of run.py's traceback files.
    """

    data: Path
    raw: Path
    workdir: Path
    reports: Path
    exported: Path
    features: Path
    tracebacks: Path
    said: str
    codes: dict[str, int]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Builds, pretrains, transfers, exports and fails, by the commands that people give."""
    root = tmp_path_factory.mktemp("privacy")
    raw, table = root / "raw", root / "labels.csv"
    before = pydicom.config.settings.writing_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    planted.write_folder(raw, table)
    pydicom.config.settings.writing_validation_mode = before
    planted.write_reports(root / "kaggle")
    bad = _bad_tables(root / "bad")
    made = World(
        root / "data",
        raw,
        root / "runs" / "mine",
        root / "runs" / "reports",
        root / "exported",
        root / "features.npz",
        root / "tracebacks",
        "",
        {},
    )
    made.tracebacks.mkdir()
    handler, temporary = signal.getsignal(signal.SIGTERM), tempfile.tempdir
    log = root / "log.txt"
    with pytest.MonkeyPatch.context() as patch, _to_file(log):
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")  # as they are: JAX has started in this process
        patch.setattr(tempfile, "tempdir", str(made.tracebacks))
        codes = dict(_commands(made, table, root / "kaggle", bad))
    signal.signal(signal.SIGTERM, handler)
    tempfile.tempdir = temporary
    return made._replace(said=log.read_text(errors="replace"), codes=codes)


def _commands(world: World, table: Path, kaggle: Path, bad: dict[str, Path]):
    """Name -> exit code of every command."""
    build = ("--num_workers=0", f"--data_dir={world.data}", "--max_skipped=1")
    own = ("image_folder", f"--manual_dir={world.raw}", *build)
    yield "build", build_command.main([*own, f"--labels_csv={table}", "--name=ward"])
    yield (
        "build reports",
        build_command.main(["indiana_university", f"--manual_dir={kaggle}", *build]),
    )
    for name, path in bad.items():
        with contextlib.suppress(SystemExit):
            folder = f"--manual_dir={path.parent / 'films'}"
            yield (
                f"bad {name}",
                build_command.main(
                    ["image_folder", folder, *build, f"--labels_csv={path}", "--name=bad"]
                ),
            )
    data = f"--config.data.dir={world.data}"
    yield (
        "pretrain",
        run.main(
            [
                "--config=configs/simclr.py:cpu",
                f"--workdir={world.workdir}",
                data,
                "--config.data.name=image_folder/ward",
                "--config.transfer.dataset=image_folder/ward",
                "--config.transfer.num_resamples=20",
                "--config.transfer.baselines=",
                "--config.transfer.strengths=(1e-2,)",
                f"--config.transfer.export_features={world.features}",
                "--config.model.variant=small",
                *("--config.num_train_steps=2", "--config.checkpoint_every_steps=2"),
                *("--config.log_every_steps=1", "--config.batch_size=8", "--config.image_size=32"),
                *("--config.data.image_size=40", "--config.views.a.size=32"),
                *("--config.views.b.size=32", "--config.optimizer.warmup=1"),
                *("--config.objective.hidden=(8,)", "--config.objective.out=4"),
            ]
        ),
    )
    transfer = ("--config=configs/transfer.py", f"--config.encoder={world.workdir}", data)
    transfer += ("--config.num_resamples=20", "--config.protocol=knn", "--config.knn.k=(3,)")
    of_reports = ("--config.transfer.task=No Finding,Opacity", "--config.transfer.knn.k=(3,)")
    of_reports += ("--config.transfer.num_resamples=20", "--config.transfer.pictures.draw=False")
    of_reports += ("--config.protocols=knn", "--config.fractions=(1.0,)", "--config.seeds=(0,)")
    of_reports += ("--config.datasets=indiana_university", "--config.reference=random", data)
    yield (
        "benchmark",
        run.main(
            [
                *("--config=configs/benchmark.py", f"--workdir={world.reports}", *of_reports),
                f"--config.encoders=random,mine={world.workdir}",
            ]
        ),
    )
    yield (
        "unknown film",
        run.main(
            [
                *transfer,
                f"--workdir={world.tracebacks / 'none'}",
                "--config.dataset=image_folder/ward",
                "--config.pictures.films=ward-seven/film-006",
            ]
        ),
    )
    scores = f"--scores={world.workdir / 'transfer'}"
    arguments = [f"--out={world.exported}", scores, "--with_ledger"]
    export.main([str(world.workdir), "--format=safetensors", *arguments])
    yield "export", 0


def _bad_tables(folder: Path) -> dict[str, Path]:
    """CSVs of every error that people make, with canaries where it is made."""
    (folder / "films").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        planted.write_picture(folder / "films" / name, int(name[0]))
    a, b = PATIENTS[:2]
    tables = {
        "label": f"image,patient_id,Remark\n1.png,{a},{NAME} {FREE}\n",
        "split": f"image,patient_id,split,Nodule\n1.png,{a},{SURNAME},1\n",
        "age": f"image,patient_id,age,Nodule\n1.png,{a},{canaries.BIRTH},1\n",
        "path": f"image,patient_id,Nodule\n/{SURNAME}/1.png,{a},1\n",
        "no such film": f"image,patient_id,Nodule\n{NAME}.png,{a},1\n",
        "listed twice": f"image,patient_id,Nodule\n{NAME},{a},1\n{NAME},{a},1\n",
        "two splits": f"image,patient_id,split,Nodule\n1.png,{a},train,1\n2.png,{a},test,1\n",
        "no header": f"{SURNAME},{a},1\n2.png,{b},0\n",
        "a field too many": f"image,patient_id,Nodule\n1.png,{a},1,{NAME}\n",
        "open quote": f'image,patient_id,Nodule\n1.png,"{a},1\n2.png,{NAME},"1\n',
        "stray quote": f'image,patient_id,Nodule\n1.png,"{NAME}"x,1\n',
        "zero byte": f"image,patient_id,Nodule\n1.png,{NAME}\0,1\n",
        "no column": f"Image,patient_id\n1.png,{a}\n",
    }
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    (folder / "latin.csv").write_bytes(f"image,Nodule\n1.png,{NAME}é\n".encode("latin1"))
    return {path.stem: path for path in sorted(folder.glob("*.csv"))}


@contextlib.contextmanager
def _to_file(path: Path):
    """Sends what this process writes, C libraries included, to a file."""
    kept = [os.dup(number) for number in (1, 2)]
    with (
        path.open("w", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for number, descriptor in zip((1, 2), kept):
                os.dup2(descriptor, number)
                os.close(descriptor)


def test_commands_did_what_they_were_to_do(world):
    succeeded = {name for name, code in world.codes.items() if code == 0}
    assert succeeded == {"build", "build reports", "pretrain", "benchmark", "export"}, world.said
    refused = [name for name in world.codes if name not in succeeded]
    assert len(refused) == 15 and all(world.codes[name] == 1 for name in refused)
    examples = read(world.data / "image_folder/ward/1.0.0")
    assert sum(map(len, examples.values())) > planted.NUM_FILMS
    assert list(world.tracebacks.glob("cxr_jax-*.txt"))


def test_nothing_that_was_said_holds_a_canary(world):
    # Only what was typed itself: --config.data.dir and the names of files that people chose.
    assert canaries.search(world.said.encode(), canaries.needles()) == set()
    assert canaries.search_files(world.tracebacks, canaries.needles()) == []


def test_no_result_holds_a_canary(world):
    results = {path.name for path in world.workdir.parent.rglob("*") if path.is_file()}
    assert {
        *("predictions.parquet", "films.parquet", "films.csv", "report.md", "metrics.jsonl"),
        *("saliency.png", "neighbours.png", "embedding.png", "metadata.tsv", "exposure.parquet"),
        *("provenance.json", "config.json", "comparisons.json", "report.html", "scores.csv"),
    } <= results
    wanted = canaries.needles((*canaries.WORDS, FINDINGS)) | canaries.needles()
    assert canaries.search_files(world.workdir.parent, wanted) == []
    assert canaries.search_files(world.exported, wanted) == []
    assert canaries.search(world.features.read_bytes(), wanted) == set()


def test_no_result_holds_an_id_of_the_dataset(world):
    wanted = {b"ward-seven": "path", b"film-0": "name", b"_im-0": "film of Open-i"}
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
    wanted = canaries.needles((*canaries.WORDS, FINDINGS)) | canaries.needles()
    for folder in (world.data / "image_folder/ward/1.0.0", world.data / "indiana_university"):
        found = canaries.search_files(folder, wanted)
        assert [one for one in found if "array_record" not in one] == []
    kept = {FINDINGS: 0}
    for name in ("image_folder/ward", "indiana_university/256"):
        for examples in read(world.data / name / "1.0.0").values():
            for example in examples:
                report = example.pop("report", "")
                kept[FINDINGS] += FINDINGS in report
                assert canaries.search(report.encode(), canaries.needles()) == set()
                plain = {key: value for key, value in example.items() if key != "image"}
                assert canaries.search(repr(plain).encode(), wanted) == set()
    assert kept[FINDINGS] == 24  # by design: a dataset of reports has them


def test_stored_films_are_coded_anew_without_what_files_held_beside_pixels(world):
    for path in world.data.rglob("*.array_record*"):
        content = path.read_bytes()
        assert canaries.search(content, canaries.needles()) == set()


def test_errors_of_films_hold_no_tag(world):
    refused = 0
    for path in sorted((world.raw / "broken").iterdir()):
        try:
            films.read_film(path, shorter_side=32)
        except FilmError as error:
            refused += 1
            assert canaries.search(str(error).encode(), canaries.needles()) == set(), path
    assert refused >= 9


def test_canaries_are_where_they_were_planted_and_the_search_finds_them(world, tmp_path):
    header = pydicom.dcmread(world.raw / "ward-seven/film-000.dcm")
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
