"""The table of datasets in the docs is the command's."""

import subprocess
import sys
from pathlib import Path

from cxr_jax.data.tasks import check_policies, parse
from data_builders import build

ROOT = Path(__file__).parents[2]


def test_docs_show_the_table_of_datasets():
    shown = subprocess.run(
        [sys.executable, "-m", "data_builders.build", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = ROOT / "docs/datasets.md"
    assert shown in (page if page.exists() else ROOT / "README.md").read_text()
    listed = [line.split(" | ")[0].removeprefix("| ") for line in shown.splitlines()[2:]]
    assert listed == build.builder_names()


def test_a_datasets_tasks_are_of_labels_that_it_has():
    for name in build.builder_names():
        cls = build.builder_class(name)
        for task in cls.TASKS.values():
            check_policies(task)
            assert all(parse(expression, cls.LABEL_NAMES) for expression in task.labels.values())
