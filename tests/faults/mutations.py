"""Damage to bytes that knows nothing of their format: flips, cuts, splices, absurd numbers."""

import random
from collections.abc import Callable, Sequence

_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
# What parsers of text trip over, wherever it is put.
TOKENS = tuple(
    token.encode("utf-8", "surrogatepass")
    for token in (
        *('"', "'", ",", ";", "\t", "\n", "\r", "\r\n", "\0", "\ufeff", "\\", "/", "..", "../.."),
        *(
            "nan",
            "inf",
            "-1",
            "1e999",
            "-0",
            "9" * 400,
            "0x10",
            "1_000",
            "٣",
            "²",
            "½",
            "é",
            "\udc80",
        ),
        *("<", ">", "&", "]]>", "<!--", "-->", "<?xml", "<!DOCTYPE x>", "&lt;", "&x;", "&#0;", "="),
        *("[", "]", "{", "}", "[" * 2000, "|", ":", "\x1a", "\x0b", "\u2028", "%s", "{0}", "=1+1"),
    )
)


class Broken(Exception):
    """A fault of the program: it read, or said, something else than it has to."""


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """`data` with one to four damages; `others` are files of the kind, to be spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        data = rng.choice(DAMAGES)(rng, data, others)
    return data


def mutated_text(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Mutates text: half of the damages are tokens that parsers trip over."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        damage = _insert_token if rng.random() < 0.5 else rng.choice(DAMAGES)
        data = damage(rng, data, others)
    return data


def _flip_bits(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 32)) if data else 0):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at, length = _place(rng, data), rng.choice((1, 1, 2, 4, 16))
    value = bytes([rng.choice(_BYTES)]) * length if rng.random() < 0.5 else rng.randbytes(length)
    return data[:at] + value[: len(data) - at] + data[at + length :]


def _set_number(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Changes a field of 2, 4 or 8 bytes, as lengths, sizes and offsets are."""
    width = rng.choice((2, 4, 4, 8))
    number = rng.choice((*_NUMBERS, 0xFFFFFFFFFFFFFFFF, rng.getrandbits(64))) & (1 << 8 * width) - 1
    at = _place(rng, data)
    return data[:at] + number.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def _cut_end(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_out(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 4, 64, rng.randrange(1, 1000))) :]


def _repeat(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at, length = _place(rng, data), rng.choice((1, 4, 64, rng.randrange(1, 1000)))
    part = data[at : at + length]
    return data[:at] + part * rng.choice((1, 2, 50)) + data[at:]


def _insert(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 64))) + data[at:]


def _insert_token(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 4)) :]


def _splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _exchange(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Two neighbouring parts change places."""
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _place(rng: random.Random, data: bytes) -> int:
    """Headers are small and matter most: two of three damages hit the first or last 512 bytes."""
    if not data:
        return 0
    near = min(len(data), 512)
    return rng.choice(
        (rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near))
    )


Damage = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
DAMAGES: tuple[Damage, ...] = (
    *(_flip_bits, _flip_bits, _set_bytes, _set_number, _set_number, _cut_end, _cut_out),
    *(_repeat, _insert, _splice, _exchange),
)
