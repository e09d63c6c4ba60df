"""Reads the reports of images, one sentence at a time, for image-text objectives.

Fields of config.data.reports, all required:

sections    names that a section's heading must contain for its text to count, in lower case; ():
            whole reports. A heading is a line's beginning in capitals, up to a colon
whole       optional: True: an image's text is all of these sections, not a sentence of them
max_tokens  of a sentence; what goes beyond is cut off, and it is said how often
tokenizer   the user's tokenizer.json or vocab.txt, or a folder with one; "": one is made of the
            training images' reports (tokenizer.py)
vocabulary  how many tokens the text encoder has room for; a tokenizer that is made has no more
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cxr_jax.config import Section, check_fields
from cxr_jax.data import order, tokenizer
from cxr_jax.data.source import Source

_FIELDS = ("sections", "max_tokens", "tokenizer", "vocabulary")
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z ,/&()-]*):", re.MULTILINE)
_END = re.compile(r"(?<=[.!?])\s+")
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
_FEWEST = 3  # words and marks of a report (arXiv:2010.00747, appendix A)


class Reports(NamedTuple):
    """The sentences of a source's images.

    Those of image i are numbers `first[i]` to `first[i] + size[i]` of `sentences`. Number s of all
    different sentences has the tokens from `start[s]` to `start[s + 1]`.
    """

    sentences: Int[np.ndarray, " m"]
    first: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]
    tokens: Int[np.ndarray, " t"]
    start: Int[np.ndarray, " k"]
    max_tokens: int
    tokenizer: str  # as JSON

    def draw(self, seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Draws a sentence of each image at the positions [start, stop) of order.rows, uniformly.

        {"tokens": int32 [b max_tokens], "mask": bool, true where there is a token}
        """
        count = len(self.first)
        rows = order.rows(count, seed, start, stop)
        number = (order.numbers(count, seed, start, stop) * self.size[rows]).astype(np.int64)
        sentences = self.sentences[self.first[rows] + number]
        places = np.arange(self.max_tokens)
        begin = self.start[sentences][:, None]
        mask = places < self.start[sentences + 1][:, None] - begin
        tokens = self.tokens[np.where(mask, begin + places, 0)]
        return {"tokens": np.where(mask, tokens, 0).astype(np.int32), "mask": mask}

    def fingerprint(self) -> dict[str, str]:
        """Returns what is equal exactly for reports that say the same of every image."""
        parts = (*self[:5], np.frombuffer(self.tokenizer.encode(), np.uint8))
        joined = b"".join(part.tobytes() for part in parts)
        return {"reports": hashlib.sha256(joined).hexdigest()[:16]}


def open_reports(source: Source, fields: Section, workdir: Path) -> tuple[Source, Reports]:
    """Finds the images that have a report, reads their reports, and says how many have none.

    Raises as tokenizer.open_tokenizer, and ValueError for impossible fields, a dataset without
    reports, or none with such sections.
    """
    _check(fields)
    sections, whole = fields["sections"], fields.get("whole", False)
    if "report" not in source.fields:
        raise ValueError(
            f"dataset {source.name} has no reports, which config.data.reports needs; "
            "indiana_university, mimic_cxr and padchest have them, image_folder with "
            "--report_column, and phantom if it is built again"
        )
    images = sentences_of(source.columns(("report",))["report"], sections, whole)
    kept = np.flatnonzero([len(sentences) > 0 for sentences in images])
    lacking = "report" + f" with a section {' or '.join(sections)}" * bool(sections)
    if not len(kept):
        hints = ["config.data.reports.sections=() takes reports whole"] * bool(sections)
        if source.name.partition("/")[0] == "mimic_cxr":
            hints.append("mimic_cxr has them if it was built with --reports_dir")
        none = f"no image of {source.name} {source.split!r} has a {lacking}"
        raise ValueError("; ".join([none, *hints]))
    if len(kept) < len(source):
        left_out = len(source) - len(kept)
        print(f"Left out {left_out:,} of {len(source):,} images that have no {lacking}.")
        source = source.choose(kept)
    images = [images[row] for row in kept]
    numbers: dict[str, int] = {}
    flat = [numbers.setdefault(text, len(numbers)) for sentences in images for text in sentences]
    size = np.array([len(sentences) for sentences in images], np.int32)
    words = tokenizer.open_tokenizer(
        fields["tokenizer"], list(numbers), fields["vocabulary"], workdir
    )
    counts = tokenizer.lengths(words, list(numbers))
    if longer := sum(count > fields["max_tokens"] for count in counts):
        print(
            f"{longer:,} of {len(counts):,} different {'reports' if whole else 'sentences'} are "
            f"longer than config.data.reports.max_tokens={fields['max_tokens']} and end there; the "
            f"longest has {max(counts):,} tokens."
        )
    encoded = tokenizer.encode(words, list(numbers), fields["max_tokens"])
    lengths = [len(tokens) for tokens in encoded]
    made = Reports(
        sentences=np.array(flat, np.int32),
        first=(np.cumsum(size) - size).astype(np.int32),
        size=size,
        tokens=np.array([token for tokens in encoded for token in tokens], np.int32),
        start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        max_tokens=fields["max_tokens"],
        tokenizer=words.to_str(),
    )
    return source, made


def sentences_of(
    texts: Sequence[str], sections: Sequence[str], whole: bool = False
) -> list[tuple[str, ...]]:
    """Returns the sentences in each report's sections; () for fewer than 3 words and marks.

    Lines may break anywhere. A sentence ends with a mark before a space, and has a letter; `whole`
    leaves them together.

    >>> sentences_of(["FINDINGS: 1. Clear lungs. No effusion."], ["findings"])
    [('Clear lungs.', 'No effusion.')]
    """

    @functools.cache  # images of a study share a report
    def sentences(report: str) -> tuple[str, ...]:
        text = " ".join(section_text(report, sections).split())
        if len(_WORD_OR_MARK.findall(text)) < _FEWEST:
            return ()
        if whole:
            return (text,)
        return tuple(part for part in _END.split(text) if re.search(r"[^\W\d_]", part))

    return [sentences(text) for text in texts]


def section_text(report: str, sections: Sequence[str]) -> str:
    """Returns the text below the headings that contain one of `sections`; all text for ()."""
    if not sections:
        return report
    headings = list(_HEADING.finditer(report))
    ends = [heading.start() for heading in headings[1:]] + [len(report)]
    return "\n".join(
        report[heading.end() : end]
        for heading, end in zip(headings, ends)
        if any(name in heading[1].lower() for name in sections)
    )


def _check(fields: Section) -> None:
    check_fields(fields, "config.data.reports", required=_FIELDS, optional=("whole",))
    if isinstance(fields["sections"], str):
        raise ValueError(
            f"config.data.reports.sections is {fields['sections']!r}; it must be a tuple of names, "
            "as ('findings','impression')"
        )
    if fields["max_tokens"] < 3:
        raise ValueError(
            f"config.data.reports.max_tokens={fields['max_tokens']}: a sentence needs 3 or more, "
            "two of them for its beginning and end"
        )
