"""A scanner for what must not be left behind: secret tokens, lists of row ids, numbers row by row, in many encodings.

It knows nothing of the library. Every file is taken apart (archives, databases, pictures, text in hex and base64, pages,
JSON), and every part is searched.
"""

import base64
import binascii
import gzip
import html
import io
import itertools
import json
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

WINDOW = 16
"""Values of a token in a row that count as a hit: half a token is a leak."""
RUN = 8  # also in _SPACED
"""Row ids, or numbers of rows, in a row that count as a list."""
DEPTH = 4

_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){16,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{22,}={0,2}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\btrue\b|\bfalse\b")
_INTEGERS = ("<i2", ">i2", "<u2", "<i4", ">i4", "<i8", ">i8", "<f4", "<f8")
_FLOATS = ("<f2", "<f4", "<f8", ">f4", ">f8")
_SPACED = re.compile(r"(?:(?<![\w.])-?[\d.]+(?:[eE][-+]?\d+)?(?![\w.])[^\w.+-]*){8,}")


@dataclass(frozen=True)
class Hit:
    """What was found: in which file, by which way in, and what it is."""

    place: str
    way: str
    what: str


@dataclass
class Scanner:
    """What to look for.

    Attributes:
        tokens: byte strings of 32 bytes, by name: as bytes, as numbers 0 to 255, and as these over 255.
        ids: of the forget rows, in the order in which they were given.
        num_rows: of the data set.
        exact: arrays exactly as the data set gives them, by name (pixels scaled or standardised); any 16 values in a row.
        per_row: numbers of the forget rows in order of ids, by name.
    """

    tokens: dict[str, bytes] = field(default_factory=dict)
    ids: tuple[int, ...] = ()
    num_rows: int = 0
    exact: dict[str, np.ndarray] = field(default_factory=dict)
    per_row: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        self._needles = {**_token_needles(self.tokens), **_array_needles(self.exact), **self._masks()}
        for name, values in self.per_row.items():
            for order, some in (("in order of ids", values), ("sorted", np.sort(values))):
                self._needles |= _windows(f"{name} {order}", some, RUN, ("<f4", "<f8", ">f4", ">f8"))
        self._member = np.isin(np.arange(max(self.num_rows, 1)), self.ids)
        self._words = {name: _sequences(values) for name, values in self._number_lists().items()}

    def _masks(self):
        """Give what a list of booleans looks like, from each id to the seventh after it: bytes, numbers, bits."""
        if len(self.ids) < RUN:
            return {}
        order, found = np.sort(self.ids), {}
        member = np.isin(np.arange(self.num_rows), order)
        for first, last in zip(order, order[RUN - 1 :], strict=False):
            for name, mask in (("mask of members", member), ("mask of the others", ~member)):
                part = mask[first : last + 1]
                found |= {part.astype(kind).tobytes(): name for kind in ("u1", "<i4", "<i8", "<f4", "<f8")}
                for bits, shift in itertools.product(("big", "little"), range(8)):
                    packed = np.packbits(np.pad(part, (shift, 0)), bitorder=bits).tobytes()
                    if len(packed) > 8:
                        found[packed[1:-1]] = f"{name}, as bits"
            rest = np.flatnonzero(~member[first : last + 1]) + first
            if len(rest) >= RUN:
                found |= {rest.astype(kind).tobytes(): "ids of the others" for kind in ("<i4", "<i8", "<u2")}
        return found

    def _number_lists(self):
        """Give lists of numbers to look for in text."""
        lists = {f"{name} as numbers": np.frombuffer(token, np.uint8)[:WINDOW] for name, token in self.tokens.items()}
        for name, token in self.tokens.items():
            lists[f"{name} as numbers over 255"] = np.frombuffer(token, np.uint8)[:WINDOW] / 255
        for name, values in self.exact.items():
            lists[f"{name} as numbers"] = np.ravel(values)[:WINDOW]
        for name, values in self.per_row.items():
            for first in range(len(values) - RUN + 1):
                lists[f"{name} in order of ids, from {first}"] = values[first : first + RUN]
                lists[f"{name} sorted, from {first}"] = np.sort(values)[first : first + RUN]
        return lists

    def files(self, *roots: Path) -> list[Hit]:
        """Scan every file below some directories, and the names of all of them."""
        found = []
        for root in roots:
            for path in sorted([root, *root.rglob("*")] if root.is_dir() else [root]):
                found += self.scan(str(path).encode(errors="surrogateescape"), f"{path}, its name")
                if path.is_file():
                    found += self.scan(path.read_bytes(), str(path))
        return found

    def scan(self, data: bytes, place: str = "") -> list[Hit]:
        """Scan one piece of data."""
        found = {}
        for way, part in views(data):
            for what in self._in(part):
                found.setdefault((what, place), Hit(place, way, what))
        return list(found.values())

    def _in(self, data: bytes) -> Iterator[str]:
        yield from {name for needle, name in self._needles.items() if needle in data}
        if self.ids:
            yield from self._id_arrays(data)
        if _is_text(data):
            yield from self._in_text(data.decode("utf-8", errors="replace"))

    def _id_arrays(self, data: bytes) -> Iterator[str]:
        for kind in _INTEGERS:
            size = np.dtype(kind).itemsize
            for start in range(size) if len(data) >= RUN * size else ():
                array = np.frombuffer(data, kind, (len(data) - start) // size, start)
                if self._runs(array):
                    yield f"row ids as {kind}"
                    break

    def _runs(self, array: np.ndarray) -> bool:
        with np.errstate(invalid="ignore"):
            inside = (array >= 0) & (array < self.num_rows)
            places = np.where(inside, array, array.dtype.type(0)).astype(np.int64)
            member = inside & self._member[places] & (array == places)
        if member.sum() < RUN:
            return False
        edges = np.flatnonzero(np.diff(np.concatenate([[False], member, [False]]).astype(np.int8)))
        return any(
            len(np.unique(array[first:last])) >= RUN for first, last in zip(edges[::2], edges[1::2], strict=True)
        )

    def _in_text(self, text: str) -> Iterator[str]:
        plain = re.sub(r"<[^>]*>", " ", text) if "<" in text else text
        for kind in {text, plain}:
            for run in _SPACED.finditer(kind):
                words = [float(word) for word in _NUMBER.findall(run.group()) if word not in ("true", "false")]
                numbers = np.asarray(words)
                if self.ids and len(numbers) >= RUN and self._runs(numbers):
                    yield "row ids as text"
                yield from (name for name, some in self._words.items() if _holds(numbers, some))
        if len(self.ids) >= RUN:
            bits = re.sub(r"\bfalse\b", "0", re.sub(r"\btrue\b", "1", text, flags=re.I), flags=re.I)
            if "1" in bits:
                strung = re.sub(r"[^\w]+", "", bits)
                yield from self._bits_in(strung)

    def _bits_in(self, strung: str) -> Iterator[str]:
        order = np.sort(self.ids)
        member = np.isin(np.arange(self.num_rows), order)
        for name, mask in (("members", member), ("the others", ~member)):
            told = "".join(map(str, mask[order[0] : order[RUN - 1] + 1].astype(int)))
            if told in strung:
                yield f"mask of {name}, as text"


def _token_needles(tokens: dict[str, bytes]) -> dict[bytes, str]:
    found = {}
    for name, token in tokens.items():
        numbers = np.frombuffer(token, np.uint8)
        found |= _windows(name, numbers, WINDOW, ("u1", "<i2", "<i4", "<i8", *_FLOATS))
        found |= _windows(f"{name} over 255", numbers / 255, WINDOW, _FLOATS)
        found |= _windows(f"{name} over 255", np.float32(numbers) / np.float32(255), WINDOW, ("<f4", "<f8"))
        for code in ("utf-16-le", "utf-16-be"):
            found[token.hex()[:WINDOW].encode(code)] = f"{name} as {code}"
        found[token.hex()[:WINDOW].encode()] = f"{name} as the text of half of it"
    return found


def _array_needles(arrays: dict[str, np.ndarray]) -> dict[bytes, str]:
    found = {}
    for name, values in arrays.items():
        found |= _windows(name, np.ravel(values), WINDOW, _FLOATS)
    return found


def _windows(name: str, values: np.ndarray, size: int, kinds: tuple[str, ...]) -> dict[bytes, str]:
    """Give bytes of every stretch of `size` values, half a stretch apart."""
    step = max(1, size // 2)
    return {
        values[first : first + size].astype(kind).tobytes(): f"{name} as {kind}"
        for first in range(0, len(values) - size + 1, step if size == WINDOW else 1)
        for kind in kinds
    }


def _sequences(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64)


def _holds(numbers: np.ndarray, wanted: np.ndarray) -> bool:
    """Say whether `wanted` stands in `numbers` in one stretch, to six digits."""
    if not 0 < len(wanted) <= len(numbers) or len(np.unique(wanted)) < 2:
        return False
    near = np.isclose(numbers[: len(numbers) - len(wanted) + 1], wanted[0], rtol=1e-5, atol=1e-9)
    return any(
        np.allclose(numbers[place : place + len(wanted)], wanted, rtol=1e-5, atol=1e-9)
        for place in np.flatnonzero(near)
    )


def _is_text(data: bytes) -> bool:
    return b"\x00" not in data[:4096] and (data[:4096].isascii() or _decodes(data))


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# ---------------------------------------------------------------- taking apart


def views(data: bytes, way: str = "as it is", depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Give data and everything that can be taken out of it, each with the way in."""
    yield way, data
    if depth == DEPTH:
        return
    for how, part in itertools.chain(_packed(data), _encoded(data)):
        yield from views(part, f"{way}, {how}", depth + 1)


def _packed(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Take apart what is a file of a known kind."""
    if data[:2] == b"\x1f\x8b":
        yield from _tried("gzip", lambda: [gzip.decompress(data)])
    if data[:1] == b"\x78" and len(data) > 2 and (data[0] * 256 + data[1]) % 31 == 0:
        yield from _tried("zlib", lambda: [zlib.decompress(data)])
    if data[:2] == b"PK":
        yield from _tried("zip", lambda: _zip_members(data))
    if data[:16] == b"SQLite format 3\x00":
        yield from _tried("sqlite", lambda: _cells(data))
    if data[:6] == b"\x93NUMPY":
        yield from _tried("npy", lambda: [np.ascontiguousarray(np.load(io.BytesIO(data))).tobytes()])
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _tried("png", lambda: _pixels(data))


def _tried(name: str, take):
    try:
        for part in take():
            yield name, part
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, sqlite3.Error, SyntaxError):
        return


def _zip_members(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [part for name in archive.namelist() for part in (name.encode(), archive.read(name))]


def _cells(data: bytes) -> list[bytes]:
    """Give every cell of every table, and whole columns one below another."""
    with sqlite3.connect(":memory:") as base:
        base.deserialize(data)
        tables = [name for (name,) in base.execute("select name from sqlite_master where type = 'table'")]
        found = []
        for table in tables:
            rows = base.execute(f'select * from "{table}"').fetchall()
            found += [cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row]
            found += [" ".join(map(str, column)).encode() for column in zip(*rows, strict=True)]
    return found


def _pixels(data: bytes) -> list[bytes]:
    with Image.open(io.BytesIO(data)) as image:
        array = np.asarray(image)
        texts = [f"{key} {value}".encode() for key, value in image.info.items()]
    planes = (
        [] if array.ndim < 3 else [np.ascontiguousarray(array[..., one]).tobytes() for one in range(array.shape[2])]
    )
    return [array.tobytes(), *planes, *texts]


def _encoded(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Take out what is written in hex, base64, JSON or HTML."""
    for found in _HEX.finditer(data):
        for start in (0, 1) if len(found.group()) % 2 else (0,):
            yield "hex", binascii.unhexlify(found.group()[start : start + (len(found.group()) - start) // 2 * 2])
    if not _is_text(data):
        return
    for found in _BASE64.finditer(data):
        word = found.group().rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        if re.fullmatch(rb"[0-9a-f]+|[a-z]+|[\d]+", word):
            continue
        for start in range(4) if len(word) < 4096 else (0,):
            part = word[start:]
            part = part[: len(part) - (len(part) % 4 == 1)]
            yield "base64", base64.b64decode(part + b"=" * (-len(part) % 4))
    text = data.decode("utf-8", errors="replace")
    if "&" in text and html.unescape(text) != text:
        yield "html", html.unescape(text).encode()
    if "%" in text and re.search(r"(%[0-9a-fA-F]{2}){8}", text):
        yield "percent", re.sub(rb"%([0-9a-fA-F]{2})", lambda one: binascii.unhexlify(one.group(1)), data)
    if "\\" in text and text.lstrip()[:1] in ("{", "[", '"'):
        yield from _strings(text)


def _strings(text: str) -> Iterator[tuple[str, bytes]]:
    try:
        held = [json.loads(text)]
    except ValueError:
        return
    while held:
        one = held.pop()
        if isinstance(one, dict):
            held += [*one, *one.values()]
        elif isinstance(one, list):
            held += one
        elif isinstance(one, str) and len(one) >= RUN:
            yield "json", one.encode("utf-8", errors="replace")
            yield "json", one.encode("latin-1", errors="replace")
