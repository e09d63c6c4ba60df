"""The commands that a hospital would give, on an export that is full of canaries."""

import contextlib
import importlib.util
import os
import signal
import tempfile
from pathlib import Path
from typing import NamedTuple

import pydicom
import pytest

import run
from cxr_jax.report import __main__ as report
from cxr_jax.weights import export
from data_builders import overlap
from data_builders.base import build_command
from tests.faults import canaries, planted
from tests.faults.canaries import FREE, NAME, PATIENTS, SURNAME

TEXTS = importlib.util.find_spec("tokenizers") is not None


class World(NamedTuple):
    """Results of the commands.

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


def give(root: Path) -> World:
    """Builds, pretrains, transfers, exports and fails, by the commands that people give."""
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
            folder = f"--manual_dir={path.parent / 'images'}"
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
                "--config.data.name=ward",
                "--config.transfer.dataset=ward",
                "--config.transfer.num_resamples=20",
                "--config.transfer.baselines=",
                "--config.transfer.C=(1e-2,)",
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
    if TEXTS:
        yield "pretrain with reports", run.main(_with_reports(world))
        export.main([str(world.workdir.parent / "texts"), "--format=safetensors"])
    same = ["ward", "ward", f"--data_dir={world.data}"]
    yield "overlap", overlap.main([*same, f"--output={world.data / 'overlap'}"])
    scores = world.workdir / "transfer/predictions.parquet"
    of_images = ("--films", str(world.workdir / "transfer/films.parquet"))
    out = ("--out", str(world.workdir.parent / "again"), "--num_resamples=20")
    report.main([str(scores), *of_images, *out])
    yield (
        "unknown image",
        run.main(
            [
                *transfer,
                f"--workdir={world.tracebacks / 'none'}",
                "--config.dataset=ward",
                "--config.pictures.images=ward-seven/image-006",
            ]
        ),
    )
    below = world.workdir / "config.json" / "below"  # Python's own error, which names the file
    yield "workdir in a file", run.main([*transfer, "--config.dataset=ward", f"--workdir={below}"])
    scores = f"--scores={world.workdir / 'transfer'}"
    arguments = [f"--out={world.exported}", scores, "--with_seen_images"]
    export.main([str(world.workdir), "--format=safetensors", *arguments])
    yield "export", 0


def _with_reports(world: World) -> list[str]:
    """Two steps of ConVIRT's on Open-i's reports, with a tokenizer that is made of them."""
    config = world.data.parent / "small.py"
    config.write_text(f"""
from configs import convirt
from ml_collections import ConfigDict

def get_config(preset):
    config = convirt.get_config("cpu")
    # Compiled in a fraction of a ResNet's time.
    config.model = ConfigDict(dict(name="vit", variant="64x1", patch=16, image_size=32))
    config.data.update(name="indiana_university", dir={str(world.data)!r}, image_size=40)
    config.data.reports.max_tokens = 16
    config.objective.update(hidden=(8,), out=4)
    config.objective.text.update(width=64, num_blocks=1)
    config.views.a.update(size=32, blur_prob=0.0)
    config.optimizer.warmup = 1
    config.update(batch_size=8, image_size=32, num_train_steps=2)
    config.update(checkpoint_every_steps=2, log_every_steps=1)
    return config
""")
    return [f"--config={config}", f"--workdir={world.workdir.parent / 'texts'}"]


def _bad_tables(folder: Path) -> dict[str, Path]:
    """CSVs of every error that people make, with canaries where it is made."""
    (folder / "images").mkdir(parents=True)
    for name in ("1.png", "2.png"):
        planted.write_picture(folder / "images" / name, int(name[0]))
    a, b = PATIENTS[:2]
    tables = {
        "label": f"image,patient_id,Remark\n1.png,{a},{NAME} {FREE}\n",
        "split": f"image,patient_id,split,Nodule\n1.png,{a},{SURNAME},1\n",
        "sex": f"image,patient_id,sex,Nodule\n1.png,{a},{NAME},1\n",
        "age": f"image,patient_id,age,Nodule\n1.png,{a},{canaries.BIRTH},1\n",
        "path": f"image,patient_id,Nodule\n/{SURNAME}/1.png,{a},1\n",
        "no such image": f"image,patient_id,Nodule\n{NAME}.png,{a},1\n",
        "listed twice": f"image,patient_id,Nodule\n{NAME},{a},1\n{NAME},{a},1\n",
        "two splits": f"image,patient_id,split,Nodule\n1.png,{a},train,1\n2.png,{a},test,1\n",
        "no header": f"{SURNAME},{a},1\n2.png,{b},0\n",
        "a field too many": f"image,patient_id,Nodule\n1.png,{a},1,{NAME}\n",
        "open quote": f'image,patient_id,Nodule\n1.png,"{a},1\n2.png,{NAME},"1\n',
        "stray quote": f'image,patient_id,Nodule\n1.png,"{NAME}"x,1\n',
        "zero byte": f"image,patient_id,Nodule\n1.png,{NAME}\0,1\n",
        "no column": f"Picture,patient_id\n1.png,{a}\n",
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
