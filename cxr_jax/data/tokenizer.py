"""Tokenizes the sentences of reports, with a tokenizer of the user's or one made of the reports.

The package `tokenizers` does the work. It is an extra ("text") and imported when it is needed.
"""

import contextlib
import string
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain, read_bytes

FILE = "tokenizer.json"  # in a run's workdir: the one it uses
FILES = (FILE, "vocab.txt", "vocab.json")  # of a tokenizer's folder; merges.txt is beside the last
# The largest of the public ones, of 250,000 pieces in a hundred languages, has 17 MB.
_MAX_BYTES = 20_000_000
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# CLIP's: the marks of beginning and end, and the expressions by which its text becomes words.
_CLIPS_ENDS = ("<|startoftext|>", "<|endoftext|>")
_SPACES = r"\s+"
_CLIPS_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_KNOWN_EXPRESSIONS = (_SPACES, _CLIPS_WORDS)


def open_tokenizer(given: str, sentences: Sequence[str], size: int, workdir: Path) -> Any:
    """Opens the tokenizer of a run: that of its workdir, else `given`, else one of `sentences`.

    `given` is a tokenizer.json, a vocab.txt, a folder that holds one of them, or ""; `size` the
    largest vocabulary that the text encoder has room for.

    Raises FileNotFoundError or ValueError where `given` is not there, is no tokenizer or is larger
    than `size`; ModuleNotFoundError without the package tokenizers.
    """
    kept = workdir / FILE
    if not kept.is_file() and not given:
        return train(sentences, size)
    path = kept if kept.is_file() else Path(given).expanduser()
    tokenizer = load(path)
    # Numbers may have gaps, and what has none in the encoder's table would take the last one's.
    count = max(tokenizer.get_vocab().values(), default=-1) + 1
    if count > size:
        raise ValueError(
            f"{path} has {count:,} tokens, config.data.reports.vocabulary={size}; set it to {count}"
        )
    return tokenizer


def load(path: Path) -> Any:
    """Reads a Hugging Face tokenizer.json, BERT's vocab.txt or CLIP's vocab.json and merges.txt.

    Of a folder the first of them. Text becomes lower case for a vocab.txt if tokenizer_config.json
    beside it says so (`do_lower_case`), or without that unless some token has a capital. Raises
    FileNotFoundError or ValueError, naming the file.
    """
    if path.is_dir():
        files = [path / name for name in FILES]
        path = next((file for file in files if file.is_file()), files[0])
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer {path}: it is one of {', '.join(FILES)}")
    if path.suffix == ".txt":
        return _of_vocabulary(path)
    if path.name == "vocab.json":
        return _of_clip(path)
    waiting = [read_json(path, most=_MAX_BYTES)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            unknown = "Regex" in part and part["Regex"] not in _KNOWN_EXPRESSIONS
            if unknown or part.get("type") == "Precompiled":  # the first can take forever
                raise ValueError(
                    f"{path} has a regular expression or a precompiled table, which are not run; "
                    "tokenizers of BERT's and CLIP's kind have none but CLIP's own"
                )
    with _naming(f"{path} is not a tokenizer.json of Hugging Face's"):
        return _library().Tokenizer.from_str(read_bytes(path, _MAX_BYTES).decode())


def load_siglip(folder: Path) -> Any:
    """Reads SigLIP's tokenizer of a folder: spiece.model, or the pieces in tokenizer.json.

    Text becomes lower case and loses its marks, as in its owner's code. Unicode is normalised by
    NFKC, of which the owner's table differs in rare characters. Raises FileNotFoundError or
    ValueError, naming the file.
    """
    path = folder / "spiece.model"
    if path.is_file():
        with _naming(f"{path} is no model of SentencePiece's"):
            pieces = list(_pieces(read_bytes(path, _MAX_BYTES)))
    elif (path := folder / FILE).is_file():
        with _naming(f"{path} holds no pieces with their scores"):
            pieces = [
                (str(p), float(s)) for p, s in read_json(path, most=_MAX_BYTES)["model"]["vocab"]
            ]
    else:
        raise FileNotFoundError(f"{folder} holds no tokenizer: neither spiece.model nor {FILE}")
    tokenizers, numbers = _library(), {piece: n for n, (piece, _) in enumerate(pieces)}
    if missing := {"</s>", "<unk>"} - numbers.keys():
        raise ValueError(f"{path} is not SigLIP's: it lacks {' and '.join(sorted(missing))}")
    normalizers = tokenizers.normalizers
    with _naming(f"{path} is no model of SentencePiece's"):
        tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, numbers["<unk>"]))
        marks = [normalizers.Replace(mark, "") for mark in string.punctuation]
        spaces = normalizers.Replace(tokenizers.Regex(_SPACES), " ")
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), *marks, normalizers.NFKC(), spaces, normalizers.Strip()]
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        end = [("</s>", numbers["</s>"])]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="$A </s>", special_tokens=end
        )
    return tokenizer


