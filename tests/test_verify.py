"""Checking a receipt with the standard library alone."""

import contextlib
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from excise import params, store, verify
from tests.ledger import samples

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


def written(path, receipt):
    path.write_bytes(verify.canonical(receipt) + b"\n")
    return path


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2, dtype=torch.int64)}
    store.write_tensors(path, tensors, {"kind": "excise-model-1"})
    return path


@pytest.fixture
def run(tmp_path, weights):
    """A receipt with all that is beside it."""
    model = verify.model_digest(weights).removeprefix("sha256:")
    told = samples.numbers()
    told["unlearned"]["model_digest"] = model
    audit = tmp_path / "audit.json"
    audit.write_text(json.dumps(told))
    first = verify.sealed(samples.build(1, verify.GENESIS, verdict="FAIL"))
    changes = {"model_after": model, "model_file": store.file_digest(weights), "audit_file": store.file_digest(audit)}
    second = verify.sealed(samples.build(2, first["hash"], audit=told, **changes))
    log = tmp_path / "receipts.jsonl"
    log.write_bytes(samples.content_of([first, second]))
    return {
        "receipt": written(tmp_path / "receipt.json", second),
        "weights": weights,
        "audit": audit,
        "log": log,
        "head": {"seq": 2, "hash": second["hash"]},
    }


def reread(run):
    return json.loads(run["receipt"].read_bytes())


# The one form.


@pytest.mark.parametrize(
    "value", [None, True, 0, -1, 1.5, 1e300, "é\ud800\n", [], {}, {"b": [1, {"z": 2, "a": "x"}], "a": None}]
)
def test_the_canonical_form_is_read_back_and_does_not_depend_on_order(value):
    content = verify.canonical(value)
    assert json.loads(content) == value
    assert content.isascii()
    assert b" " not in content
    if isinstance(value, dict):
        assert verify.canonical(dict(reversed(value.items()))) == content


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, (1, 2), {"a": b"x"}, object()])
def test_what_json_does_not_give_back_is_no_record(value):
    with pytest.raises(verify.Unreadable, match="expected plain values for a record"):
        verify.canonical(value)


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', "NaN", '{"a":-Infinity}', "[" * 100_000, "{", "\xff", '{"a":[{"b":1,"b":2}]}']
)
def test_lenient_json_is_refused(text):
    with pytest.raises(verify.Unreadable, match="expected JSON in strict form"):
        verify.parsed(text.encode("latin-1"))
    assert verify.entry_faults(b'{"a":1e999}')[1]  # read as infinite, which the one form does not hold
    with pytest.raises(verify.Unreadable, match=r"expected at most 3 bytes of JSON and \d+ values, found 4 bytes"):
        verify.parsed(b"[  ]", 3)


def test_the_hash_is_that_of_all_else():
    one = samples.build(1, verify.GENESIS)
    sealed = verify.sealed(one)
    text = json.dumps(one, sort_keys=True, separators=(",", ":"))
    assert sealed["hash"] == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert verify.sealed(sealed) == sealed
    assert verify.receipt_faults(sealed) == []


# One receipt.


def paths_of(value, at=()):
    """Every field of a receipt, also those within, but not what method and drift hold of their own."""
    for name, held in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(name, str):
            yield (*at, name)
        if name not in ("params", "drift"):
            yield from paths_of(held, (*at, name))


def without(receipt, path):
    copy = json.loads(json.dumps(receipt))
    place = copy
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return copy


