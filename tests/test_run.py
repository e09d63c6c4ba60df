"""run.py as a person calls it: in a subprocess, where TensorFlow cannot be imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_jax import config
from cxr_jax.__main__ import main
from cxr_jax.experiments import reproduce
from tests.faults import runs

_ROOT = Path(__file__).parents[1]

_TINY = (
    "--config.num_train_steps=4",
    "--config.checkpoint_every_steps=2",
    "--config.log_every_steps=1",
    "--config.batch_size=16",
    "--config.data.image_size=40",
    "--config.image_size=32",
    "--config.views.a.size=32",
    "--config.views.b.size=32",
    "--config.optimizer.warmup=1",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Importing TensorFlow fails, as on a machine without it; nothing is compiled yet."""
    blocked = tmp_path_factory.mktemp("blocked") / "tensorflow"
    blocked.mkdir()
    (blocked / "__init__.py").write_text("raise ImportError('no TensorFlow here')")
    tests = ("JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")
    own = {name: value for name, value in os.environ.items() if name not in tests}
    cache = str(tmp_path_factory.mktemp("cache"))
    return own | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(blocked.parent),
        "XDG_CACHE_HOME": cache,
    }


def _run(environment, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def demo(environment, tmp_path_factory):
    """The README's demo command, shortened: its data is drawn, nothing is built beforehand."""
    folder = tmp_path_factory.mktemp("a demo with spaces")
    data, workdir = folder / "data", folder / "run"
    arguments = (
        "--config=configs/byol.py:demo",
        f"--workdir={workdir}",
        f"--config.data.dir={data}",
        "--config.data.name=phantom/tiny",
        "--config.transfer.dataset=phantom/tiny",
        "--config.transfer.num_resamples=50",
        *_TINY,
    )
    return arguments, data, workdir, _run(environment, *arguments)


def test_demo_pretrains_and_reports(demo):
    _, _, workdir, done = demo
    assert done.returncode == 0, done.stderr
    assert (workdir / "config.json").is_file()
    assert (workdir / "checkpoints" / "4" / "encoder").is_dir()
    assert list(workdir.glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all("loss" in ln for ln in lines)
    report = workdir / "transfer" / "report.html"
    assert str(report) in done.stdout.splitlines()[-1]
    assert "random" in report.read_text() and "random" in report.with_suffix(".md").read_text()


def test_compiled_programs_are_kept_for_the_next_run(demo, environment):
    assert list(Path(environment["XDG_CACHE_HOME"], "cxr_jax", "compiled").glob("*/*jit*"))


def test_transfer_files_hold_what_scripts_rely_on(demo):
    _, _, workdir, _ = demo
    table = pq.read_table(workdir / "transfer" / "predictions.parquet")
    assert table.column_names == ["image_id", "patient_id", "label", "target", "score"]
    rows = json.loads((workdir / "transfer" / "metrics.json").read_text())
    assert {"label", "n_pos", "n_neg", "auroc", "low", "high"} <= rows[0].keys()
    assert rows[-1]["label"] == "macro"
    baselines = list((workdir / "transfer" / "baselines").iterdir())
    assert len(baselines) == 1 and (baselines[0] / "predictions.parquet").is_file()


def test_same_command_again_resumes_and_changes_nothing(demo, environment):
    arguments, _, workdir, _ = demo
    names = ("metrics.jsonl", "transfer/metrics.json", "transfer/comparisons.json")
    before = [(workdir / name).read_text() for name in names]
    again = _run(environment, *arguments)
    assert again.returncode == 0, again.stderr
    assert "Resuming" in again.stdout
    assert [(workdir / name).read_text() for name in names] == before


@pytest.fixture(scope="module")
def reproduced(demo, environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reproduced") / "run"
    return workdir, _run(environment, f"--reproduce={demo[2]}", f"--workdir={workdir}")


def test_a_run_is_reproduced_bit_for_bit(demo, reproduced):
    _, _, old, _ = demo
    new, done = reproduced
    assert done.returncode == 0, done.stderr
    assert "reproduced bit for bit (8 results compared)." in done.stdout
    names = (
        *("metrics.jsonl", "config.json", "transfer/predictions.parquet", "transfer/metrics.json"),
        *("transfer/comparisons.json", "transfer/films.parquet"),
    )
    for name in names:
        assert (new / name).read_bytes() == (old / name).read_bytes()
    held = json.loads((new / "reproduction.json").read_text())
    assert held["equal"] and held["conditions"] == []
    assert {Path(name).name for name in held["results"]} == {
        *("metrics.jsonl", "metrics.json", "comparisons.json", "predictions.parquet"),
        "checkpoints",
    }


def test_what_differs_from_a_reproduced_run_is_told(demo, reproduced, tmp_path, capsys):
    new = reproduced[0]
    old = shutil.copytree(demo[2], tmp_path / "old")
    assert reproduce.report(_saved(old), old, new)
    lines = (old / "metrics.jsonl").read_text().splitlines()
    third = json.loads(lines[2])
    lines[2] = json.dumps(third | {"loss": third["loss"] + 0.5})
    (old / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    table = pq.read_table(old / "transfer/predictions.parquet").to_pandas()
    table.loc[4, "score"] += 0.25
    pq.write_table(pa.Table.from_pandas(table), old / "transfer/predictions.parquet")
    shutil.rmtree(old / "checkpoints/4/state")
    shutil.copytree(old / "checkpoints/2/state", old / "checkpoints/4/state")
    held = json.loads((old / "provenance.json").read_text())
    held["starts"][-1]["packages"]["jax"] = "0.9"
    (old / "provenance.json").write_text(json.dumps(held))
    capsys.readouterr()
    assert not reproduce.report(_saved(old), old, new)
    said = capsys.readouterr().out
    assert "NOT reproduced; 3 of 8 results differ:" in said
    assert "metrics.jsonl: largest difference 0.5 (2.loss)" in said
    assert "predictions.parquet: largest difference 0.25 (score)" in said
    assert "checkpoints: largest difference 2 (['" in said  # step 2 for step 4
    assert f"packages.jax: was 0.9, now {jax.__version__}" in said


def test_what_could_not_be_the_same_is_not_run_again(demo, tmp_path):
    old = shutil.copytree(demo[2], tmp_path / "old")
    reproduce.check(_saved(old), old)
    reproduce.check(_saved(old / "transfer"), old / "transfer")
    kept = (old / "provenance.json").read_text()

    def refused(message, kind=ValueError):
        with pytest.raises(kind, match=message):
            reproduce.check(_saved(old), old)

    held = json.loads(kept)
    (name,) = held["starts"][-1]["dataset"]
    held["starts"][-1]["dataset"][name] = "0123456789abcdef"
    (old / "provenance.json").write_text(json.dumps(held))
    refused(r"the dataset is not the one.*\n  phantom/tiny train: was 0123456789abcdef, now ")
    held["starts"][-1]["dataset"][name] = None
    (old / "provenance.json").write_text(json.dumps(held))
    refused(r"\n  phantom/tiny train: was None, now ")
    (old / "provenance.json").unlink()
    refused("the dataset and the code that made these results are not known", FileNotFoundError)
    (old / "provenance.json").write_text(kept)
    shutil.rmtree(old / "checkpoints/4")
    refused("has not finished")
    with pytest.raises(ValueError, match=r"--config.seed: --reproduce takes"):
        config.load_saved(old, tmp_path, ["--config.seed=3"])


def _saved(workdir):
    return config.load_saved(workdir, workdir, [])


def test_encoder_is_finetuned_on_another_dataset_by_its_workdir(demo, environment, tmp_path):
    _, data, pretrained, _ = demo
    without = {name: environment[name] for name in ("JAX_PLATFORMS", "PYTHONPATH")}
    done = _run(
        os.environ | without,  # it compiles as tests do
        "--config=configs/transfer.py:cpu",
        f"--workdir={tmp_path / 'run'}",
        f"--config.encoder={pretrained}",
        "--config.baselines=",
        "--config.dataset=phantom/tiny",
        f"--config.data.dir={data}",
        "--config.task=Cardiomegaly,Effusion",
        "--config.label_fraction=0.5",
        "--config.protocol=finetune",
        "--config.finetune.learning_rates=(1e-3,)",
        "--config.finetune.min_steps=2",
        "--config.finetune.max_steps=2",
        "--config.finetune.batch_size=8",
        "--config.num_resamples=50",
        f"--config.export_features={tmp_path / 'features.npz'}",
    )
    assert done.returncode == 0, done.stderr
    assert "# Fine-tuning on phantom/tiny" in (tmp_path / "run" / "report.md").read_text()
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [row["label"] for row in rows] == ["Cardiomegaly", "Effusion", "macro"]
    assert (tmp_path / "features.npz").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing"),
        (("--config=configs/nope.py",), "no config file configs/nope.py. There are:"),
        (
            ("--config=configs/byol.py:dmeo",),
            "no preset 'dmeo'; did you mean 'demo'? this config has: ",
        ),
        (
            ("--config=configs/byol.py", "--config.batchsize=3"),
            "no field config.batchsize: did you mean 'batch_size'?",
        ),
        (
            ("--config=configs/byol.py", "--config.batch_size=x"),
            "config.batch_size=x: it takes a whole number, such as ",
        ),
        (
            ("--config=configs/byol.py", "--wrkdir=x"),
            "unknown option '--wrkdir'. Did you mean '--workdir'?",
        ),
        (("--config=README.md",), "no config file README.md; there are:"),
    ],
)
def test_wrong_command_lines_get_one_clear_message(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(_ROOT)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "raceback" not in said


def test_a_dataset_that_is_not_built_gets_its_command(tmp_path):
    transfer = ["--config=configs/transfer.py", "--config.dataset=jsrt", "--config.image_size=32"]
    run = runs.Run([*transfer, f"--config.data.dir={tmp_path}"], tmp_path / "log")
    assert run.end() == 1
    assert "python -m data_builders.build jsrt" in run.said() and "raceback" not in run.said()
