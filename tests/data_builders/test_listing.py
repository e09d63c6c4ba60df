"""README's table of datasets is the command's."""

import subprocess
import sys
from pathlib import Path

from cxr_jax.data.tasks import TASKS
from data_builders import build

ROOT = Path(__file__).parents[2]


def test_readme_shows_the_table_of_datasets():
    shown = subprocess.run(
        [sys.executable, "-m", "data_builders.build", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown in (ROOT / "README.md").read_text()
    listed = [line.split(" | ")[0].removeprefix("| ") for line in shown.splitlines()[2:]]
    assert listed == build.builder_names()


def test_tasks_are_of_datasets_and_labels_that_exist():
    assert TASKS.keys() <= set(build.builder_names())