def test_taking_any_field_away_is_found_though_it_is_sealed_again():
    receipt = verify.sealed(samples.build(1, verify.GENESIS))
    required = [path for path in paths_of(receipt) if path != ("env", "isa")]
    assert len({tuple(name for name in path if isinstance(name, str)) for path in required}) >= 25
    assert len(receipt) >= 25
    for path in required:
        spoiled = without(receipt, path)
        found = verify.receipt_faults(spoiled if path == ("hash",) else verify.sealed(spoiled))
        name = ".".join(one for one in path if isinstance(one, str))
        assert found == [f"field '{name}' is missing"], path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"v": 2}, "version 2"),
        ({"v": True}, "'v' is not of its kind"),
        ({"seq": -1}, "'seq' is not of its kind"),
        ({"time": "2026-11-21"}, "'time' is not of its kind"),
        ({"model_after": "sha256:" + "A" * 64}, "'model_after' is not of its kind"),
        ({"claim": "deleted"}, "may claim only 'algorithmic'"),
        ({"requests": []}, "answers no request"),
        ({"requests": {}}, "'requests' is no list"),
        ({"audit": []}, "'audit' is no object"),
        ({"extra": 1}, "'extra' is not known"),
        ({"accept_drop": 0}, "'accept_drop' is not of its kind: flag"),
        ({"run": "1"}, "'run' is not of its kind: id"),
        (
            {"copies": {"purged": [], "kept": [{"id": "a backup", "until": "soon"}]}},
            "'copies.kept.until' is not of its kind",
        ),
        ({"model_file": None}, "'model_file' is not of its kind: hash"),
        ({"limits": ["short"]}, "leaves out the sentence: This says which procedure"),
        ({"oracle": "PROOF of deletion"}, "says 'proof', which nothing in it bears out"),
        ({"drift": {"note": "GDPR compliant"}}, "says 'compliant'"),
        (
            {"method": {"name": "certified", "params": {}, "code": "x", "model_code": None, "seed": 0}},
            "says 'certified'",
        ),
        ({"drift": {"note": "no\nguarantees"}}, "says 'guarantees'"),
        ({"drift": {"note": float("nan")}}, "other than plain values"),
    ],
)
def test_a_receipt_says_only_what_it_may(changes, said):
    receipt = {**verify.sealed(samples.build(1, verify.GENESIS)), **changes}
    with_hash = receipt if "note" in str(changes) and "nan" in str(changes) else verify.sealed(receipt)
    assert said in " ".join(verify.receipt_faults(with_hash))


def test_what_may_be_null_is_null_or_of_its_kind():
    receipt = samples.build(1, verify.GENESIS)
    receipt["copies"]["kept"] = [{"id": "a backup", "until": None}, {"id": "another", "until": "2026-10-01"}]
    receipt["method"]["model_code"] = None
    assert verify.receipt_faults(verify.sealed(receipt)) == []
    receipt["method"]["model_code"] = "0.1"
    assert verify.receipt_faults(verify.sealed(receipt)) == ["field 'method.model_code' is not of its kind: hash?"]


@pytest.mark.parametrize("value", [None, [], 3, "receipt"])
def test_what_is_no_object_is_no_receipt(value):
    assert verify.receipt_faults(value) == ["field '' is no object"]


def of_audit(**changes):
    receipt = samples.build(1, verify.GENESIS)
    receipt["audit"] |= changes
    return verify.sealed(receipt)


def metrics(**changes):
    found = samples.build(1, verify.GENESIS)["audit"]["metrics"]
    return [{**found[0], **changes}, *found[1:]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"controls": {"nothing": "PASS", "retrained": "PASS", "plan": "PASS"}}, "control 'nothing' came to 'PASS'"),
        ({"controls": {"nothing": "FAIL", "retrained": "FAIL", "plan": "PASS"}}, "control 'retrained' came to 'FAIL'"),
        ({"controls": {"nothing": "FAIL", "retrained": "PASS", "plan": "not run"}}, "control 'plan' came to 'not run'"),
        ({"num_models": 3}, "5 measures over 3 retrained networks: too few"),
        ({"metrics": []}, "0 measures over 8"),
        ({"metrics": metrics(p=0.01)}, "'forget_accuracy' tells it from"),
        ({"metrics": metrics(p=1.5)}, "'forget_accuracy' tells it from"),
        ({"metrics": metrics(name="canaries", p=0.001)}, "'canaries' tells it from"),
        ({"trace_seen": None}, "trace it notices is not known; it should be 0.5 or less"),
        ({"trace_seen": 0.6}, "notices is 0.6 of that in the original; it should be 0.5 or less"),
        ({"trace_seen": 2.9705761484431514}, "notices is 2.97 of that in the original; it should"),
        ({"trace_seen": 2.0, "effect": 3.0}, "it should be 3.0 or less"),
    ],
)
def test_a_pass_must_rest_on_its_numbers(changes, said):
    assert said in " ".join(verify.receipt_faults(of_audit(**changes)))
    for verdict in ("FAIL", "INCONCLUSIVE", "INVALID"):
        assert verify.receipt_faults(of_audit(**changes, verdict=verdict)) == []


