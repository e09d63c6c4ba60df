"""Open-i's reports: labels from the MeSH headings an indexer chose, text, and the images' names."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data_builders.base.records import BuildError

NO_FINDING = "No Finding"
# Label -> the MeSH headings that make it positive, with a qualifier where the heading alone is only
# a part of the body. They are what 40 or more of the 3,955 reports carry, and a few rarer ones that
# other datasets label. Names hold no comma, because tasks are lists of names between commas.
_NAMED_ALIKE = (
    *("Airspace Disease", "Atherosclerosis", "Calcified Granuloma", "Calcinosis", "Cardiomegaly"),
    *("Cicatrix", "Consolidation", "Deformity", "Density", "Granuloma", "Granulomatous Disease"),
    *("Implanted Medical Device", "Infiltrate", "Markings", "Mass", "Nodule", "Opacity"),
    *("Osteophyte", "Pleural Effusion", "Pneumonia", "Pneumothorax", "Pulmonary Atelectasis"),
    *("Pulmonary Congestion", "Pulmonary Edema", "Pulmonary Fibrosis", "Scoliosis"),
    *("Spondylosis", "Surgical Instruments", "Thickening"),
)
_HEADINGS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in _NAMED_ALIKE},
    "Blunted Costophrenic Angle": ("Costophrenic Angle/blunted",),
    "Bone Fractures": ("Fractures, Bone",),
    "Chronic Obstructive Pulmonary Disease": ("Pulmonary Disease, Chronic Obstructive",),
    "Degenerative Spine": (
        *("Spine/degenerative", "Thoracic Vertebrae/degenerative"),
        *("Lumbar Vertebrae/degenerative", "Cervical Vertebrae/degenerative"),
    ),
    "Elevated Diaphragm": ("Diaphragm/elevated",),
    "Emphysema": ("Emphysema", "Pulmonary Emphysema"),
    "Enlarged Cardiac Shadow": ("Cardiac Shadow/enlarged",),
    "Flattened Diaphragm": ("Diaphragm/flattened",),
    "Hiatal Hernia": ("Hernia, Hiatal",),
    "Indwelling Catheters": ("Catheters, Indwelling",),
    "Lung Hyperdistention": ("Lung/hyperdistention",),
    "Lung Hypoinflation": ("Lung/hypoinflation",),
    "Technical Quality Unsatisfactory": ("Technical Quality of Image Unsatisfactory",),
    "Tortuous Aorta": ("Aorta/tortuous", "Aorta, Thoracic/tortuous"),
}
# In the order in which built datasets store them.
HEADINGS = {NO_FINDING: ("normal",), **dict(sorted(_HEADINGS.items()))}
NOT_INDEXED = "no indexing"
# The longest of the 3,955 files has 9 kB.
MAX_BYTES = 200_000


class Report(NamedTuple):
    """One report; `images` are image ids, `text` its findings and impression."""

    uid: str
    labels: dict[str, float]
    text: str
    images: tuple[str, ...]
    where: str


def read_xml(path: Path) -> Report:
    """Reads one of NLM's XML files; BuildError for others, entities and names that do not fit."""
    tree = _parse(path)
    uid = _id(tree.find("uId")).removeprefix("CXR")
    if uid != path.stem:
        raise BuildError(
            f"{path} says it is another report. Its name must be its number; unpack "
            "NLMCXR_reports.tgz again."
        )
    images = tuple(map(_id, tree.iter("parentImage")))
    for image in images:
        if not image.startswith(f"CXR{uid}_"):
            raise BuildError(
                f"{path}: a parentImage is another report's, since it does not begin with "
                f"CXR{path.stem}_. Unpack NLMCXR_reports.tgz again."
            )
    texts = {part.get("Label"): part.text for part in tree.iter("AbstractText")}
    majors = [major.text or "" for major in tree.iter("major")]
    return Report(
        uid=uid,
        labels=parse_headings(majors, path.name),
        text=report_text(texts.get("FINDINGS") or "", texts.get("IMPRESSION") or ""),
        images=images,
        where=path.name,
    )


def _parse(path: Path) -> ElementTree.Element:
    if path.stat().st_size > MAX_BYTES:
        raise BuildError(f"{path} is longer than {MAX_BYTES:,} bytes, which no report is.")
    try:
        # Decoded here, so that no other encoding can hide a declaration from the test below.
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise BuildError(f"{path} declares entities, which NLM's reports never do.")
        return ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError):
        # What the library says names what is in the file.
        raise BuildError(f"{path} is broken. Unpack NLMCXR_reports.tgz again.") from None


def _id(element: ElementTree.Element | None) -> str:
    return "" if element is None else element.get("id", "").strip()


def parse_headings(headings: Iterable[str], where: str) -> dict[str, float]:
    """Returns 1.0 or 0.0 for each label, or all NaN where the report was never indexed.

    Args:
      headings: MeSH majors, qualified by slashes ("Opacity/lung/base/left").

    Raises BuildError: no heading at all, or "normal" or "No Indexing" beside another.
    """
    said = set()
    heads = set()
    for heading in headings:
        head, *qualifiers = (_folded(part) for part in heading.split("/"))
        if head:
            heads.add(head)
            said.add(head)
            said.update(f"{head}/{qualifier}" for qualifier in qualifiers)
    if not heads:
        raise BuildError(f"{where}: no MeSH heading; even a normal image has the heading 'normal'.")
    if len(heads) > 1 and not heads.isdisjoint(("normal", NOT_INDEXED)):
        raise BuildError(f"{where}: MeSH headings contradict each other: 'normal' and a finding.")
    if NOT_INDEXED in heads:
        return dict.fromkeys(HEADINGS, float("nan"))
    return {name: float(not said.isdisjoint(terms)) for name, terms in _TERMS.items()}


def _folded(term: str) -> str:
    return " ".join(term.split()).casefold()


_TERMS = {name: {_folded(term) for term in terms} for name, terms in HEADINGS.items()}


def report_text(findings: str, impression: str) -> str:
    """Returns "FINDINGS: …" and "IMPRESSION: …" on a line each; what is empty is left out."""
    parts = {"FINDINGS": findings.strip(), "IMPRESSION": impression.strip()}
    return "\n".join(f"{title}: {text}" for title, text in parts.items() if text)


def image_id(stem: str) -> str:
    """Returns NLM's name of an image from a file's name without suffixes.

    The file may be NLM's, the DICOM or Kaggle's, which lack the "CXR". Only report 1 has its number
    twice.
    """
    if stem.startswith("CXR"):
        return stem
    return f"CXR1_{stem}" if stem.startswith("1_IM-") else f"CXR{stem}"
