import contextlib
import json
import os

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise import errors, store
from excise.store import values
from tests.hostile import corpus

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


LIMITS = {
    "JSON 100,000 deep": "nested more than 100 deep",
    "JSON 200 deep, closed": "nested more than 100 deep",
    "JSON of objects 500 deep": "nested more than 100 deep",
    "JSON of 3 million lists": "more than 2000000 lists and objects, or 4000000 values",
    "JSON of 8 million numbers": "more than 2000000 lists and objects, or 4000000 values",
    "JSON with a key twice": "the key 'format' is given twice",
    "a number past all floats": "is not JSON: Number out of range",
    "YAML that builds objects": "is not JSON",
}


@pytest.mark.parametrize("name", LIMITS)
def test_json_that_costs_too_much_or_means_two_things_is_corrupt(tmp_path, name):
    corpus.make(name, tmp_path / "a.json", tmp_path / "marker")
    with pytest.raises(errors.Corrupt, match=LIMITS[name]):
        store.read_json(tmp_path / "a.json")


def test_a_key_given_twice_anywhere_is_found_and_equal_keys_apart_are_not(tmp_path):
    path = tmp_path / "a.json"
    for text in ('{"a":{"b":1,"c":2,"b":1}}', '[[{"b":1,"b":1}]]', '{"\\u0062":1,"b":2}'):
        path.write_text(text)
        with pytest.raises(errors.Corrupt, match="the key 'b' is given twice"):
            store.read_json(path)
    path.write_text('{"a":{"b":1},"b":{"b":2},"c":[{"b":3},{"b":3}]}')
    assert store.read_json(path) == json.loads(path.read_text())


def test_a_hundred_levels_are_read_and_one_more_is_not(tmp_path):
    path = tmp_path / "a.json"
    for depth, fits in ((99, True), (100, True), (101, False)):
        path.write_text("[" * depth + "]" * depth)
        if fits:
            assert store.read_json(path) == json.loads(path.read_text())
        else:
            with pytest.raises(errors.Corrupt, match="nested more than 100 deep"):
                store.read_json(path)


def test_a_file_of_exactly_the_limit_is_read_and_one_byte_more_is_not(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert values.read_content(path, 5) == b"12345"
    with pytest.raises(errors.BadData, match=r"expected at most 4 bytes, found more; see whether it is the right file"):
        values.read_content(path, 4)


def test_a_pipe_is_not_waited_for_and_a_bad_name_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        for read in (store.read_json, values.read_toml, values.read_array):
            with pytest.raises(errors.BadData, match="it is a pipe or a device"):
                read(tmp_path / name)
    for name, message in (("x" * 300, "File name too long"), ("a\0b", "null byte|NUL")):
        with pytest.raises(errors.BadData, match=message):
            store.read_json(tmp_path / name)


def test_toml_is_what_the_standard_library_reads(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('a = 1\n[b]\nc = ["ä"]\n', encoding="utf-8")
    assert values.read_toml(path) == {"a": 1, "b": {"c": ["ä"]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"= 3", "cannot be read as TOML: "),
        (b"a = 1\na = 2", "cannot be read as TOML: Cannot overwrite"),
        (b"\xff", "cannot be read as TOML: .*utf-8"),
        (b"a=" + b"[" * 10_000, "cannot be read as TOML: nested too deeply"),
        (b"a" + b".a" * 30_000 + b"=1", "expected at most 16384 bytes"),
    ],
    ids=range(5),
)
def test_toml_that_cannot_be_read_is_told(tmp_path, content, message):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(errors.BadData, match=message):
        values.read_toml(tmp_path / "a.toml")
    with pytest.raises(errors.BadData, match="found none"):
        values.read_toml(tmp_path / "b.toml")


ARRAYS = [
    np.arange(5),
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([True, False]),
    np.array(["a", "bc"]),
    np.array(3),
    np.zeros((0, 4)),
    np.arange(3, dtype=">i4"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=range(len(ARRAYS)))
def test_an_array_is_what_numpy_reads(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found, twin = values.read_array(tmp_path / "a.npy"), np.load(tmp_path / "a.npy", allow_pickle=False)
    assert (found.dtype, found.shape, found.tolist()) == (twin.dtype, twin.shape, twin.tolist())
    assert found.flags.writeable or found.size == 0


NO_ARRAYS = {
    "an array of objects": r"it holds objects, which only a pickle could give back \(allow_pickle=False\)",
    "an array with a field of objects": "it holds objects",
    "an npz of objects": "cannot be read as a .npy array",
    "an array with code in its header": "cannot be read as a .npy array",
    "an array of a terabyte": "its values should take 1099511627776 bytes, of which 0 are there",
    "an array of a negative size": "its values should take -8 bytes",
    "an array with a deep header": "cannot be read as a .npy array",
    "a pickle of protocol 2": "cannot be read as a .npy array",
    "nothing": "cannot be read as a .npy array",
}


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, name):
    corpus.make(name, tmp_path / "a.npy", tmp_path / "marker")
    with pytest.raises(errors.BadData, match=NO_ARRAYS[name]):
        values.read_array(tmp_path / "a.npy")
    with pytest.raises(errors.BadData, match=r"expected an array at .*, found no such file"):
        values.read_array(tmp_path / "b.npy")
    assert not (tmp_path / "marker").exists()


def test_an_array_of_a_later_form_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:6] + b"\3\0" + content[8:])
    with pytest.raises(errors.BadData, match=r"its form is \(3, 0\)"):
        values.read_array(tmp_path / "a.npy")


@given(st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail_otherwise(shared, content):
    path = shared / "any"
    path.write_bytes(content)
    for read in (store.read_json, values.read_toml, values.read_array, store.read_metadata):
        with contextlib.suppress(errors.ExciseError):
            read(path)


def _spelled(parts):
    return "{" + ",".join(f'"{len(part)}":{part}' for part in parts) + "}" if len(parts) % 2 else f"[{','.join(parts)}]"


@given(st.recursive(st.sampled_from(["1", '""', "null", "1e9", "-0"]), lambda inner: st.lists(inner).map(_spelled)))
def test_no_brackets_make_a_reader_fail_otherwise(shared, text):
    path = shared / "any"
    path.write_text(text)
    with contextlib.suppress(errors.ExciseError):
        assert store.read_json(path) == json.loads(text)
