"""Tokenizers from the user's disk, and one made of the reports."""

import json
import random

import pytest

from cxr_jax.data import tokenizer

pytest.importorskip("tokenizers")

WORDS = ["effusion", "pneumothorax", "right", "left", "upper", "lobe", "small", "no", "2.5", "cm"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "effusion", "pneumo", "##thorax", ".", "é"]


@pytest.fixture
def sentences():
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=6)) + "." for _ in range(80)]


def test_equal_sentences_make_equal_vocabularies_in_any_order(sentences):
    # Small enough that ties decide which pieces there are.
    one, *others = [tokenizer.train(sentences, 64).to_str() for _ in range(4)]
    others.append(tokenizer.train(sentences[::-1], 64).to_str())
    assert all(other == one for other in others)
    assert len(json.loads(one)["model"]["vocab"]) == 64


def test_words_of_few_reports_are_no_pieces(sentences):
    """They may be names and numbers, and the vocabulary lies in the workdir."""
    said = [f"discussed with dr smithers, number 4711982, {text}" for text in sentences[:9]]
    pieces = tokenizer.train([*sentences, *said], 500).get_vocab()
    assert "effusion" in pieces
    assert not [piece for piece in pieces if "smith" in piece or "4711" in piece]


def test_a_large_vocabulary_holds_whole_words_and_gives_the_text_back(sentences):
    made = tokenizer.train(sentences, 500)
    assert made.get_vocab_size() < 500
    (numbers,) = tokenizer.encode(made, ["Small RIGHT pneumothorax."], 16)
    assert [made.id_to_token(n) for n in numbers] == [
        *("[CLS]", "small", "right", "pneumothorax", ".", "[SEP]")
    ]
    (unknown,) = tokenizer.encode(made, ["small zebra"], 16)
    assert [made.id_to_token(n) for n in unknown] == ["[CLS]", "small", "[UNK]", "[SEP]"]


def test_a_long_sentence_is_cut_and_keeps_its_end(sentences):
    made = tokenizer.train(sentences, 500)
    long, short = tokenizer.encode(made, [" ".join(WORDS), "no"], 5)
    assert [made.id_to_token(n) for n in long] == ["[CLS]", *WORDS[:3], "[SEP]"]
    assert [made.id_to_token(n) for n in short] == ["[CLS]", "no", "[SEP]"]


@pytest.mark.parametrize(
    ("more", "said", "text", "expected"),
    [
        ([], None, "No Pneumothorax.", [2, 4, 6, 7, 8, 3]),
        (["No"], None, "No Pneumothorax.", [2, 10, 1, 8, 3]),  # a capital: case counts
        (["No"], True, "No Pneumothorax.", [2, 4, 6, 7, 8, 3]),
        ([], False, "No no é", [2, 1, 4, 9, 3]),
    ],
)
def test_a_vocabulary_of_berts(tmp_path, more, said, text, expected):
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY, *more]) + "\n")
    if said is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": said}))
    for path in (tmp_path, tmp_path / "vocab.txt"):
        assert tokenizer.encode(tokenizer.load(path), [text], 16) == [expected]


def test_the_workdirs_tokenizer_goes_before_the_given_one_and_that_before_a_new_one(
    tmp_path, sentences
):
    def opened(given):
        return tokenizer.open_tokenizer(given, sentences, 500, tmp_path / "run").to_str()

    made = opened("")
    (tmp_path / "given.json").write_text(tokenizer.train(["other words"], 60).to_str())
    given = opened(str(tmp_path / "given.json"))
    assert given != made
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.json").write_text(made)
    assert opened(str(tmp_path / "given.json")) == made


def test_what_is_no_tokenizer_is_refused(tmp_path, sentences):
    def opened(given, size=500):
        return tokenizer.open_tokenizer(str(given), sentences, size, tmp_path / "run")

    with pytest.raises(FileNotFoundError, match=r"no tokenizer .*none: it is one of tokenizer"):
        opened(tmp_path / "none")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json of Hugging"):
        opened(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\n[CLS]\n")
    with pytest.raises(ValueError, match=r"not a vocabulary of BERT's: it lacks \[UNK\], \[SEP\]"):
        opened(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    with pytest.raises(ValueError, match=r"has 10 tokens, .*vocabulary=9; set it to 10"):
        opened(tmp_path / "vocab.txt", 9)
    with pytest.raises(ValueError, match=r"vocabulary=20 does not hold the \d+ letters"):
        opened("", 20)


def _gap(tree):
    tree["model"]["vocab"]["finding"] = 90


def _beyond(tree):
    tree["post_processor"]["cls"] = ["[CLS]", 90]


def _expression(tree):
    tree["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}}


def _nothing(tree):
    tree["normalizer"] = {"type": "Replace", "pattern": {"String": "x"}, "content": 7}


ODD = {
    "a gap in the numbers": (_gap, "has 91 tokens, config.data.reports.vocabulary=80"),
    "a number of no token": (_beyond, "numbered up to 90; its vocabulary has"),
    "an expression": (_expression, r"tokenizer\.json has a regular expression"),
    "another kind": (_nothing, r"tokenizer\.json is not a tokenizer\.json of Hugging Face's"),
}


@pytest.mark.parametrize("case", ODD)
def test_a_tokenizer_that_could_hang_or_count_wrong_is_refused(tmp_path, sentences, case):
    change, message = ODD[case]
    tree = json.loads(tokenizer.train(sentences, 80).to_str())
    change(tree)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=message):
        opened = tokenizer.open_tokenizer(str(tmp_path), sentences, 80, tmp_path / "run")
        tokenizer.encode(opened, sentences, 16)


def test_a_vocabulary_with_a_token_twice_or_in_latin_1_is_refused(tmp_path):
    for content, message in ((b"[UNK]\n[CLS]\n[SEP]\na\na\n", "twice"), (b"\xe9\n", "not UTF-8")):
        (tmp_path / "vocab.txt").write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"vocab\.txt is not a vocabulary of BERT's: .*{message}"
        ):
            tokenizer.load(tmp_path)