@pytest.mark.parametrize("changes", [{"metrics": metrics(p=0.011)}, {"metrics": metrics(name="canaries", p=0.0011)}])
def test_a_pass_may_rest_on_numbers_above_the_level(changes):
    assert verify.receipt_faults(of_audit(**changes)) == []


# A log.


def test_a_log_of_receipts_has_no_faults_and_neither_has_an_empty_one():
    receipts = samples.chain(5)
    content = samples.content_of(receipts)
    assert verify.log_faults(content) == []
    assert verify.log_faults(b"") == []
    for receipt in receipts:
        assert verify.log_faults(content, {"seq": receipt["seq"], "hash": receipt["hash"]}) == []
    assert verify.log_faults(content, {"seq": 0, "hash": verify.GENESIS}) == []


def test_every_flipped_bit_of_a_log_is_found_and_its_entry_named():
    lines = samples.content_of(samples.chain(3, audit=samples.numbers(num_measures=5))).splitlines(keepends=True)
    for place in range(0, len(lines[1]), 7):
        spoiled = bytearray(lines[1])
        spoiled[place] ^= 1 << place % 8
        (found,) = verify.log_faults(lines[0] + bytes(spoiled) + lines[2])
        assert found.startswith("entry 2:"), place


def test_a_log_cut_off_is_found_by_a_head_and_by_nothing_else():
    receipts = samples.chain(4)
    head = {"seq": 4, "hash": receipts[3]["hash"]}
    assert verify.log_faults(samples.content_of(receipts[:2])) == []
    (found,) = verify.log_faults(samples.content_of(receipts[:2]), head)
    assert found == "entry 3: it is gone: the log was cut off before the head, entry 4"
    assert verify.log_faults(b"", head)[0].startswith("entry 1: it is gone")
    assert "cut off" in verify.UNSEEN["head"]


def test_a_pass_cannot_stand_where_a_fail_stood():
    failed = verify.sealed(samples.build(1, verify.GENESIS, verdict="FAIL"))
    after = verify.sealed(samples.build(2, failed["hash"]))
    head = {"seq": 2, "hash": after["hash"]}
    passed = verify.sealed(samples.build(1, verify.GENESIS, verdict="PASS"))
    (found,) = verify.log_faults(samples.content_of([passed, after]))
    assert found.startswith("entry 2: it is number 2 after")
    anew = verify.sealed(samples.build(2, passed["hash"]))
    assert verify.log_faults(samples.content_of([passed, anew])) == []  # what the owner can do, until a head is out
    (found,) = verify.log_faults(samples.content_of([passed, anew]), head)
    assert "the log was written anew" in found
    both = verify.sealed(samples.build(2, failed["hash"], verdict="PASS"))
    assert verify.log_faults(samples.content_of([failed, both])) == []  # a later PASS, beside the FAIL


def test_a_torn_last_line_is_a_fault():
    content = samples.content_of(samples.chain(2))
    for cut in (1, 50):
        (found,) = verify.log_faults(content[:-cut])
        assert found.startswith("entry 2: it has no end of line")


def test_an_entry_with_two_hashes_is_none():
    spoiled = samples.build(1, verify.GENESIS)
    spoiled["drift"] = {"hash": "x"}
    assert "no JSON object with one seq" in verify.entry_faults(verify.canonical(verify.sealed(spoiled)))[1][0]
    assert "no receipt in canonical form" in verify.log_faults(verify.canonical(verify.sealed(spoiled)) + b"\n")[0]


