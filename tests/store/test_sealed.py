"""Sealed JSON: what was written comes back, and no changed bit goes unseen."""

import random

import msgspec
import pytest

from excise import errors, store

VALUE = {"a": 1, "b": [0.1, 1e300, -0.0, None, True], "text": "ünï\u2028", "deep": {"x": {}, "y": []}, "wide": 2**53}


@pytest.fixture
def path(tmp_path):
    store.write_sealed(tmp_path / "a.json", VALUE)
    return tmp_path / "a.json"


def test_what_was_sealed_comes_back(path):
    assert store.read_sealed(path) == VALUE
    assert path.read_bytes() == store.sealed_bytes(VALUE) == store.sealed_bytes({**VALUE, "seal": "another"})


def test_structures_are_sealed_as_their_fields(tmp_path):
    class Point(msgspec.Struct):
        x: float

    store.write_sealed(tmp_path / "b.json", {"at": Point(0.1)})
    assert store.read_sealed(tmp_path / "b.json") == {"at": {"x": 0.1}}


def test_every_flipped_bit_is_found(path):
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(errors.Corrupt):
            store.read_sealed(path)


def test_other_bytes_for_the_same_values_are_found(path):
    content, chance = path.read_bytes(), random.Random(0)
    others = [content + b" ", content[:-1], content.replace(b"\n", b""), content[: chance.randrange(len(content))]]
    others += [msgspec.json.encode(VALUE), b"{}", b"[]", b""]
    for other in others:
        path.write_bytes(other)
        with pytest.raises(errors.Corrupt, match=r"is not what was written there|is not JSON"):
            store.read_sealed(path)
