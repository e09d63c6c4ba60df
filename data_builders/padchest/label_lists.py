"""PadChest's Labels column: Python lists of the owner's strings, of which a part is kept."""

from __future__ import annotations

import functools
import re

NORMAL = "normal"
# Of the owner's 193 strings those that are frequent or that other datasets label too.
LABEL_NAMES = (
    NORMAL,
    *("adenopathy", "air trapping", "alveolar pattern", "aortic atheromatosis"),
    *("aortic elongation", "apical pleural thickening", "atelectasis", "bronchiectasis"),
    *("calcified granuloma", "callus rib fracture", "cardiomegaly"),
    *("central venous catheter via jugular vein", "central venous catheter via subclavian vein"),
    *("chronic changes", "consolidation", "COPD signs", "costophrenic angle blunting"),
    *("emphysema", "endotracheal tube", "fibrotic band", "flattened diaphragm"),
    *("heart insufficiency", "hemidiaphragm elevation", "hiatal hernia", "hilar congestion"),
    *("increased density", "infiltrates", "interstitial pattern", "kyphosis"),
    *("laminar atelectasis", "mass", "nodule", "NSG tube", "pacemaker", "pleural effusion"),
    *("pleural thickening", "pneumonia", "pneumothorax", "pseudonodule", "pulmonary edema"),
    *("pulmonary fibrosis", "pulmonary mass", "rib fracture", "scoliosis", "sternotomy"),
    *("tuberculosis", "tuberculosis sequelae", "vascular hilar enlargement"),
    *("vertebral degenerative changes", "volume loss"),
)
# An image that the owner excludes says nothing, nor does one of which only this is said.
EXCLUDE = "exclude"
NOTHING_SAID = frozenset({"unchanged", "suboptimal study"})


@functools.cache  # the 160,861 cells repeat themselves
def parse_labels(cell: str) -> dict[str, float] | None:
    """1.0 or 0.0 for each of LABEL_NAMES; NaN throughout where the cell says nothing of findings;
    None if it is no list of strings.

    The dict is shared between equal cells.
    """
    if cell and not _LIST.fullmatch(cell):
        return None
    entries = (single or double for single, double in _ENTRY.findall(cell))
    said = {" ".join(entry.split()).casefold() for entry in entries} - {""}
    if EXCLUDE in said or said <= NOTHING_SAID:
        return dict.fromkeys(LABEL_NAMES, float("nan"))
    labels = dict.fromkeys(LABEL_NAMES, 0.0)
    labels.update((_NAMES[entry], 1.0) for entry in said & _NAMES.keys())
    return labels


_LIST = re.compile(r"""\[\s*(?:(?:'[^'\\]*'|"[^"\\]*")\s*(?:,\s*|(?=\])))*\]""")
_ENTRY = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_NAMES = {name.casefold(): name for name in LABEL_NAMES}