def test_a_hundred_thousand_entries_are_checked_in_five_seconds():
    count = 100_000 if samples.SOAK else 10_000
    lines, before = [], verify.GENESIS
    first = verify.canonical(verify.sealed(samples.build(1, before)))
    start, own, rest = first.partition(b'"hash":"' + json.loads(first)["hash"].encode() + b'",')
    assert own
    for seq in range(1, count + 1):
        body = [part.replace(b'"seq":1,', b'"seq":%d,' % seq) for part in (start, rest)]
        body = [part.replace(verify.GENESIS.encode(), before.encode()) for part in body]
        before = "sha256:" + hashlib.sha256(b"".join(body)).hexdigest()
        lines.append(b'%s"hash":"%s",%s\n' % (body[0], before.encode(), body[1]))
    content = b"".join(lines)
    began = time.process_time()
    assert verify.log_faults(content, {"seq": count, "hash": before}) == []
    assert time.process_time() - began <= 5 * count / 100_000
    spoiled = content[:-1000] + b"x" + content[-999:]
    assert verify.log_faults(spoiled)[0].startswith(f"entry {count}:")


@pytest.mark.parametrize("given", ["7:" + "a" * 64, "7:sha256:" + "a" * 64, {"seq": 7, "hash": "sha256:" + "a" * 64}])
def test_a_head_is_read_in_every_form(given, tmp_path):
    expected = {"seq": 7, "hash": "sha256:" + "a" * 64}
    assert verify.head_of(given) == expected
    (tmp_path / "head.json").write_text(json.dumps(expected))
    assert verify.head_of(str(tmp_path / "head.json")) == expected


@pytest.mark.parametrize("given", [{}, {"seq": -1, "hash": verify.GENESIS}, {"seq": 1, "hash": "abc"}, "1:abc", "1:"])
def test_what_is_no_head_is_refused(given):
    with pytest.raises(verify.Unreadable, match="expected a head as SEQ:HASH"):
        verify.head_of(given)


# Weights.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_digest_of_a_file_is_that_of_its_tensors(dtype, tmp_path):
    torch.manual_seed(0)
    numbers = (torch.rand(3, 4) * 3).to(dtype)
    tensors = {"b": numbers, "a.ä": numbers[0, 0].clone(), "none": numbers[:0].clone(), "c": torch.ones(2)}
    path = tmp_path / "w.safetensors"
    store.write_tensors(path, tensors, {"format": "pt"})
    assert verify.model_digest(path) == f"sha256:{params.digest(tensors)}"