def of_bare_words(tokenizer: Any) -> Any:
    """Returns a tokenizer before which text becomes lower case, and marks become spaces."""
    normalizers = _library().normalizers
    marks = [normalizers.Replace(mark, " ") for mark in string.punctuation if mark != "_"]
    own = [tokenizer.normalizer] if tokenizer.normalizer else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *marks, *own])
    return tokenizer


def _pieces(model: bytes) -> Iterator[tuple[str, float]]:
    """Yields the pieces and scores of a SentencePiece model, a message of Protocol Buffers.

    Its field 1 is a piece, a message whose field 1 is the text, and 2 the score.
    """
    for field, piece in _fields(model):
        if field == 1:
            said = dict(_fields(piece))
            yield said[1].decode(), struct.unpack("<f", said.get(2, bytes(4)))[0]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the fields of a message, those of a number as b"". Raises ValueError, IndexError."""
    at = 0

    def number() -> int:
        nonlocal at
        found = shift = 0
        while True:
            byte, at = message[at], at + 1
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    while at < len(message):
        tag = number()
        size = {1: 8, 5: 4, 2: None, 0: 0}[tag & 7]
        if size == 0:
            number()
        elif size is None:
            size = number()
        if at + size > len(message):
            raise ValueError("it is cut off")
        yield tag >> 3, message[at : at + size]
        at += size


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Raises ValueError for the library's errors; those of its Rust code are not Exceptions."""
    try:
        yield
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValueError(f"{what} ({plain(str(error))})") from error


def train(sentences: Sequence[str], size: int) -> Any:
    """Makes a WordPiece tokenizer (Wu et al., arXiv:1609.08144) of at most `size` pieces.

    Equal sentences give equal pieces. Raises ValueError where `size` does not hold their letters.
    """
    tokenizers = _library()
    tokenizer = _word_piece({name: index for index, name in enumerate(_SPECIAL)}, lower=True)
    normalized = map(tokenizer.normalizer.normalize_str, sentences)
    letters = sorted({letter for text in normalized for letter in text} - {" "})
    # The library numbers a word's inner letters ("##a") as it comes upon them, in an order that
    # changes from run to run, and breaks ties by these numbers. As special tokens they come first.
    inner = [f"##{letter}" for letter in letters]
    if size < len(_SPECIAL) + 2 * len(letters):
        raise ValueError(
            f"config.data.reports.vocabulary={size} does not hold the {len(letters)} letters of "
            f"the reports; use {len(_SPECIAL) + 2 * len(letters)} or more"
        )
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size,
        # A word of few reports may be a name or a number; the vocabulary lies in the workdir.
        min_frequency=10,
        special_tokens=[*_SPECIAL, *inner],
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return _word_piece(tokenizer.get_vocab(), lower=True)


