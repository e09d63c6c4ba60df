"""MIMIC-CXR's reports, one text file a study."""

from __future__ import annotations

from pathlib import Path

from data_builders.base import folders
from data_builders.base.records import BuildError
from data_builders.mimic_cxr import release


class Reports:
    """The reports below `root`; a study's is read once, however many of its images ask for it."""

    def __init__(self, root: Path):
        self._root = root
        self._known: dict[str, str] = {}

    def read(self, image: release.Radiograph) -> str:
        """The report of the image's study as it stands, its ___ included; "" if there is none."""
        if image.study_id not in self._known:
            folder = release.subject_folder(self._root, image.subject_id)
            try:
                path = folder / f"s{image.study_id}.txt"
                text = folders.read_bytes(path).decode("utf-8", "replace")
            except FileNotFoundError:
                text = ""
            self._known[image.study_id] = text
        return self._known[image.study_id]

    def check(self) -> None:
        """Refuses a folder in which no study had its report.

        Raises:
          BuildError: says where the first should have been.
        """
        if not any(self._known.values()):
            raise BuildError(
                f"{self._root} holds no report of any of the {len(self._known)} studies; expected "
                "files/p10/p1…/s5….txt, as mimic-cxr-reports.zip unpacks."
            )
