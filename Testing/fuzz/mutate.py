"""Damage that files come to: bits, cut ends, swapped parts, and values that programs stumble over."""

from __future__ import annotations

import random
import re
import struct
from typing import List

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    10,
    11,
    16,
    127,
    128,
    255,
    256,
    1007,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    0xFFFFFFF0,
)
_TEXTS = (
    b"0", b"-1", b"1", b"3", b"11", b"65536", b"2147483647", b"4294967296", b"9" * 20, b"1e400",
    b"nan", b"inf", b"-inf", b"1e-300",
    b"none", b"", b" ", b"\\", b"%s%n", b"A" * 1020,
     b"B" * 60000, b"\xff\xfe", b"\\ud800", b"../../x", b"/dev/zero", b"\0", b"\n",
    b"null", b"true", b"{}", b"[]", b'"', b"1" + b"0" * 400,
    b"LIST", b"LOCAL", b"time", b"list", b"vector", b"(nan,0,0)",
)  # fmt: skip
_WORD = re.compile(rb"[A-Za-z0-9_.+\-]+")


def mutated(rng: random.Random, seeds: List[bytes]) -> bytes:
    """One of the seeds with one to six kinds of damage, most of it in its first 600 bytes, where headers are."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not data:
            break
        rng.choice(_KINDS)(rng, data, seeds)
    return bytes(data)


def _place(rng: random.Random, data: bytearray, width: int = 1) -> int:
    end = max(len(data) - width, 0)
    return rng.randint(0, min(end, rng.choice((64, 400, 600, end))))


def _bit(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    data[_place(rng, data)] = rng.randrange(256)


def _integer(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    place = _place(rng, data, size)
    place -= place % rng.choice((1, 2, 4))
    data[place : place + size] = struct.pack(form, rng.choice(_NUMBERS) & ((1 << 8 * size) - 1))


def _real(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    form = rng.choice(("<f", ">f", "<d"))
    place = _place(rng, data, struct.calcsize(form)) // 4 * 4
    value = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30, 0.5, -0.0, 1e9))
    data[place : place + struct.calcsize(form)] = struct.pack(form, value)


def _word(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    """A word of a text becomes another."""
    words = list(_WORD.finditer(bytes(data[:4000])))
    if words:
        found = rng.choice(words)
        data[found.start() : found.end()] = rng.choice(_TEXTS)


def _line(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    """A line comes twice, goes, or moves."""
    lines = bytes(data[:4000]).split(b"\n")
    n = rng.randrange(len(lines))
    what = rng.randrange(4)
    if what == 0:
        lines.insert(rng.randrange(len(lines)), lines[n])
    elif what == 1:
        del lines[n]
    elif what == 2:
        lines[n] = lines[n] + b" " + rng.choice(_TEXTS)
    else:
        lines.insert(n, rng.choice(_TEXTS) * rng.choice((1, 3)))
    data[:4000] = b"\n".join(lines)


def _cut(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    del data[rng.randint(0, len(data)) :]


def _hole(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    place = _place(rng, data)
    del data[place : place + rng.choice((1, 2, 4, 8, 100))]


def _insert(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    data[_place(rng, data) : 0] = rng.choice(_TEXTS)


def _copy(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    """A part of the file, or of another one, at another place."""
    other = rng.choice((bytes(data), rng.choice(seeds)))
    start, place, count = rng.randint(0, len(other)), _place(rng, data), rng.choice((2, 4, 8, 40, 300))
    if rng.random() < 0.5:
        data[place : place + count] = other[start : start + count]
    else:
        data[place:place] = other[start : start + count]


def _tag(rng: random.Random, data: bytearray, seeds: List[bytes]) -> None:
    """An element of DICOM that says too much of its length."""
    length = rng.choice((0xFFFFFFF0, 0xFFFFFFFF, 0x7FFFFFFF, 70_000, 1))
    group, element = rng.choice(((2, 0x100), (8, 0x60), (0x28, 8), (0x28, 0x10), (0x20, 0x37), (0x7FE0, 0x10), (0x5200, 0x9230)))
    vr = rng.choice((b"OB", b"UN", b"SQ", b"UT", b"OW"))
    place = rng.choice((132, _place(rng, data)))
    data[place:place] = struct.pack("<HH2sHI", group, element, vr, 0, length)


_KINDS = (_bit, _byte, _byte, _integer, _integer, _real, _word, _word, _word, _line, _cut, _hole, _insert, _copy, _tag)
