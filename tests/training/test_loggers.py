"""Loggers beside metrics.jsonl, in their offline modes, read back by their own libraries."""

import json
import re
from types import SimpleNamespace

import pytest

from cxr_jax.training import log, loggers
from cxr_jax.training._utilisation import Utilisation
from cxr_jax.training.log import Progress, Writer

CONFIG = {"batch_size": 16, "model.name": "resnet", "crop": (0.2, 1.0), "data.pairs": ""}


def two_starts(folder, name):
    """A run that ended after step 5, whose last checkpoint is of step 2, and its second start."""
    folder.mkdir()
    for first_step, steps in ((0, (1, 2, 5)), (2, (5, 6))):
        writer = Writer(folder, first_step, (name,), CONFIG)
        for step in steps:
            writer.scalars(step, {"loss": 1.0 / step})
            writer.board_scalars(step, {"speed/images_per_second": 10.0})
        writer.close()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 5, 6]


def test_mlflow_has_every_step_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    two_starts(tmp_path / "run", "mlflow")
    writer = Writer(tmp_path / "run", 6, ("mlflow",))
    writer.scalars(7, {"jsrt-nodule@folds=5/a+1/macro_auroc": 0.5})  # marks that MLflow refuses
    writer.close()
    client = mlflow.MlflowClient((tmp_path / "run" / "mlruns").as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "cxr_jax"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["jsrt-nodule_folds_5/a_1/macro_auroc"] == 0.5
    assert run.data.params["model.name"] == "resnet" and run.data.params["crop"] == "(0.2, 1.0)"
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    found = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")]
    assert found == [(step, 1.0 / step) for step in (1, 2, 5, 6)]


def small_leveldb_log(data):
    """Yields the records of a log of one block: sum (4 bytes), length (2), type (1), content."""
    while len(data) > 7:
        length = int.from_bytes(data[4:6], "little")
        yield data[7 : 7 + length]
        data = data[7 + length :]


def test_wandb_offline_has_every_step_once(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    two_starts(tmp_path / "run", "wandb")
    wandb.teardown()  # its process has then written all
    steps, names, ids = [], set(), set()
    for path in sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")):
        for data in small_leveldb_log(path.read_bytes()[7:]):
            record = Record.FromString(data)
            if record.run.run_id:
                ids.add(record.run.run_id)
                names |= {item.key for item in record.run.config.update}
            if record.history.item:
                found = {".".join(one.nested_key) or one.key: one for one in record.history.item}
                steps.append((record.history.step.num, float(found["loss"].value_json)))
                assert json.loads(found["speed/images_per_second"].value_json) == 10.0
    assert steps == [(step, 1.0 / step) for step in (1, 2, 5, 6)]
    assert len(ids) == 1 and names >= set(CONFIG)


def test_an_outage_of_a_service_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    class Service(loggers.Logger):
        run = "r1"

        def scalars(self, step, values):
            if step > 1:
                raise ConnectionError("no route to host")

    def open_again(*_):
        raise ConnectionError("no route to host")

    for opens, steps in ((lambda *_: Service(), (1, 2, 3)), (open_again, (4, 5))):
        monkeypatch.setattr(loggers, "find", lambda name, opens=opens: opens)
        writer = Writer(tmp_path, steps[0] - 1, ("service",))
        for step in steps:
            writer.scalars(step, {"loss": 1.0})
        writer.close()
        printed = capsys.readouterr().out
        assert printed.count("WARNING: config.loggers: service failed (no route to host)") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    kept = json.loads((tmp_path / "loggers.json").read_text())
    assert kept == {"service": {"run": "r1", "step": 1}}
    with pytest.raises(ConnectionError):  # a new run is not begun without what was asked for
        Writer(tmp_path, 5, ("other",))


def test_results_that_a_service_was_not_told_are_its_next_step(tmp_path, monkeypatch):
    told, down = [], []

    class Service(loggers.Logger):
        run = "r1"

        def scalars(self, step, values):
            if down:
                raise down.pop()
            told.append((step, values))

    monkeypatch.setattr(loggers, "find", lambda name: lambda *_: Service())

    def write(step, score, more=2.0):
        lines = [{"a": score}, {"b": 1.0}]
        log.write_results(tmp_path, ("service",), {}, step, lines, {"more": more})

    for step, score in ((0, 0.5), (0, 0.5), (0, 0.6), (0, 0.5), (4, 0.5), (4, 0.7)):
        write(step, score)
    assert [step for step, _ in told] == [0, 1, 2, 4, 5]
    assert [values["a"] for _, values in told] == [0.5, 0.6, 0.5, 0.5, 0.7]
    assert all(values | {"a": 0} == {"a": 0, "b": 1, "more": 2} for _, values in told)
    text = '{"step": 4, "a": 0.7}\n{"step": 4, "b": 1.0}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == text
    for error in (ConnectionError("no route to host"), KeyboardInterrupt()):
        down.append(error)  # an outage, a kill: the next start tells it
        try:
            write(4, 0.8)
        except KeyboardInterrupt:
            assert (tmp_path / "metrics.jsonl").read_text() == text.replace("0.7", "0.8")
    (tmp_path / "refused").mkdir()
    with pytest.raises(ValueError, match="no logger 'other'"):
        monkeypatch.undo()
        log.write_results(tmp_path / "refused", ("other",), {}, 0, [{"a": 1.0}], {})
    assert (tmp_path / "refused/metrics.jsonl").read_text() == '{"step": 0, "a": 1.0}\n'
    monkeypatch.setattr(loggers, "find", lambda name: lambda *_: Service())
    write(4, 0.8)
    write(4, 0.8, more=3.0)  # of a label alone
    assert [(step, values["a"], values["more"]) for step, values in told[5:]] == [
        (6, 0.8, 2.0),
        (7, 0.8, 3.0),
    ]


def test_a_logger_that_there_is_not_is_refused_before_a_run(monkeypatch):
    with pytest.raises(ValueError, match=r"no logger 'wandbb'.*did you mean 'wandb'"):
        loggers.check(("tensorboard", "wandbb"))
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"package mlflow is missing: pip install '.\[mlflow\]'"):
        loggers.check(("mlflow",))


def test_a_bar_moves_on_a_terminal_alone(monkeypatch, capsys):
    Progress(100, 8).draw(50)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(log.sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    progress = Progress(100, 8)
    progress.draw(50)
    progress.draw(51)  # within the same second
    drawn = capsys.readouterr().out
    assert drawn.count("\r") == 1 and "\n" not in drawn
    assert f"{12 * '━'}{12 * '╌'} 50%" in drawn
    assert re.search(r"left  data wait 0%  CPU \d+%  memory", drawn)
    progress.report(51, {"loss": 1.0})
    assert capsys.readouterr().out.startswith("\x1b[2Kstep 51/100")


def test_the_bar_says_how_busy_gpus_are_once_nvidia_smi_has_answered(tmp_path, monkeypatch):
    """A program of that name answers for the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    program, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    gpus = [SimpleNamespace(platform="gpu", local_hardware_id=number) for number in (0, 1)]
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert Utilisation(gpus).words(0.0) == ""  # it is not installed
    program.write_text(f'#!/bin/sh\necho "$3" >> {asked}\necho 90\necho 50\n')
    program.chmod(0o755)
    assert Utilisation([SimpleNamespace(platform="cpu")]).words(0.0) == ""
    assert Utilisation([SimpleNamespace(platform="gpu", local_hardware_id=None)]).words(0.0) == ""
    assert not asked.exists()
    found = Utilisation(gpus)
    assert found.words(100.0) == ""  # asked, and not waited for
    found._process.wait()
    assert found.words(101.0) == found.words(109.0) == "GPU 70%"
    assert asked.read_text() == "--id=2,5\n"
    program.write_text("#!/bin/sh\necho '[N/A]'; exit 3\n")
    assert found.words(110.0) == "GPU 70%"
    found._process.wait()
    assert found.words(111.0) == ""
    program.write_text("#!/bin/sh\nprintf '40\\nGPU 3 is lost \\377\\n'\n")
    assert found.words(120.0) == ""
    found._process.wait()
    assert found.words(121.0) == "GPU 40%"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert found.words(130.0) == "GPU 40%"
    assert found.words(140.0) == ""  # it hangs: what was is no more
    found._process.kill()
    found._process.communicate()
