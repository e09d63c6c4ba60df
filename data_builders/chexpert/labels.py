"""The 14 labels that CheXpert, MIMIC-CXR and BRAX share, and the cells they stand in."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from cxr_jax.data.tasks import FRONTAL
from data_builders.base.csv_table import Row, Table
from data_builders.base.records import BuildError

# Shared with MIMIC-CXR and BRAX.
CHEXPERT_LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
# The five labels of the CheXpert competition.
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# Reports that were read for findings say what they found: a blank is a finding that is absent.
FROM_REPORTS = {"missing_as": "zeros", "projections": FRONTAL}

UNMENTIONED: Mapping[str, float] = dict.fromkeys(CHEXPERT_LABELS, float("nan"))

_VALUES = {"": float("nan")}
for _value in (1, 0, -1):
    _VALUES |= {str(_value): float(_value), str(float(_value)): float(_value)}


class LabelCells:
    """Reads the 14 cells of each row of a table, found by name.

    Rows that say the same share one mapping: among hundreds of thousands of rows few differ.
    """

    def __init__(self, table: Table):
        self._cells = operator.itemgetter(*(table.index(name) for name in CHEXPERT_LABELS))
        self._known: dict[tuple[str, ...], Mapping[str, float]] = {}

    def read(self, row: Row) -> Mapping[str, float]:
        """Label -> 1, 0, -1 or NaN (blank).

        Raises:
          BuildError: another value.
        """
        cells = self._cells(row.fields)
        if cells not in self._known:
            for name, cell in zip(CHEXPERT_LABELS, cells, strict=True):
                if cell not in _VALUES:
                    raise BuildError(
                        f"{row.where}: {name} is neither 1, 0, -1 nor blank. Restore the owner's file."
                    )
            self._known[cells] = {
                name: _VALUES[cell] for name, cell in zip(CHEXPERT_LABELS, cells, strict=True)
            }
        return self._known[cells]