def encode(tokenizer: Any, sentences: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Returns the numbers of each sentence's first `max_tokens` tokens, beginning and end included.

    Raises ValueError for a tokenizer that gives none, or numbers beyond its vocabulary.
    """
    with _naming("the tokenizer cannot be used"):
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    last = max(tokenizer.get_vocab().values(), default=-1)
    for sentence in encoded:
        if not sentence or len(sentence) > max_tokens or max(sentence) > last:
            raise ValueError(
                f"the tokenizer makes {len(sentence)} tokens of a sentence, numbered up to "
                f"{max(sentence, default=0):,}; its vocabulary has {last + 1:,}, "
                f"config.data.reports.max_tokens is {max_tokens}"
            )
    return encoded


def lengths(tokenizer: Any, sentences: Sequence[str]) -> list[int]:
    """Returns how many tokens each whole sentence has, beginning and end included; ValueError."""
    with _naming("the tokenizer cannot be used"):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(sentences))]


def _of_vocabulary(path: Path) -> Any:
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a vocabulary of BERT's: not UTF-8 ({error})") from error
    # Not splitlines, for which a token may be the end of a line.
    tokens = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"{path} is not a vocabulary of BERT's: it has a token twice")
    missing = [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in tokens]
    if missing:
        raise ValueError(f"{path} is not a vocabulary of BERT's: it lacks {', '.join(missing)}")
    config = path.parent / "tokenizer_config.json"
    said = read_json(config).get("do_lower_case") if config.is_file() else None
    if said is not None and not isinstance(said, bool):
        raise ValueError(f"{config}: do_lower_case is neither true nor false")
    capitals = any(token != token.lower() for token in tokens if not token.startswith("["))
    lower = not capitals if said is None else said
    with _naming(f"{path} is not a vocabulary of BERT's"):
        return _word_piece({token: index for index, token in enumerate(tokens)}, lower)


def _of_clip(path: Path) -> Any:
    """Makes CLIP's tokenizer (arXiv:2103.00020): bytes joined by the pairs of merges.txt."""
    merges = path.with_name("merges.txt")
    if not merges.is_file():
        raise FileNotFoundError(f"{path} is there and {merges} is not; CLIP's tokenizer has both")
    vocabulary = read_json(path, most=_MAX_BYTES)
    lines = read_bytes(merges).decode(errors="replace").split("\n")
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#ver")]
    missing = [name for name in _CLIPS_ENDS if name not in vocabulary]
    if missing or not all(len(pair) == 2 for pair in pairs):
        what = f"lacks {', '.join(missing)}" if missing else "is beside a merges.txt of other lines"
        raise ValueError(f"{path} is not CLIP's vocabulary: it {what}")
    tokenizers, (start, end) = _library(), _CLIPS_ENDS
    regex, normalizers, split = tokenizers.Regex, tokenizers.normalizers, tokenizers.pre_tokenizers
    with _naming(f"{path} is not CLIP's vocabulary"):
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                vocabulary, pairs, unk_token=end, end_of_word_suffix="</w>", fuse_unk=False
            )
        )
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(regex(_SPACES), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = split.Sequence(
            [split.Split(regex(_CLIPS_WORDS), "removed", invert=True), split.ByteLevel(False)]
        )
        tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
            *((name, vocabulary[name]) for name in (end, start)),
            trim_offsets=False,
            add_prefix_space=False,
        )
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        tokenizer.add_special_tokens(list(_CLIPS_ENDS))
    return tokenizer


def _word_piece(vocabulary: dict[str, int], lower: bool) -> Any:
    """Makes BERT's tokenizer: words and marks, then pieces of words, between [CLS] and [SEP]."""
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = tokenizers.processors.BertProcessing(*ends)
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.add_special_tokens([name for name in _SPECIAL if name in vocabulary])
    return tokenizer


def _library() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reports need the package tokenizers: pip install -e '.[text]'"
        ) from error
    return tokenizers