def test_the_digest_of_a_network_is_the_same_in_memory_and_in_its_file(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    store.write_tensors(tmp_path / "w.safetensors", params.state_of(model))
    assert verify.model_digest(tmp_path / "w.safetensors") == f"sha256:{params.model_digest(model)}"


def test_a_file_larger_than_a_piece_is_read_whole(tmp_path):
    tensors = {"w": torch.arange(700_001)}
    store.write_tensors(tmp_path / "w.safetensors", tensors)
    assert verify.model_digest(tmp_path / "w.safetensors") == f"sha256:{params.digest(tensors)}"


def file_of(header, content=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def tensor(shape=(2,), offsets=(0, 8), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "header within 0 bytes"),
        (struct.pack("<Q", verify.MAX_HEADER_BYTES + 1) + b" " * 2**25, f"found one of {verify.MAX_HEADER_BYTES + 1}"),
        (file_of(b"[" + b"[]," * verify.MAX_VALUES), f"and {verify.MAX_VALUES} values, found"),
        (b"\1\0\0", "header within 3 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", f"found one of {2**63}"),
        (struct.pack("<Q", 100) + b"{}", "found one of 100"),
        (file_of([]), "expected an object"),
        (file_of(b"{"), "strict form"),
        (file_of(b'{"a":1,"a":1}'), "stands twice"),
        (file_of(b"\xff\xff"), "strict form"),
        (file_of(b"[" * 200_000), "strict form"),
        (file_of({"a": 3}), "is not told by"),
        (file_of({"a": tensor(dtype="F31")}), "is not told by"),
        (file_of({"a": tensor(more=1)}), "is not told by"),
        (file_of({"a": tensor(shape=(-2,))}), "is not told by"),
        (file_of({"a": tensor(shape=(True, 2))}), "is not told by"),
        (file_of({"a": tensor(shape=(2.0,))}), "is not told by"),
        (file_of({"a": tensor(offsets=(0, 8, 9))}), "is not told by"),
        (file_of({"a": tensor(shape=[1] * 65, offsets=(0, 4))}), "is not told by"),
        (file_of({"a": tensor(shape=(3,))}), "does not fill the bytes 0 to 8"),
        (file_of({"a": tensor(shape=(2**62, 4))}), "does not fill"),
        (file_of({"a": tensor(offsets=(8, 0))}), "does not fill"),
        (file_of({"a": tensor(offsets=(4, 12))}, b"\0" * 12), "begins at byte 4"),
        (file_of({"a": tensor(), "b": tensor()}), "begins at byte 0, and the one before it ends at 8"),
        (file_of({"a": tensor()}, b"\0" * 9), "end at byte 8, and the file has 9"),
        (file_of({"a": tensor()}, b"\0" * 7), "end at byte 8, and the file has 7"),
        (file_of({"a\0b": tensor()}), "no network has a tensor of the name"),
        (file_of({"\ud800": tensor()}), "no network has a tensor of the name"),
    ],
)
def test_a_hostile_weights_file_is_refused(content, said, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(verify.Unreadable, match=said):
        verify.model_digest(path)


# A record among those forgotten: the path in the naive form.


def test_a_path_leads_to_the_root_of_a_tree_of_three():
    def sha(content):
        return hashlib.sha256(content).digest()

    a, b, c = (sha(b"\0" + leaf) for leaf in (b"a", b"b", b"c"))
    root = sha(b"\1" + sha(b"\1" + a + b) + c)
    assert verify.root_from(b"b", [("left", a), ("right", c)]) == f"sha256:{root.hex()}"
    assert verify.root_from(b"c", [("left", sha(b"\1" + a + b))]) == f"sha256:{root.hex()}"
    assert verify.root_from(b"a", [("left", b), ("right", c)]) != f"sha256:{root.hex()}"


# Whatever comes: an answer, and no exception.

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda held: (
        st.lists(held, max_size=4) | st.dictionaries(st.text(max_size=5) | st.sampled_from([*verify.FIELDS]), held)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(value=plain, content=st.binary(max_size=60), name=st.sampled_from(sorted(verify.FIELDS)))
def test_nothing_that_is_read_raises(value, content, name):
    assert verify.receipt_faults(value)
    receipt = {**samples.build(1, verify.GENESIS), "hash": verify.GENESIS, name: value}
    assert verify.receipt_faults(receipt)
    assert verify.entry_faults(json.dumps(value).encode())[1]
    assert verify.entry_faults(content)[1]
    assert bool(verify.log_faults(content)) == bool(content)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=plain, told=plain, content=st.binary(max_size=20))
def test_a_weights_file_is_read_or_unreadable(value, told, content, tmp_path):
    path = tmp_path / "w.safetensors"
    for whole in (
        content,
        file_of(value, content),
        file_of({"a": told}, content),
        file_of({"a": tensor(shape=[told])}),
    ):
        path.write_bytes(whole)
        with contextlib.suppress(verify.Unreadable):
            assert verify.model_digest(path).startswith("sha256:")


# What a terminal would obey, and what does not end.

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\r"


def quiet(found):
    """Say that every sentence is plain text, and that there is one."""
    return bool(found) and all(one.isascii() and one.isprintable() for one in found)


def test_nothing_that_a_receipt_says_reaches_the_terminal_as_it_is(run, tmp_path, capsys):
    receipt = reread(run)
    told = receipt["audit"]
    one = {**told["metrics"][0], "name": HOSTILE, "p": 0.0}
    for changed in (
        {**receipt, HOSTILE: 1},
        {**receipt, "claim": HOSTILE},
        {**receipt, "drift": {HOSTILE: HOSTILE + "certified" + HOSTILE}},
        {**receipt, "audit": {**told, HOSTILE: 1}},
        {**receipt, "audit": {**told, "controls": {**told["controls"], "nothing": HOSTILE}}},
        {**receipt, "audit": {**told, "metrics": [one, *told["metrics"][1:]]}},
        {**receipt, "seq": HOSTILE},
    ):
        written(run["receipt"], verify.sealed(changed))
        assert quiet(verify.faults(run["receipt"]))
        assert verify.main([str(run["receipt"])]) in (3, 6)
        assert all(line.isascii() and line.isprintable() for line in capsys.readouterr().out.split("\n"))
    written(run["receipt"], receipt)
    for content in (
        f'{{"{HOSTILE}":NaN}}',
        json.dumps({"plan_digest": HOSTILE, "unlearned": {"model_digest": HOSTILE}}),
    ):
        (tmp_path / HOSTILE.replace("\r", "")).write_text(content)
        for beside in ("audit", "record", "weights"):
            assert quiet(verify.faults(run["receipt"], **{beside: tmp_path / HOSTILE.replace("\r", "")}))
    audit = {**samples.numbers(), "unlearned": {"model_digest": HOSTILE}}
    run["audit"].write_text(json.dumps(audit))
    assert quiet(verify.faults(run["receipt"], audit=run["audit"]))
    run["weights"].write_bytes(file_of({HOSTILE: tensor()}))
    assert quiet(verify.faults(run["receipt"], weights=run["weights"]))
    line = run["receipt"].read_bytes()
    for old, new in ((b'"hash":"', b'"hash":"\x1b]0;x\x07'), (b'"prev":"', b'"prev":"\x1b]0;x\x07')):
        assert quiet(verify.log_faults(line.replace(old, new)))
    unsealed = line.replace(b'"prev":"', b'"prev":"\x1b]0;x\x07').rstrip(b"\n")
    found = verify._link(unsealed)[3]
    unsealed = unsealed.replace(json.loads(line)["hash"].encode(), found.encode())
    assert quiet(verify.log_faults(unsealed + b"\n")) and "it is number" in verify.log_faults(unsealed + b"\n")[0]


def test_what_does_not_end_is_not_read_to_its_end(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in ("/dev/zero", tmp_path / "pipe", tmp_path):
        with pytest.raises(verify.Unreadable, match=r"expected a file at .*, found a directory, a pipe or a device"):
            verify.faults(place)
        with pytest.raises(verify.Unreadable, match="found a directory, a pipe or a device"):
            verify.faults(run["receipt"], log=place)
        with pytest.raises(verify.Unreadable, match="found a directory, a pipe or a device"):
            verify.faults(run["receipt"], head=str(place))
        for beside in ("weights", "audit", "record"):
            (found,) = verify.faults(run["receipt"], **{beside: place})
            assert "found a directory, a pipe or a device" in found


@pytest.mark.parametrize(
    ("beside", "most"),
    [("receipt", verify.MAX_RECEIPT_BYTES + 1), ("log", verify.MAX_LOG_BYTES), ("head", verify.MAX_RECEIPT_BYTES)],
)
def test_a_file_larger_than_any_of_its_kind_is_refused(run, tmp_path, monkeypatch, beside, most):
    if beside == "log":  # a gigabyte takes a second to read
        monkeypatch.setattr(verify, "MAX_LOG_BYTES", most := 1 << 22)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(most + 1)
    given = {"receipt": run["receipt"], beside: str(tmp_path / "large")}
    with pytest.raises(verify.Unreadable, match=f"expected at most {most} bytes in '.*large', found more"):
        verify.faults(**given)


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_takes_too_much_to_read_is_a_fault_and_no_traceback(run, monkeypatch, error):
    def spent(*_, **__):
        raise error

    content = run["receipt"].read_bytes()
    monkeypatch.setattr(verify.json, "loads", spent)
    with pytest.raises(verify.Unreadable, match="expected JSON in strict form"):
        verify.parsed(content)
    assert "it is no JSON object" in verify.entry_faults(content[:-1])[1][0]


# All together.


def test_what_belongs_together_is_valid(run):
    assert verify.faults(**run) == []
    assert verify.faults(run["receipt"]) == []


def test_every_flipped_bit_of_a_receipt_file_is_found(run):
    whole = run["receipt"].read_bytes()
    for place in range(0, len(whole), 11):
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << place % 8
        run["receipt"].write_bytes(spoiled)
        assert verify.faults(run["receipt"]), place
    run["receipt"].write_bytes(whole[:-1])
    assert "no end of line" in verify.faults(run["receipt"])[0]
    run["receipt"].write_text(json.dumps(json.loads(whole), indent=1))
    assert "not in canonical form" in verify.faults(run["receipt"])[0]
    run["receipt"].write_bytes(b"[" * 2**20)
    assert "no JSON object" in verify.faults(run["receipt"])[0]


def test_other_weights_are_found(run, weights):
    whole = weights.read_bytes()
    one = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2, dtype=torch.int64)}
    for changed in (
        {**one, "b": torch.tensor(3)},
        {**one, "a.weight": one["a.weight"].reshape(3, 2)},
        {"a.weight": one["b"]},
    ):
        store.write_tensors(weights, changed, {"kind": "excise-model-1"})
        (found,) = verify.faults(**run)
        assert "another model, or changed" in found
    store.write_tensors(weights, one, {"kind": "excise-model-2"})
    (found,) = verify.faults(**run)
    assert "the tensors are right, but the file is" in found
    weights.write_bytes(whole[:-1])
    assert "is not of the form it should have" in verify.faults(**run)[0]
    weights.write_bytes(whole)
    assert verify.faults(**run) == []


