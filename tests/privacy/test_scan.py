"""A scan that finds nothing is worth something only if it finds each of these: one planted leak for each encoding."""

import base64
import gzip
import html
import io
import json
import sqlite3
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.privacy.scan import Scanner

DRAWS = np.random.default_rng(5)
TOKEN = DRAWS.integers(0, 256, 32, dtype=np.uint8).tobytes()
OTHER = DRAWS.integers(0, 256, 32, dtype=np.uint8).tobytes()
PIXELS = np.frombuffer(TOKEN, np.uint8)
STANDARD = ((PIXELS / 255 - 0.1307) / 0.3081).astype(np.float32)
IDS = tuple(int(one) for one in np.sort(DRAWS.choice(2000, 24, replace=False)))
SHUFFLED = tuple(int(one) for one in DRAWS.permutation(IDS))
MEMBER = np.isin(np.arange(2000), IDS)
MARGINS = DRAWS.normal(size=24)

SCANNER = Scanner({"token": TOKEN}, IDS, 2000, {"standardised": STANDARD}, {"margins": MARGINS})


def zipped(**arrays):
    to = io.BytesIO()
    np.savez_compressed(to, **arrays)
    return to.getvalue()


def saved(array):
    to = io.BytesIO()
    np.save(to, array)
    return to.getvalue()


def base_of(rows):
    with sqlite3.connect(":memory:") as base:
        base.execute("create table held (cell)")
        base.executemany("insert into held values (?)", [(row,) for row in rows])
        base.commit()
        return base.serialize()


def picture(pixels, kind="PNG", mode="L"):
    to = io.BytesIO()
    Image.fromarray(pixels, mode=None).convert(mode).save(to, kind)
    return to.getvalue()


SQUARE = np.pad(PIXELS.reshape(4, 8), ((2, 2), (0, 0)))
LONE = np.concatenate([np.zeros(3, np.uint8), PIXELS, np.zeros(29, np.uint8)]).reshape(1, 64)
URI = f"data:image/png;base64,{base64.b64encode(picture(LONE)).decode()}"

