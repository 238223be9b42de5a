import gzip
import itertools
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from excise import errors
from excise.data.sets import idx

TYPES = {
    "bytes": (0x08, "B", torch.uint8, [0, 1, 2, 127, 128, 255]),
    "signed bytes": (0x09, "b", torch.int8, [0, 1, -1, 127, -128, 5]),
    "shorts": (0x0B, "h", torch.int16, [0, 1, -2, 258, -32768, 32767]),
    "ints": (0x0C, "i", torch.int32, [0, 1, -2, 258, -(2**31), 2**31 - 1]),
    "floats": (0x0D, "f", torch.float32, [0.0, 1.5, -2.25, 1024.0, 0.5, -8.0]),
    "doubles": (0x0E, "d", torch.float64, [0.0, 0.1, -2.2, 1e300, 0.3, -8.0]),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("code, letter, dtype, values", TYPES.values(), ids=TYPES.keys())
@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 1, 2), (1, 2, 1, 3)])
def test_reads_every_type_and_shape(tmp_path, write_idx, suffix, code, letter, dtype, values, shape):
    tensor = idx.read(write_idx(tmp_path / f"values{suffix}", shape, values, code, letter))
    assert tensor.dtype == dtype
    assert tensor.shape == shape
    assert tensor.flatten().tolist() == values


def naive_images(path):
    """Read grey images with nothing but loops, from the description of the format."""
    data = list(path.read_bytes())
    assert data[:4] == [0, 0, 8, 3]
    count, height, width = (
        sum(byte * 256**power for byte, power in zip(data[4 * k : 4 * k + 4], (3, 2, 1, 0), strict=True))
        for k in (1, 2, 3)
    )
    images = torch.zeros(count, height, width, dtype=torch.uint8)
    place = 16
    for row, y, x in itertools.product(range(count), range(height), range(width)):
        images[row, y, x] = data[place]
        place += 1
    assert place == len(data)
    return images


def test_equals_naive_reader(tmp_path, write_idx):
    values = torch.randint(256, (300 * 3 * 5,), generator=torch.Generator().manual_seed(0)).tolist()
    path = write_idx(tmp_path / "images", (300, 3, 5), values)
    assert torch.equal(idx.read_images(path), naive_images(path))


def header(*shape, code=0x08):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


DAMAGED = {
    "empty": (b"", "expected an IDX file.* found no bytes"),
    "wrong magic": (b"\x01\x00\x08\x01" + bytes(9), "found 01 00 08 01"),
    "unknown type": (header(1, code=0x0A), r"type \(one of 08 09 0b 0c 0d 0e\).* found 00 00 0a 01"),
    "no dimensions": (header(), "found 00 00 08 00"),
    "too many dimensions": (header(*[1] * 9), r"\(01 to 08\); found 00 00 08 09"),
    "gzip without .gz": (gzip.compress(header(1) + b"\x00"), "it is a gzip file and needs a name that ends in .gz"),
    "header cut": (header(2, 3)[:9], "expected 2 dimensions of 4 bytes, found 5 bytes; it is truncated"),
    "dimension of zero": (header(0, 2**32 - 1), r"expected at least one value, found .*\(0, 4294967295\)"),
    "values cut": (header(20) + bytes(19), "expected 20 bytes of values .*, found 19"),
    "values left over": (header(2) + bytes(3), "expected 2 bytes of values .*, found more"),
    "hostile header": (header(*[2**32 - 1] * 8), "found a file that cannot hold more than 36; it is truncated"),
}


@pytest.mark.parametrize("data, message", DAMAGED.values(), ids=DAMAGED.keys())
def test_refuses_damaged_files(tmp_path, data, message):
    path = tmp_path / "values"
    path.write_bytes(data)
    with pytest.raises(errors.BadData, match=message) as caught:
        idx.read(path)
    assert str(path) in str(caught.value)


COMPRESSED = {
    "not gzip": (header(1) + b"\x07", "expected an undamaged gzip file, found: Not a gzipped file"),
    "cut": (gzip.compress(header(9) + b"123456789")[:-9], "expected an undamaged gzip file"),
    "checksum": (gzip.compress(header(1) + b"\x07")[:-8] + bytes(8), "expected an undamaged gzip file.*CRC"),
    "hostile header": (gzip.compress(header(2**31)), "expected 2,147,483,648 bytes .* cannot hold more than"),
    "values left over": (gzip.compress(header(2) + bytes(10**6)), "expected 2 bytes of values .*, found more"),
}


@pytest.mark.parametrize("data, message", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_refuses_damaged_gzip(tmp_path, data, message):
    path = tmp_path / "values.gz"
    path.write_bytes(data)
    with pytest.raises(errors.BadData, match=message):
        idx.read(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(errors.BadData, match=r"expected a readable file, found: .*No such file"):
        idx.read(tmp_path / "nothing")


def test_refuses_swapped_files(tmp_path, write_idx):
    labels, images = write_idx(tmp_path / "l", (2,), [1, 2]), write_idx(tmp_path / "i", (2, 1, 1), [1, 2])
    with pytest.raises(
        errors.BadData, match=r"expected images.*found torch.uint8 of shape \(2,\); are two files swapped"
    ):
        idx.read_images(labels)
    with pytest.raises(errors.BadData, match=r"expected labels.*found torch.uint8 of shape \(2, 1, 1\)"):
        idx.read_labels(images)
    with pytest.raises(errors.BadData, match=r"expected labels.*found torch.int16 of shape \(2,\)"):
        idx.read_labels(write_idx(tmp_path / "s", (2,), [1, 2], 0x0B, "h"))


sizes = st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1))
plausible = st.builds(
    lambda code, shape, rest: header(*shape, code=code) + rest,
    st.sampled_from([0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E]),
    st.lists(sizes, min_size=1, max_size=9),
    st.binary(max_size=40),
)
contents = st.one_of(st.binary(max_size=60), plausible)
archives = st.builds(
    lambda data, cut, junk: gzip.compress(data)[:cut] + junk, contents, st.integers(0, 60), st.binary(max_size=9)
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(data=st.one_of(contents, archives), suffix=st.sampled_from(["", ".gz"]))
def test_any_bytes_are_read_or_refused(data, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"values{suffix}")
        path.write_bytes(data)
        try:
            assert idx.read(path).numel() > 0
        except errors.BadData as refusal:
            assert str(path) in str(refusal)
