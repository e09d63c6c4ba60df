"""A dataset that is built again: its predecessor stays until the new one is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from data_builders.records import AlreadyBuilt, BuildError


class replaced:
    """Moves a dataset aside while its successor is built; brings it back if that fails."""

    def __init__(self, folder: Path, overwrite: bool):
        self._folder, self._overwrite = folder, overwrite
        # Without dots, so that no reader takes it for a version.
        self._aside = folder.with_name("replaced")

    def __enter__(self) -> None:
        if not self._folder.exists():
            return
        if not self._overwrite:
            if (self._folder / "dataset_info.json").exists():
                raise AlreadyBuilt(
                    f"{self._folder} is built already. To build it again: --overwrite."
                )
            raise BuildError(
                f"{self._folder} exists but is no finished dataset (dataset_info.json is "
                "missing). Remove it, or build it again with --overwrite."
            )
        shutil.rmtree(self._aside, ignore_errors=True)
        os.rename(self._folder, self._aside)

    def __exit__(self, error: Any, *_: Any) -> None:
        if not self._aside.exists():
            return
        if error is None:
            shutil.rmtree(self._aside)
        else:
            os.rename(self._aside, self._folder)
