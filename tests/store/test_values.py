import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise import errors, store

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@given(value=plain)
def test_json_comes_back_and_is_what_the_standard_library_reads(shared, value):
    path = shared / "a.json"
    store.write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert store.read_json(path) == value == json.loads(text)
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_structures_are_written_as_their_fields(tmp_path):
    class Point(msgspec.Struct):
        x: int
        y: list[float]

    store.write_json(tmp_path / "a.json", {"at": Point(1, [0.1])})
    assert store.read_json(tmp_path / "a.json") == {"at": {"x": 1, "y": [0.1]}}
    assert (tmp_path / "a.json").read_bytes() == b'{\n "at": {\n  "x": 1,\n  "y": [\n   0.1\n  ]\n }\n}\n'


def test_json_that_is_missing_or_damaged_is_told_apart(tmp_path):
    with pytest.raises(errors.BadData, match=r"expected a file at .*a\.json, found none"):
        store.read_json(tmp_path / "a.json")
    with pytest.raises(errors.BadData, match=r"is not a readable file: Is a directory"):
        store.read_json(tmp_path)
    for damaged in (b"{", b"", b"\xff\xfe", b'{"a": "\xff"}', b"nan"):
        (tmp_path / "a.json").write_bytes(damaged)
        with pytest.raises(errors.Corrupt, match=r"a\.json is not JSON") as found:
            store.read_json(tmp_path / "a.json")
        assert found.value.exit_code == 6