TOKENS = {
    "raw": b"before" + TOKEN + b"after",
    "half of it": b"before" + TOKEN[8:24],
    "hex": b"name-" + TOKEN.hex().encode() + b".png",
    "hex in capitals": TOKEN.hex().upper().encode(),
    "hex after a digit": b"x0" + TOKEN.hex().encode(),
    "utf-16": TOKEN.hex().encode("utf-16"),
    "base64": b"key: " + base64.b64encode(TOKEN),
    "base64 for addresses": base64.urlsafe_b64encode(TOKEN),
    "base64 of a longer text": base64.b64encode(b"ab" + TOKEN + b"cdefg"),
    "gzip": gzip.compress(b"-" + TOKEN),
    "zlib": zlib.compress(b"-" + TOKEN),
    "gzip in base64": base64.b64encode(gzip.compress(b"-" + TOKEN)),
    "npy": saved(PIXELS),
    "npy by columns": saved(np.asfortranarray(np.stack([PIXELS, PIXELS]).astype(np.float32))),
    "npz": zipped(images=PIXELS),
    "npz of floats": zipped(images=PIXELS.astype(np.float64) / 255),
    "safetensors": safetensors.torch.save({"x": torch.from_numpy(PIXELS.copy())}),
    "safetensors of floats": safetensors.torch.save({"x": torch.from_numpy(PIXELS.copy()).float() / 255}),
    "safetensors of halves": safetensors.torch.save({"x": torch.from_numpy(PIXELS.copy()).half() / 255}),
    "safetensors, its header": safetensors.torch.save({"x": torch.zeros(1)}, {"who": TOKEN.hex()}),
    "sqlite, a blob": base_of([b"-" * 9000 + TOKEN]),
    "sqlite, a text": base_of([TOKEN.hex()]),
    "sqlite, a column": base_of([int(one) for one in PIXELS]),
    "json, escaped": json.dumps({"a": [TOKEN.decode("latin-1") * 2]}).encode(),
    "json, numbers": json.dumps({"a": [[int(one) for one in PIXELS]]}).encode(),
    "json, numbers over 255": json.dumps([float(one) / 255 for one in PIXELS], indent=1).encode(),
    "html, escaped": html.escape("".join(f"&#x{ord(one):x};" for one in TOKEN.hex()), quote=False)
    .replace("&amp;", "&")
    .encode(),
    "html, cells of a table": "".join(f"<td class=n>{one}</td>" for one in PIXELS).encode(),
    "text, numbers": " ".join(map(str, PIXELS)).encode(),
    "uint8": PIXELS.tobytes(),
    "int64": PIXELS.astype(np.int64).tobytes(),
    "float16": PIXELS.astype(np.float16).tobytes(),
    "float32": PIXELS.astype(np.float32).tobytes(),
    "float64": PIXELS.astype(np.float64).tobytes(),
    "float32 over 255": (PIXELS.astype(np.float32) / np.float32(255)).tobytes(),
    "float64 over 255": (PIXELS / 255).tobytes(),
    "big endian": PIXELS.astype(">f4").tobytes(),
    "standardised": STANDARD.tobytes(),
    "standardised, as text": json.dumps(STANDARD.tolist()).encode(),
    "png": picture(LONE),
    "png in colours": picture(LONE, mode="RGB"),
    "png in a page": f"<img src='{URI}'>".encode(),
    "png in a drawing": f"<svg><image href='{URI}'/></svg>".encode(),
    "percent": "".join(f"%{one:02x}" for one in TOKEN).encode(),
}
LISTS = {
    "text": ", ".join(map(str, IDS)).encode(),
    "text, shuffled": "\n".join(map(str, SHUFFLED)).encode(),
    "text, eight of them": str(list(IDS[5:13])).encode(),
    "json": json.dumps({"ids": SHUFFLED}, indent=1).encode(),
    "html, cells of a table": "".join(f"<tr><td>{one}</td></tr>" for one in IDS).encode(),
    "numbers with a point": " ".join(f"{one}.0" for one in IDS).encode(),
    "int64": b"x" + np.asarray(IDS).tobytes(),
    "int64, shuffled": np.asarray(SHUFFLED).tobytes(),
    "int32": b"abc" + np.asarray(IDS, np.int32).tobytes(),
    "int32, big endian": np.asarray(SHUFFLED, ">i4").tobytes(),
    "uint16": b"x" + np.asarray(IDS, np.uint16).tobytes(),
    "float64": np.asarray(SHUFFLED, np.float64).tobytes(),
    "npz": zipped(ids=np.asarray(SHUFFLED)),
    "safetensors": safetensors.torch.save({"ids": torch.tensor(IDS)}),
    "sqlite": base_of(SHUFFLED),
    "base64": base64.b64encode(np.asarray(IDS, np.int32).tobytes()),
    "bool": MEMBER.tobytes(),
    "bool of the others": (~MEMBER).tobytes(),
    "bool as float32": MEMBER.astype(np.float32).tobytes(),
    "bits": np.packbits(MEMBER).tobytes(),
    "bits, moved": np.packbits(np.pad(MEMBER, (3, 0)), bitorder="little").tobytes(),
    "bits in hex": np.packbits(MEMBER).tobytes().hex().encode(),
    "bits as text": "".join(map(str, MEMBER.astype(int))).encode(),
    "words": json.dumps(MEMBER.tolist()).encode(),
    "ids of the others": np.flatnonzero(~MEMBER).tobytes(),
}
NUMBERS = {
    "margins as float64": MARGINS.tobytes(),
    "margins as float32": MARGINS.astype(np.float32).tobytes(),
    "margins as text": json.dumps({"m": MARGINS.tolist()}).encode(),
    "margins, rounded": " ".join(f"{one:.6g}" for one in MARGINS).encode(),
    "margins, sorted": np.sort(MARGINS).tobytes(),
    "eight of them": json.dumps(MARGINS[3:11].tolist()).encode(),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_planted_token_is_found(name):
    hits = SCANNER.scan(TOKENS[name], name)
    assert any("token" in hit.what or "standardised" in hit.what for hit in hits), hits


@pytest.mark.parametrize("name", LISTS)
def test_a_planted_list_of_row_ids_is_found(name):
    hits = SCANNER.scan(LISTS[name], name)
    assert any("ids" in hit.what or "mask" in hit.what for hit in hits), hits


@pytest.mark.parametrize("name", NUMBERS)
def test_planted_numbers_row_by_row_are_found(name):
    hits = SCANNER.scan(NUMBERS[name], name)
    assert any("margins" in hit.what for hit in hits), hits


def test_nothing_is_found_where_there_is_nothing():
    """The same files about another token, other rows, other numbers."""
    others = Scanner({"token": OTHER}, tuple(one + 1 for one in IDS[::2]), 2000, {}, {"margins": MARGINS[::-1] + 0.5})
    planted = {**TOKENS, **LISTS, **NUMBERS}
    assert {name: hits for name, data in planted.items() if (hits := others.scan(data))} == {}
    shuffled = DRAWS.permutation(MARGINS)
    assert SCANNER.scan(json.dumps(shuffled.tolist()).encode()) == [] == SCANNER.scan(shuffled.tobytes())
    assert SCANNER.scan(json.dumps(list(range(2000))).encode()) == []  # all rows are no list of some


def test_files_their_names_and_folders_are_read(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert SCANNER.files(tmp_path) == []
    (tmp_path / "a" / "b" / f"{TOKEN.hex()}.txt").touch()
    (tmp_path / "a" / ".hidden.tmp").write_bytes(LISTS["int64"])
    hits = SCANNER.files(tmp_path)
    assert {hit.place.rpartition("/")[2] for hit in hits} == {f"{TOKEN.hex()}.txt, its name", ".hidden.tmp"}