def test_another_runs_audit_is_found(run):
    told = json.loads(run["audit"].read_text())
    for changed, said in (
        ({**told, "unlearned": {"model_digest": samples.hexadecimal("x")}}, "it is of another model"),
        ({**told, "plan_digest": samples.hexadecimal("x")}, "its plan_hash is not the receipt's"),
        ({**told, "verdict": "FAIL"}, "its verdict is not the receipt's"),
        ({**told, "measures": told["measures"][1:]}, "its metrics is not the receipt's"),
        ({**told, "more": 1}, "its file is not the recorded one"),
        ([], "is not of the form it should have"),
        ({"verdict": "PASS"}, "is not of the form it should have"),
    ):
        run["audit"].write_text(json.dumps(changed))
        assert said in " ".join(verify.faults(**run)), said


def test_another_runs_audit_is_found_though_the_receipt_is_sealed_for_it(run):
    told = samples.numbers(model="another")
    run["audit"].write_text(json.dumps(told))
    receipt = reread(run)
    receipt["audit"]["file"] = f"sha256:{store.file_digest(run['audit'])}"
    written(run["receipt"], verify.sealed(receipt))
    (found,) = verify.faults(run["receipt"], audit=run["audit"])
    assert "audit: it is of another model" in found


def test_a_receipt_that_is_not_in_the_log_is_found(run):
    receipt = reread(run)
    other = verify.sealed({**receipt, "sequence": 9})
    written(run["receipt"], other)
    assert verify.faults(run["receipt"], log=run["log"]) == ["log: this receipt is not in it"]
    (found,) = verify.faults(run["receipt"], head=run["head"])
    assert found == "head: it is entry 2 and not this receipt; give the log as well"
    written(run["receipt"], receipt)
    assert verify.faults(run["receipt"], head=run["head"]) == []


