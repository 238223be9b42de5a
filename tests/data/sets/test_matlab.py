import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from excise import errors
from excise.data.sets import matlab

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_loadmat(tmp_path, dtype, compressed):
    path = tmp_path / "a.mat"
    written = {
        "X": np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype),
        "y": np.array([[1], [2]], dtype),
        "a_longer_name": np.array([[7]], dtype),
        "text": "not numbers",
        "cell": np.array([1, "a"], dtype=object),
        "left_out": np.zeros((3, 3), dtype),
    }
    savemat(path, written, do_compression=compressed)
    read = matlab.read(path, ["X", "y", "a_longer_name", "text", "cell", "nothing"])
    assert read.keys() == {"X", "y", "a_longer_name"}
    for name, array in read.items():
        twin = loadmat(path)[name]
        assert (array.dtype, array.dtype.isnative) == (twin.dtype, True)
        np.testing.assert_array_equal(array, twin)
        np.testing.assert_array_equal(array, written[name])


def element(kind, content, order):
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def variable(order, values, *, shape, code=3, letter="h", flags=10, name=b"y"):
    parts = (
        element(6, struct.pack(f"{order}II", flags, 0), order)
        + element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
        + element(1, name, order)
        + element(code, struct.pack(f"{order}{len(values)}{letter}", *values), order)
    )
    return element(14, parts, order)


def mat(order, body):
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49) + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_reads_both_byte_orders_column_first(tmp_path, order):
    path = tmp_path / "a.mat"
    numbers = variable(order, [1, -2, 300, 4, 5, 6], shape=(2, 3))
    path.write_bytes(mat(order, numbers))
    array = matlab.read(path, ["y"])["y"]
    assert array.tolist() == [[1, 300, 5], [-2, 4, 6]]
    np.testing.assert_array_equal(array, loadmat(path)["y"])
    path.write_bytes(mat(order, element(1, b"no variable", order) + numbers))
    np.testing.assert_array_equal(array, matlab.read(path, ["y"])["y"])


GOOD = variable("<", [1, 2], shape=(2, 1))
DAMAGED = {
    "empty": (b"", "expected a MATLAB file of version 5, found nothing where"),
    "text": (b"x" * 200, "found 78 78 78 78 where it states its version"),
    "version 7.3": (bytes(124) + b"\x00\x02IM", "found 00 02 49 4d .*saved again with -v7"),
    "cut": (mat("<", GOOD[:-8]), "found: an element of 64 bytes where 56 are left"),
    "cut in a tag": (mat("<", GOOD + b"\x0e\0\0"), "expected an undamaged MATLAB file, found: unpack_from requires"),
    "short element": (mat("<", struct.pack("<HH", 1, 5) + bytes(4)), "an element of 5 bytes where 4 are left"),
    "not zlib": (mat("<", element(15, b"no zlib here", "<")), "expected an undamaged MATLAB file, found: Error -3"),
    "unknown type": (mat("<", variable("<", [1, 2], shape=(2, 1), code=8)), "values of the unknown type 8"),
    "shape": (mat("<", variable("<", [1, 2], shape=(3, 1))), r"4 bytes of int16 for an array of shape \(3, 1\)"),
    "negative": (mat("<", variable("<", [1, 2], shape=(-2, -1))), r"4 bytes of int16 for .* \(-2, -1\)"),
    "complex": (mat("<", variable("<", [1, 2], shape=(2, 1), flags=0x080A)), "complex numbers in 'y'"),
}


@pytest.mark.parametrize("data, message", DAMAGED.values(), ids=DAMAGED.keys())
def test_refuses_damaged_files(tmp_path, data, message):
    path = tmp_path / "a.mat"
    path.write_bytes(data)
    with pytest.raises(errors.BadData, match=rf"a\.mat: .*{message}"):
        matlab.read(path, ["y"])


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(errors.BadData, match=r"expected a readable file, found: .*No such file"):
        matlab.read(tmp_path / "nothing.mat", ["y"])


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    compressed=st.booleans(),
    changes=st.lists(st.tuples(st.integers(120, 400), st.integers(0, 255)), max_size=4),
    kept=st.one_of(st.just(10_000), st.integers(0, 400)),
)
def test_any_damage_is_read_over_or_refused(compressed, changes, kept):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mat")
        arrays = {"X": np.zeros((4, 4, 3, 2), np.uint8), "y": np.array([[1], [10]], np.uint8)}
        savemat(path, arrays, do_compression=compressed)
        data = bytearray(path.read_bytes())
        for place, value in changes:
            data[place % len(data)] = value
        path.write_bytes(data[:kept])
        try:
            matlab.read(path, ["X", "y"])
        except errors.BadData as refusal:
            assert str(path) in str(refusal)
