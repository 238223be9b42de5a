import io
import pickletools
import zipfile

import pytest
import torch
from torch import nn

from excise import params
from excise.store import archives
from excise.store.archives import NoStateDictError, UnreadableError, read_archive, read_parts
from tests.cases import CASES
from tests.hostile import corpus
from tests.hostile.corpus import archive, pickled, tensor

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]


def read(content, tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    return read_archive(path)


def both(state, tmp_path):
    """Give what we read and what torch does, the slow twin that runs the pickle."""
    torch.save(state, tmp_path / "w.pt")
    return read_archive(tmp_path / "w.pt"), torch.load(tmp_path / "w.pt", weights_only=True)


def same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
        assert params.digest({"a": ours[name]}) == params.digest({"a": value.detach()}), name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_state_dict_is_what_torch_reads(tmp_path, case):
    same(*both(case.make().state_dict(), tmp_path))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_number_is_what_torch_reads(tmp_path, dtype):
    values = torch.randint(0, 2, (3, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    same(*both({"a": values, "none": values[:0], "one": values[0, 0]}, tmp_path))


def test_every_layout_is_what_torch_reads(tmp_path):
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    state = {
        "transposed": base.T,
        "cut": base[1:3, ::2],
        "row": base[2],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.arange(5).expand(1, -1),
        "repeated": torch.tensor([1.5]).expand(3, 4),
        "parameter": nn.Parameter(base),
        "with gradient": base.clone().requires_grad_(),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    same(*both(state, tmp_path))


def test_what_shared_memory_shares_it_again(tmp_path):
    base = torch.arange(12.0)
    ours, theirs = both({"a": base, "b": base, "c": base[3:7], "d": base.clone()}, tmp_path)
    for state in (ours, theirs):
        state["a"][3] = -1
        assert (float(state["b"][3]), float(state["c"][0]), float(state["d"][3])) == (-1, -1, 3)


def test_the_archives_of_the_corpus_are_like_those_of_torch(tmp_path):
    """So that the hostile ones are refused for what is hostile in them."""
    content = archive({"a": tensor((2, 2), (2, 1))}, storages={"0": torch.arange(4.0).numpy().tobytes()})
    same(read(content, tmp_path), torch.load(io.BytesIO(content), weights_only=True))


REFUSED = {
    "a pickle of protocol 2": "no archive of torch 1.6 or later",
    "a state dict with a call": r"it asks for '\w+\.mkfifo', which no state dict needs",
    "a state dict with a call, old form": "no archive of torch 1.6 or later",
    "a call by STACK_GLOBAL": "it asks for PROTO",
    "a call by INST in an archive": "it asks for",
    "a call by an extension code": "it asks for EXT1",
    "a call of eval": r"it asks for '\w+\.eval'",
    "a storage's own call": "a list of tensors that torch.save does not write",
    "a state set on a tensor": "a list of tensors that torch.save does not write",
    "an item set on a tensor": "a list of tensors that torch.save does not write",
    "a tensor larger than its bytes": "a tensor of 4294967296 bytes, of which 16 are there",
    "a tensor past its bytes": "a tensor that reaches to byte 416, of which 16 are there",
    "a tensor with a step back": "a list of tensors that torch.save does not write",
    "a tensor that repeats one number": "its tensors would take 4398046511104 bytes, many times the file",
    "many tensors of the same bytes": "its tensors would take 838860800 bytes, many times the file",
    "the same key twice": "two values for 'a'",
    "a pickle without an end": "a list of tensors that torch.save does not write",
    "a TorchScript archive": r"an entry 'w/constants\.pkl', which no state dict has",
    "two pickles of one name": r"two entries 'w/data\.pkl'",
    "an archive in an archive": r"an entry 'w/inner\.zip'",
    "an archive behind a script": "no archive of torch 1.6 or later",
    "a zip bomb": r"an entry 'w/data\.pkl' that is packed",
    "a zip bomb of overlapping entries": "two entries|larger than the file|Overlapped",
    "a list of 200,000 entries": "a list of entries of 10800000 bytes, at most 8388608",
    "a zip that climbs out": r"an entry '\.\./\.\./marker'",
    "half an archive": "no archive of torch 1.6 or later",
    "a changed byte in an archive": "no whole archive: Bad CRC-32",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_state_dict_needs_is_refused_by_its_name(tmp_path, name):
    corpus.make(name, tmp_path / "w.pt", tmp_path / "marker")
    with pytest.raises(UnreadableError, match=REFUSED[name]):
        read_archive(tmp_path / "w.pt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive({"a": tensor()}, folder="a/b"), "which no state dict has"),
        (archive({"a": tensor()}, entries=[("v/data/1", b"")]), "no archive of torch 1.6 or later"),
        (archive({"a": tensor()}, storages={}), "a list of tensors that torch.save does not write"),
        (archive({"a": tensor()}).replace(b"little", b"bigger"), "Bad CRC-32"),
        (archive(pickled({"a": tensor()}) + b"N" * (8 << 20)), "a list of tensors of 8388"),
        (corpus.torch_saved({"a": torch.ones(2, dtype=torch.complex64).conj()}), "hooks, or conjugated|asks for"),
    ],
    ids=range(6),
)
def test_other_archives_are_refused(tmp_path, content, message):
    with pytest.raises(UnreadableError, match=message):
        read(content, tmp_path)


def test_the_steps_of_a_pickle_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_OPCODES", 40)
    assert read(archive({"a": tensor()}), tmp_path)["a"].tolist() == [0, 0, 0, 0]
    with pytest.raises(UnreadableError, match="more than 40 steps to list its tensors"):
        read(archive({"a": tensor(), "b": tensor()}), tmp_path)


def test_numbers_of_another_order_are_refused(tmp_path):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("w/data.pkl", pickled({"a": tensor()}))
        file.writestr("w/byteorder", "big")
        file.writestr("w/data/0", bytes(16))
    with pytest.raises(UnreadableError, match="not in little-endian order"):
        read(made.getvalue(), tmp_path)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.zeros(2), "Tensor"), ({0: torch.zeros(2)}, "dict"), ({"a": {}}, "dict"), ([1, 2.5], "list")],
)
def test_what_is_no_state_dict_is_told_by_its_kind(tmp_path, value, kind):
    with pytest.raises(NoStateDictError, match=rf"^{kind}$"):
        both(value, tmp_path)


def walked(value, way=()):
    """The slow twin: what torch reads, by recursion."""
    if isinstance(value, torch.Tensor):
        yield ".".join(way) or "tensor", value
    elif isinstance(value, dict | list | tuple):
        if value and not isinstance(value, dict) and all(isinstance(one, int | float) for one in value):
            yield ".".join(way) or "list", torch.tensor(value)
            return
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walked(one, (*way, str(key)))


def checkpoint():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    told = {"epoch": 3, "best": 0.5, "name": "a", "seed": None, "ids": [3, 1, 2], "losses": (0.5, 1.0), "on": True}
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **told}


