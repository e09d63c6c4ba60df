"""The command line: reports of predictions, whatever software made them."""

import re

import numpy as np
import pytest

from cxr_jax.report import __main__ as command
from cxr_jax.transfer import image_table
from cxr_jax.transfer.predictions import read_parquet, write_parquet
from tests.fakes import benchmark as fake


def report(arguments):
    return command.main(arguments).with_suffix(".md").read_text()


def test_files_of_one_name_are_told_apart_by_folder(tmp_path):
    paths = []
    for place, name in enumerate(("byol", "random")):
        (tmp_path / name).mkdir()
        given = fake.predictions(1.0, place, "phantom", ("Mass",))
        paths.append(write_parquet(given, tmp_path / name / "predictions.parquet"))
    command.compare_files(paths, tmp_path / "out", 50)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "(byol)" in text or "byol" in text.splitlines()[0]
    other = read_parquet(paths[1])._replace(label_names=("Hernia",))
    write_parquet(other, paths[1])
    with pytest.raises(ValueError, match="no label is in all of"):
        command.compare_files(paths, tmp_path / "out", 50)


def test_a_transfers_folder_is_its_encoder_against_its_baselines(tmp_path):
    folders = [tmp_path / "run", tmp_path / "run" / "baselines" / "1-random"]
    for place, folder in enumerate(folders):
        folder.mkdir(parents=True)
        given = fake.predictions(2.0 - place, place, "phantom", ("Mass",))
        write_parquet(given, folder / "predictions.parquet")
    tables = [fake.draw_images() for _ in folders]
    tables[1] = tables[1]._replace(seen_film=np.arange(80) < 20)
    for table, folder in zip(tables, folders):
        image_table.write_parquet(table, folder / "films.parquet")
    arguments = [str(folders[0]), f"--out={tmp_path / 'out'}", "--num_resamples=50"]
    text = report(arguments)
    assert "run against random" in text and "| projection PA | " in text
    assert "60 of the 80 test images" in text  # those that the baseline had not seen
    assert "pretrainings" not in text
    assert not (folders[0] / "report.md").exists()
    with pytest.raises(ValueError, match=r"out holds a report already: --overwrite, or another"):
        report(arguments)
    again = folders[0] / "pretrainings" / "1-other"
    again.mkdir(parents=True)
    write_parquet(fake.predictions(1.2, 5, "phantom", ("Mass",)), again / "predictions.parquet")
    both = report([*arguments, "--overwrite"])
    assert "run: the score is the mean of 2 pretrainings of one recipe" in both
    both, text = (re.search(r"AUROC for Mass (\.\d+)", said)[1] for said in (both, text))
    assert both < text  # their mean, and the other is worse


def test_images_and_score_kind_of_other_software(tmp_path):
    given = fake.predictions(1.0, 1, "phantom")
    write_parquet(given, tmp_path / "ours.parquet")
    image_table.write_parquet(fake.draw_images(), tmp_path / "films.parquet")
    arguments = [str(tmp_path / "ours.parquet"), f"--out={tmp_path}", "--num_resamples=50"]
    arguments.append("--overwrite")
    images = [f"--films={tmp_path / 'films.parquet'}"]
    plain = report(arguments)
    assert "Calibration needs probabilities" in plain and "Subgroups" not in plain
    assert not (tmp_path / "reliability.png").exists()
    text = report([*arguments, *images, "--score_kind=log-odds"])
    assert "| age 18-39 | " in text and "secret" not in text and "Notes" not in text
    assert (tmp_path / "reliability.png").exists()
    with pytest.raises(
        ValueError, match=r"ours.parquet: .*row.*\[0, 1\]. Give --score_kind=log-odds"
    ):
        command.main([*arguments, "--score_kind=probability"])
    with pytest.raises(ValueError, match=r"ours.parquet: .*score is .* no log-probability lies"):
        command.main([*arguments, "--score_kind=log-probability"])
    write_parquet(given._replace(score_kind="log-odds"), tmp_path / "ours.parquet")
    assert "Left out" not in report([*arguments, "--score_kind=probability"])
    image_table.write_parquet(fake.draw_images(79), tmp_path / "films.parquet")
    with pytest.raises(ValueError, match=r"films.parquet: image 'secret-image-79' is not in"):
        command.main([*arguments, *images])
    (tmp_path / "ours.csv").write_text("image_id,score")
    with pytest.raises(ValueError, match=r"is text; .*read_csv\('ours.csv'\).to_parquet\('ours.p"):
        command.main([str(tmp_path / "ours.csv")])
    with pytest.raises(ValueError, match="neither a predictions file nor the workdir"):
        command.main([str(tmp_path), *images])
    (tmp_path / "cells.json").write_text("{}")
    with pytest.raises(SystemExit):
        command.main([str(tmp_path), *images])
