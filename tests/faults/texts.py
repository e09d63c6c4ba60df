"""Tokenizers that users give, and reports in plain text."""

import functools
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults import mutations, stored
from tests.faults.mutations import Broken

_SENTENCES = ("No acute finding.", "The heart is large; é 12 mm.", "Ⅻ \u202e \0 😀 " + "x" * 300)
_ROOM = 200  # tokens that the text encoder has room for
# Parts of tokenizers that are not BERT's, and some that no tokenizer has.
_PARTS: tuple[Any, ...] = (
    {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""},
    {"type": "Replace", "pattern": {"String": "x"}, "content": "x" * 10_000},
    {"type": "Prepend", "prepend": "x" * 10_000},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "FixedLength", "length": 0},
    {"type": "Sequence", "normalizers": [], "pretokenizers": [], "processors": []},
    {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "vocab": {}}
    | {"max_input_chars_per_word": 2**63},
    {"type": "BPE", "vocab": {"x": 0, "xx": 1}, "merges": [["x", "x"]], "dropout": 2.0},
    {"type": "Unigram", "unk_id": 0, "vocab": [["x", -1.0], ["", 0.0]]},
    {"type": "BertProcessing", "sep": ["x", 2**31], "cls": ["x", 10**6]},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
    {"max_length": 0, "strategy": "LongestFirst", "stride": 5, "direction": "Right"},
    {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": 10**9}
    | {"pad_id": 10**6, "pad_type_id": 0, "pad_token": "x"},
)


@functools.lru_cache(maxsize=1)
def tokenizers() -> list[bytes]:
    """Returns a tokenizer.json as we make it, and the vocab.txt of the same."""
    from cxr_jax.data import tokenizer

    trained = tokenizer.train(["the heart is large", "no finding"] * 20, 100)
    vocabulary = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    return [trained.to_str().encode(), "\n".join(vocabulary).encode()]


def damage_tokenizer(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """JSON with another part or value; anything as text."""
    if not data.startswith(b"{") or rng.random() < 0.3:
        return mutations.mutated_text(rng, data, others)
    if rng.random() < 0.5:
        return stored.json_tree(rng, data, others)
    tree = json.loads(data)
    where = rng.choice(("normalizer", "pre_tokenizer", "post_processor", "model", "decoder"))
    where = rng.choice((where, where, where, "truncation", "padding"))
    tree[where] = rng.choice(_PARTS)
    return json.dumps(tree).encode()


def read_tokenizer(folder: Path, data: bytes, index: int) -> str:
    """Opens a tokenizer as a run does, and returns the tokens of some sentences."""
    from cxr_jax.data import tokenizer

    workdir = folder / "workdir"
    workdir.mkdir(exist_ok=True)
    path = folder / ("tokenizer.json" if index % 2 == 0 else "vocab.txt")
    path.write_bytes(data)
    try:
        opened = tokenizer.open_tokenizer(str(path), (), _ROOM, workdir)
        encoded = tokenizer.encode(opened, _SENTENCES, 16)
    finally:
        path.unlink()
    for ids in encoded:
        if not 0 < len(ids) <= 16 or min(ids) < 0 or max(ids) >= _ROOM:
            raise Broken(f"tokens {ids}")
    return "read"


def reports() -> list[bytes]:
    """Returns the reports of MIMIC's fake."""
    report = (
        "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n "
        "INDICATION:  ___F with cough // r/o pneumonia\n\n FINDINGS: \n\n The heart is large. No "
        "effusion.\n\n IMPRESSION: \n\n 1. No acute process. Dr. ___ at 3:45 p.m.\n"
    )
    return [report.encode(), report.replace("\n", "\r\n").encode("utf-16"), b""]


def read_report(folder: Path, data: bytes, index: int) -> str:
    """Reads a study's report, and its sentences."""
    from cxr_jax.data import reports as sentences
    from data_builders.mimic_cxr.mimic_cxr_dataset_builder import (
        Radiograph,
        Reports,
        subject_folder,
    )

    image = Radiograph("a", "10000032", "50000000", "PA", "row 1")
    path = subject_folder(folder, image.subject_id) / f"s{image.study_id}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        text = Reports(folder).read(image)
    finally:
        shutil.rmtree(folder / "files", ignore_errors=True)
    for sections in ((), ("findings", "impression")):
        (found,) = sentences.sentences_of([text], sections)
        if any(not sentence.strip() or "\n" in sentence for sentence in found):
            raise Broken(f"sentences {found}")
    return "read" if text else "listed"