@pytest.mark.parametrize("value", [checkpoint(), torch.ones(3), [torch.ones(1), {"a": [torch.zeros(2)]}], {}, [4, 5]])
def test_the_parts_of_a_nest_are_what_torch_reads(tmp_path, value):
    torch.save(value, tmp_path / "w.pt")
    theirs = dict(walked(torch.load(tmp_path / "w.pt", weights_only=True)))
    ours = read_parts(tmp_path / "w.pt", 2**20)
    same({name: ours[name] for name in theirs}, theirs)
    assert ours.keys() == theirs.keys()


def test_parts_that_need_code_or_take_too_much_are_refused(tmp_path):
    for value, words in (
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"w": torch.ones(100)}, "its tensors would take 400 bytes, at most 399"),
        ({"w": [2**70, 1]}, "a list of numbers that no tensor holds"),
    ):
        torch.save(value, tmp_path / "w.pt")
        with pytest.raises(UnreadableError, match=words):
            read_parts(tmp_path / "w.pt", 399)
    torch.save({"w": torch.ones(100)}, tmp_path / "w.pt")
    assert read_parts(tmp_path / "w.pt", 400).keys() == {"w"}


def test_every_changed_bit_is_found_or_changes_nothing(tmp_path):
    """An archive has bytes that say nothing (padding, times); all others are under a checksum or a rule."""
    whole = corpus.torch_saved({"a": torch.arange(40.0), "b": torch.ones(3, dtype=torch.int64)})
    before = params.digest(read(whole, tmp_path))
    places = range(0, 8 * len(whole), 37)
    refused = 0
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        try:
            found = read(bytes(changed), tmp_path)
        except UnreadableError:
            refused += 1
        else:
            assert params.digest(found) == before, place
    assert refused > len(places) / 3


def test_every_cut_is_found(tmp_path):
    whole = corpus.torch_saved({"a": torch.arange(40.0)})
    for size in range(0, len(whole), 7):
        with pytest.raises(UnreadableError):
            read(whole[:size], tmp_path)


def test_the_largest_networks_are_far_below_the_limits():
    state = {f"layers.{index}.attention.weight": torch.zeros(1) for index in range(100)}
    with zipfile.ZipFile(io.BytesIO(corpus.torch_saved(state))) as file:
        content = file.read("archive/data.pkl")
        listed = file.fp.seek(0, 2) - file.start_dir
    steps = sum(1 for _ in pickletools.genops(content)) / 100
    assert archives.MAX_OPCODES / steps > 20_000
    assert archives.MAX_PICKLE_BYTES / (len(content) / 100) > 20_000
    assert archives.MAX_ENTRIES_BYTES / (listed / 100) > 20_000
