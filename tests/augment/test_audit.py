"""The audit as a person calls it, and what it refuses."""

import contextlib
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cxr_jax import config as config_file
from cxr_jax.augment import audit
from cxr_jax.data.dataset_info import find_folder
from cxr_jax.data.splits import load_boxes

_FEW = ("--config=configs/byol.py:demo", "--num_draws=20")
_SMALL = ("--config.views.a.crop_scale=(0.05,0.1)", "--config.views.b.crop_scale=(0.05,0.7)")


@pytest.fixture(scope="module")
def audited(data_dir, tmp_path_factory):
    """The command, with crops far too small: its folder, and what it said."""
    output, said = tmp_path_factory.mktemp("an audit") / "out", io.StringIO()
    arguments = ["--dataset=phantom/tiny", f"--data_dir={data_dir}", *_FEW, *_SMALL]
    with contextlib.redirect_stdout(said):
        assert audit.main([*arguments, f"--output={output}"]) == 0
    return output, said.getvalue()


def test_command_prints_a_table_and_writes_the_same_numbers(audited, data_dir):
    output, said = audited
    written = json.loads((output / "audit.json").read_text())
    with open(output / "audit.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    boxed = load_boxes("phantom/tiny", str(data_dir), "train")
    names = [*sorted(set(boxed.labels)), "all", "smallest quarter of all"]
    assert [row["finding"] for row in rows] == names
    for row, found in zip(rows, written["findings"]):
        assert {name: str(value) for name, value in found.items()} == {
            name: value or "None" for name, value in row.items()
        }
        line = f"| {row['finding']} | {row['boxes']} | {100 * found['held_a']:.0f} % | "
        assert line in said
    assert int(rows[-2]["boxes"]) == len(boxed.labels)
    assert written["views"]["a"]["crop_scale"] == [0.05, 0.1] and written["num_draws"] == 20
    assert float(rows[-2]["held_a"]) < float(rows[-2]["held_b"])


def test_sweep_stays_below_the_largest_crop_of_both_views(audited):
    written = json.loads((audited[0] / "audit.json").read_text())
    assert [point["crop_scale_min"] for point in written["sweep"]] == [0.08]
    findings = {row["finding"] for row in written["findings"]}
    assert all(point["held_both"].keys() == findings for point in written["sweep"])


def test_picture_shows_images_and_views_and_a_curve(audited):
    picture = np.asarray(Image.open(audited[0] / "audit.png").convert("RGB")).astype(int)
    assert min(picture.shape[:2]) > 600
    # Outlines of findings that are lost have this colour, and the crops lose nearly all.
    lost = np.abs(picture - (0xD5, 0x5E, 0x00)).sum(axis=-1) < 30
    assert lost.sum() > 100


def test_output_names_no_patient_and_ends_with_the_next_step(audited):
    output, said = audited
    written = (output / "audit.json").read_text() + (output / "audit.csv").read_text()
    assert not re.search(r"p0\d{4}", said + written)  # the phantom's ids
    last = said.splitlines()[-1]
    assert last.endswith(
        "python run.py --config=configs/byol.py:demo '--config.views.a.crop_scale=(0.08,0.1)' "
        "'--config.views.b.crop_scale=(0.08,0.7)'"
    )


def test_enough_is_said_to_be_enough_and_fields_are_kept(data_dir, tmp_path, capsys):
    change = "--config.seed=3"
    arguments = ["--dataset=phantom/tiny", f"--data_dir={data_dir}", *_FEW, change]
    assert audit.main([*arguments, f"--output={tmp_path}"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Every finding is in both views")
    assert last.endswith(f"python run.py --config=configs/byol.py:demo {change}")


def test_command_of_the_next_step_is_understood():
    config = config_file.load("configs/byol.py", ["--config.views.a.crop_scale=(0.4,1.0)"])
    assert config.views.a.crop_scale == (0.4, 1.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--config=configs/byol.py",), "--dataset is missing"),
        (("--dataset=phantom",), "--config is missing"),
        (
            ("--dataset=phantom", "--config=configs/byol.py", "--draws=3"),
            "unknown option '--draws'",
        ),
        (("--dataset=phantom", *_FEW, "--num_draws=0"), "--num_draws=0 must be"),
        (("--dataset=phantom", *_FEW, "--min_kept=0"), "--min_kept=0.0 is no share"),
        (("--dataset=phantom", "--config=configs/transfer.py"), "makes no views; audit a pre"),
        (
            ("--dataset=phantom", *_FEW, "--config.views.a.crop_scal=(0.2,1.0)"),
            "no field config.views.a.crop_scal: did you mean 'crop_scale'?",
        ),
        (
            ("--dataset=phantom", *_FEW, "--config.views.b.flip=1.5"),
            "config.views.b.flip is 1.5; it must be between",
        ),
    ],
)
def test_wrong_options_get_one_clear_message(arguments, message, capsys):
    assert audit.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_dataset_without_boxes_is_refused_with_those_that_have(data_dir, tmp_path, capsys):
    built = find_folder("phantom/tiny", str(data_dir))
    shutil.copytree(built, tmp_path / "with" / "256" / "1.0.0")
    shutil.copytree(built, tmp_path / "without" / "256" / "1.0.0")
    features = tmp_path / "without" / "256" / "1.0.0" / "features.json"
    stored = json.loads(features.read_text())
    del stored["featuresDict"]["features"]["boxes"]
    features.write_text(json.dumps(stored))
    assert audit.main(["--dataset=without", f"--data_dir={tmp_path}", *_FEW]) == 1
    assert re.search(r"without has no boxes.* that have: with\. ", capsys.readouterr().err)


def test_a_split_without_boxes_is_refused_with_the_counts_of_the_others(data_dir, capsys):
    boxed = load_boxes("phantom/tiny", str(data_dir), "train")
    free = min(set(range(len(boxed.source))) - set(boxed.images.tolist()))
    split = f"train[{free}:{free + 1}]"
    arguments = ["--dataset=phantom/tiny", f"--data_dir={data_dir}", *_FEW, f"--split={split}"]
    assert audit.main(arguments) == 1
    assert f"has a box; boxes in its splits: train {len(boxed.labels)}" in capsys.readouterr().err