def test_a_record_among_those_forgotten_is_shown_by_its_path(run, tmp_path):
    leaf = b"x" * 32
    receipt = reread(run)
    receipt["requests"][0]["forget_commit"] = verify.root_from(leaf, [("left", b"y" * 32)])
    written(run["receipt"], verify.sealed(receipt))
    told = {"leaf": leaf.hex(), "path": [["left", (b"y" * 32).hex()]]}
    path = tmp_path / "record.json"
    for changed, said in (
        (told, None),
        ({**told, "leaf": (b"z" * 32).hex()}, "which is no root of the receipt"),
        ({**told, "path": [["right", (b"y" * 32).hex()]]}, "which is no root of the receipt"),
        ({**told, "leaf": "xy"}, "is not of the form it should have"),
        ([], "is not of the form it should have"),
    ):
        path.write_text(json.dumps(changed))
        found = verify.faults(run["receipt"], record=path)
        assert found == [] if said is None else said in found[0]


# The file by itself.


@pytest.fixture
def alone(tmp_path):
    """The one file elsewhere, beside a torch that must not be imported."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    shutil.copy(Path(verify.__file__), place / "verify.py")
    for name in ("torch", "excise", "numpy", "safetensors"):
        (place / f"{name}.py").write_text("raise SystemExit('imported')")

    def called(*words):
        command = [sys.executable, "-I", str(place / "verify.py"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=place)

    return called


def test_the_one_file_works_by_itself(alone, run, tmp_path):
    head = tmp_path / "head.json"
    head.write_text(json.dumps(run["head"]))
    beside = [word for name in ("weights", "audit", "log") for word in (f"--{name}", run[name])]
    done = alone(run["receipt"], *beside, "--head", head, "--json")
    receipt = reread(run)
    says = f"PASS; requests: 1; rows: 3; network: {receipt['model_after']}; {receipt['time']}; claim: algorithmic"
    told = {"valid": True, "says": says, "reasons": [], "notes": []}
    assert (done.returncode, json.loads(done.stdout)) == (0, told)
    done = alone(run["receipt"])
    unseen = [f"  no --{name}: {verify.UNSEEN[name]}\n" for name in ("weights", "audit", "log", "head")]
    assert (done.returncode, done.stdout) == (0, f"{says}\n  valid\n{''.join(unseen)}")
    run["weights"].write_bytes(b"")
    done = alone(run["receipt"], *beside, "--head", f"2:{run['head']['hash']}", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["valid"], len(told["reasons"])) == (6, False, 1)
    assert done.stderr == ""


def test_a_failed_audit_is_said_before_the_receipt_is_called_valid(run, capsys):
    receipt = samples.build(1, verify.GENESIS, verdict="FAIL")
    more = {**receipt["requests"][0], "id": 32 * "a", "num_rows": 39}
    written(run["receipt"], verify.sealed({**receipt, "requests": [receipt["requests"][0], more]}))
    assert verify.main([str(run["receipt"])]) == 0
    said = capsys.readouterr().out.split("\n")
    assert said[0].startswith("FAIL; requests: 2; rows: 42; network: sha256:") and said[1] == "  valid"
    changed = {**receipt, "audit": {**receipt["audit"], "verdict": "PASS"}, "hash": receipt["prev"]}
    written(run["receipt"], changed)
    assert verify.outlook(run["receipt"], dict.fromkeys(verify.UNSEEN, "given")) == ("", [])
    assert verify.main([str(run["receipt"])]) == 6
    assert "PASS;" not in capsys.readouterr().out


def test_settings_may_name_modules_as_they_are_and_our_own_texts_may_not_promise():
    receipt = samples.build(1, verify.GENESIS)
    receipt["method"]["params"] = {"frozen": ["proof_head.weight", "certified"]}
    receipt["audit"]["reasons"] = ["the statistics of proof_head.bn and of net.certifier are the original's"]
    assert verify.receipt_faults(verify.sealed(receipt)) == []
    receipt["audit"]["reasons"] = ["a proof."]
    assert verify.receipt_faults(verify.sealed(receipt)) == ["it says 'proof', which nothing in it bears out"]


def test_main_gives_the_kind_of_fault_as_its_code(run, capsys):
    written(run["receipt"], verify.sealed({**reread(run), "claim": "gone"}))
    assert verify.main([str(run["receipt"])]) == 3
    assert capsys.readouterr().out.startswith("not valid\n  receipt: it claims 'gone'")
    run["receipt"].write_bytes(b"{}\n")
    assert verify.main([str(run["receipt"])]) == 6
    for words in (["nowhere.json"], [str(run["receipt"]), "--head", str(run["receipt"])]):
        with pytest.raises(SystemExit, match="2"):
            verify.main(words)


def test_no_word_is_said_that_nothing_bears_out():
    said = " ".join([*verify.LIMITS, *verify.UNSEEN.values(), verify.CLAIM]).lower()
    assert not [word for word in ("proof", "certif", "guarante", "complian") if word in said]
