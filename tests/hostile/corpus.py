"""Files that mean harm, each made by a function: what they would run creates a marker, which nobody may ever find."""

import bz2
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkfifo, (self.marker,)


class Call:
    """Unpickling it makes a call."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


class State(Call):
    """Unpickling it sets a state."""

    def __reduce__(self):
        return (*self.made, {"a": 1})


class Stored:
    """Bytes of an archive, by key."""

    def __init__(self, key="0", count=4, kind=torch.FloatStorage):
        self.told = "storage", kind, key, "cpu", count


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.told if isinstance(value, Stored) else None


def pickled(value, protocol=2):
    made = io.BytesIO()
    _Pickler(made, protocol).dump(value)
    return made.getvalue()


def tensor(size=(4,), stride=(1,), offset=0, **stored):
    return Call(_rebuild_tensor_v2, Stored(**stored), offset, size, stride, False, {})


def archive(content, *, entries=(), storages=None, packed=zipfile.ZIP_STORED, folder="w"):
    """Give what torch.save would have written, had it been asked for this pickle."""
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", packed) as file:
        warnings.simplefilter("ignore")  # of names that are there twice
        file.writestr(f"{folder}/data.pkl", content if isinstance(content, bytes) else pickled(content))
        file.writestr(f"{folder}/byteorder", "little")
        file.writestr(f"{folder}/version", "3\n")
        for key, value in ({"0": bytes(16)} if storages is None else storages).items():
            file.writestr(f"{folder}/data/{key}", value)
        for name, value in entries:
            file.writestr(name, value)
    return made.getvalue()


def torch_saved(value, **options):
    made = io.BytesIO()
    torch.save(value, made, **options)
    return made.getvalue()


def safetensors_of(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(shape=(1,), ends=1, dtype="U8"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, ends]}


def npy(header, body=b""):
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + body


def numpy_saved(save, *values, **named):
    made = io.BytesIO()
    save(made, *values, **named)
    return made.getvalue()


def tarred(name, mode=""):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=f"w:{mode}") as file:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        file.addfile(entry, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    return made.getvalue()


def zip_link(marker):
    entry = zipfile.ZipInfo("w/data/1")
    entry.external_attr = 0o120777 << 16
    return archive({"a": tensor()}, entries=[(entry, "/etc/passwd")])


def overlapping():
    """An archive whose list names the same bytes many times: 1 MB that says it is 100 MB."""
    whole = archive({"a": tensor()}, storages={"0": bytes(1 << 20)})
    end = whole.rindex(b"PK\5\6")
    count, size, start = struct.unpack("<HLL", whole[end + 10 : end + 20])
    listed = whole[start : start + size]
    last = listed[listed.rindex(b"PK\1\2") :]
    more = b"".join(last.replace(b"/data/0", b"/data/%d" % (index % 9 + 1)) for index in range(100))
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count + 100, count + 100, size + len(more), start, 0)
    return whole[: start + size] + more + tail


def in_itself():
    value = {"a": tensor()}
    value["b"] = value
    return archive(value)


def many_entries():
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0) + b"w/data/1"
    listed = entry * 200_000
    return b"PK\3\4" + listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(listed), 4, 0)


def script(marker):
    return f"import os; os.mkfifo({str(marker)!r})"


CONTENTS = {
    # pickles and what wraps them
    "a pickle of protocol 0": lambda marker: pickle.dumps(Touch(marker), 0),
    "a pickle of protocol 2": lambda marker: pickle.dumps({"a": Touch(marker)}, 2),
    "a pickle of protocol 5": lambda marker: pickle.dumps([Touch(marker)], 5),
    "a pickle with INST": lambda marker: b"(S'" + str(marker).encode() + b"'\nios\nmkfifo\n.",
    "a pickle with OBJ": lambda marker: b"(cos\nmkfifo\nS'" + str(marker).encode() + b"'\no.",
    "a packed pickle, as joblib writes it": lambda marker: zlib.compress(pickle.dumps(Touch(marker))),
    "a pickle in bzip2": lambda marker: bz2.compress(pickle.dumps(Touch(marker))),
    # torch
    "a state dict with a call": lambda marker: torch_saved({"a": torch.zeros(2), "b": Touch(marker)}),
    "a state dict with a call, old form": lambda marker: torch_saved(
        {"a": torch.zeros(2), "b": Touch(marker)}, _use_new_zipfile_serialization=False
    ),
    "a call by STACK_GLOBAL": lambda marker: archive(pickled({"a": tensor(), "b": Touch(marker)}, 4)),
    "a call by INST in an archive": lambda marker: archive(b"\x80\2(S'" + str(marker).encode() + b"'\nios\nmkfifo\n."),
    "a call by an extension code": lambda _: archive(b"\x80\2\x82\1)R."),
    "a call of eval": lambda marker: archive({"a": Call(eval, script(marker))}),
    "a call of getattr": lambda _: archive({"a": Call(getattr, tensor(), "data")}),
    "a call of torch.load": lambda marker: archive({"a": Call(torch.load, str(marker))}),
    "a storage's own call": lambda _: archive({"a": Call(torch.FloatStorage, 1 << 40)}),
    "a state set on a tensor": lambda _: archive({"a": State(_rebuild_tensor_v2, Stored(), 0, (4,), (1,), False, {})}),
    "an item set on a tensor": lambda _: archive(pickled(tensor())[:-1] + b"K\0K\1s."),
    "items set on a name": lambda _: archive(b"\x80\2ctorch\nFloatStorage\nK\0K\1s."),
    "a tensor larger than its bytes": lambda _: archive({"a": tensor((1 << 30,), count=1 << 30)}),
    "a tensor past its bytes": lambda _: archive({"a": tensor((4,), (1,), offset=100)}),
    "a tensor with a step back": lambda _: archive({"a": tensor((4,), (-1,), offset=3)}),
    "a tensor that repeats one number": lambda _: archive({"a": tensor((1 << 20, 1 << 20), (0, 0))}),
    "many tensors of the same bytes": lambda _: archive(
        {str(n): tensor((1 << 20,), (1,), count=1 << 20) for n in range(200)}, storages={"0": bytes(4 << 20)}
    ),
    "a tensor of 100 axes": lambda _: archive({"a": tensor((1,) * 100, (1,) * 100)}),
    "a tensor of a size past 64 bits": lambda _: archive({"a": tensor((0, 1 << 70), (1, 1))}),
    "a parameter of nothing": lambda _: archive({"a": Call(_rebuild_parameter, None, True, {})}),
    "a key that is a tensor": lambda _: archive(pickled({})[:-1] + b"(" + pickled(tensor())[2:-1] + b"K\1u."),
    "the same key twice": lambda _: archive(b"\x80\2}(X\1\0\0\0aK\1X\1\0\0\0aK\2u."),
    "a dict in itself": lambda _: in_itself(),
    "two million steps": lambda _: archive(b"\x80\2" + b"N" * 2_000_000 + b"."),
    "a deep tuple": lambda _: archive(b"\x80\2)" + b"\x85" * 100_000 + b"."),
    "a pickle without an end": lambda _: archive(b"\x80\2}(X\1\0\0\0a"),
    "a pickle that takes from nothing": lambda _: archive(b"\x80\2R."),
    "a long name": lambda _: archive(b"\x80\2c" + b"a" * 1_000_000 + b"\nb\n."),
    "a TorchScript archive": lambda marker: archive(
        {"a": tensor()}, entries=[("w/constants.pkl", pickle.dumps(())), ("w/code/__torch__.py", script(marker))]
    ),
    "two pickles of one name": lambda marker: archive(
        {"a": tensor()}, entries=[("w/data.pkl", pickle.dumps(Touch(marker)))]
    ),
    "another pickle beside": lambda marker: archive(
        {"a": tensor()}, entries=[("w/x.pkl", pickle.dumps(Touch(marker)))]
    ),
    "an archive in an archive": lambda marker: archive(
        {"a": tensor()}, entries=[("w/inner.zip", archive({"b": Touch(marker)}))]
    ),
    "an archive behind a script": lambda marker: (
        b"#!/bin/sh\nmkfifo " + str(marker).encode() + b"\n" + archive({"a": tensor()})
    ),
    "a zip bomb": lambda _: archive(b"N" * (20 << 20), packed=zipfile.ZIP_DEFLATED),
    "a zip bomb of overlapping entries": lambda _: overlapping(),
    "a list of 200,000 entries": lambda _: many_entries(),
    "a zip that climbs out": lambda marker: archive({"a": tensor()}, entries=[(f"../../{marker.name}", "x")]),
    "a zip to an absolute place": lambda marker: archive({"a": tensor()}, entries=[(str(marker), "x")]),
    "a zip with a link": zip_link,
    "half an archive": lambda _: torch_saved({"a": torch.arange(1000.0)})[:3000],
    "a changed byte in an archive": lambda _: torch_saved({"a": torch.zeros(999)}).replace(
        bytes(99), bytes(98) + b"\1", 1
    ),
    "a tar that climbs out": lambda marker: tarred(f"../../{marker.name}"),
    "a packed tar to an absolute place": lambda marker: tarred(str(marker), "gz"),
    "a gzip bomb": lambda _: gzip.compress(bytes(20 << 20)),
    # arrays
    "an array of objects": lambda marker: numpy_saved(np.save, np.array([Touch(marker)], dtype=object)),
    "an npz of objects": lambda marker: numpy_saved(np.savez, a=np.array([Touch(marker)], dtype=object)),
    "an array with code in its header": lambda marker: npy(
        f"{{'descr': '<i8', 'shape': ({script(marker)}), 'fortran_order': 0}}"
    ),
    "an array of a terabyte": lambda _: npy("{'descr': '<i8', 'fortran_order': False, 'shape': (137438953472,), }"),
    "an array of a negative size": lambda _: npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }"),
    "an array with a field of objects": lambda marker: npy(
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }", pickle.dumps(Touch(marker))
    ),
    "an array with a deep header": lambda _: npy("{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 9000),
    # safetensors
    "a header of 2^63 bytes": lambda _: b"\xff" * 7 + b"\x7f" + b"{}",
    "a header of 17 million bytes": lambda _: safetensors_of(b'{"__metadata__":{"a":"' + b"x" * 17_000_000 + b'"}}'),
    "a header of 100,001 tensors": lambda _: safetensors_of(
        b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(100_001)) + b"}"
    ),
    "a header of a million notes": lambda _: safetensors_of(
        b'{"__metadata__":{' + b",".join(b'"%d":""' % n for n in range(1_000_000)) + b"}}"
    ),
    "a shape that overflows": lambda _: safetensors_of({"a": one((2**32, 2**32, 4), 0, "F32")}),
    "a shape past 64 bits": lambda _: safetensors_of({"a": one((2**64 - 1, 0), 0)}),
    "a shape of 100,000 axes": lambda _: safetensors_of({"a": one((1,) * 100_000)}, b"a"),
    "a tensor past the end": lambda _: safetensors_of({"a": one((100,), 100)}, b"a"),
    "two tensors in one place": lambda _: safetensors_of({"a": one(), "b": one()}, b"a"),
    "a name twice": lambda _: safetensors_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"a",
    ),
    "a deep header": lambda _: safetensors_of(b'{"a":' + b"[" * 100_000),
    "half a safetensors file": lambda _: safetensors_of({"a": one((100,), 100)}, bytes(100))[:60],
    # text
    "nothing": lambda _: b"",
    "YAML that builds objects": lambda marker: f"!!python/object/apply:os.mkfifo ['{marker}']\n".encode(),
    "JSON 100,000 deep": lambda _: b"[" * 100_000,
    "JSON 200 deep, closed": lambda _: b"[" * 200 + b"]" * 200,
    "JSON of objects 500 deep": lambda _: b'{"a":' * 500 + b"1" + b"}" * 500,
    "JSON of 3 million lists": lambda _: b"[" + b"[]," * 3_000_000 + b"[]]",
    "JSON of 34 MB": lambda _: b'{"a":"' + b"x" * (34_000_000) + b'"}',
    "JSON of 8 million numbers": lambda _: b"[" + b"257," * 8_000_000 + b"1]",
    "JSON with a key twice": lambda _: b'{"format":1,"files":{},"format":1,"page":{},"epochs":1,"epochs":2}',
    "a number of a million digits": lambda _: b"9" * 1_000_000,
    "a number past all floats": lambda _: b'{"format": 1e999}',
    "TOML 10,000 deep": lambda _: b"a=" + b"[" * 10_000,
    "TOML with a key of 8,000 dots": lambda _: b"a" + b".a" * 8_000 + b"=1",
    "TOML with a key of 30,000 dots": lambda _: b"a" + b".a" * 30_000 + b"=1",
    "ids of 69 MB in a line": lambda _: b"1 " * (33 << 20),
    "ids in other digits": lambda _: "١٢٣".encode(),
    "bytes that are no text": lambda _: bytes(range(256)) * 100,
    "a page with a script": lambda marker: json.dumps({"page": f"<script>fetch('{marker}')</script>"}).encode(),
}


def _link(path, to):
    path.symlink_to(to)


def _sparse(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


NODES = {
    "a link to /dev/zero": lambda path: _link(path, "/dev/zero"),
    "a link to itself": lambda path: _link(path, path.name),
    "a link to nowhere": lambda path: _link(path, "nowhere"),
    "a link to a file that is not ours": lambda path: _link(path, "/etc/passwd"),
    "a pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a terabyte of zeros": _sparse,
}

NAMES = [*CONTENTS, *NODES]


def make(name, path, marker):
    """Put the file there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if name in NODES:
        NODES[name](path)
    else:
        path.write_bytes(CONTENTS[name](marker))
