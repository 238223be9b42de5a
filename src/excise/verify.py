"""Check a receipt with this one file and Python's standard library.

    python verify.py receipt.json --weights model.safetensors --log receipts.jsonl --head head.json --audit audit.json

A receipt is one JSON object in one form only (`canonical`), with its own SHA-256 and that of the one before: a log is a chain.
That its end was cut off, or that its owner wrote it anew, is shown by a head (`{"seq", "hash"}`) that was exported before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

Place = str | os.PathLike[str]
At = Place | None
Head = str | Mapping[str, Any] | None

GENESIS = "sha256:" + 64 * "0"  # what stands for the receipt before the first
CLAIM = "algorithmic"  # all that a receipt claims: that a procedure ran on the weights, and what was measured then
LIMITS = (  # what every receipt says about itself
    "This says which procedure ran on which weights and what was measured afterwards; it does not show that nothing of the "
    "rows is left.",
    "It is evidence about the measures and attacks listed here and about no others.",
    "It speaks of the one set of weights that it names; of copies it says only what it lists.",
    "Whoever holds the log and its keys can write another history; only a head of the log that was given away before shows it.",
)
UNSEEN = {"weights": "the weights were not looked at", "audit": "the audit's own file was not looked at"}
UNSEEN |= {"log": "a receipt written anew would not be noticed", "head": "a log written anew or cut off would not be"}
REASONS, VERDICTS = "erasure|mislabel|poison", "PASS|FAIL|INCONCLUSIVE|INVALID"
MAX_RECEIPT_BYTES, MAX_HEADER_BYTES, MAX_AUDIT_BYTES, MAX_LOG_BYTES = 1 << 20, 16 << 20, 32 << 20, 1 << 30
MAX_VALUES = 1_500_000  # one takes 2 bytes of JSON and up to 200 in memory
_CONTROLS = {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
_ALPHA, _FEWEST_MODELS, _LEVEL_APART = 0.05, 4, {"canaries": 1e-3}  # the last has an exact null of its own
_WORDS = re.compile(r"(?<![_.])(?:proof|certif|complian|guarante)[a-z]*(?![a-z_]|\.[a-z0-9])")
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)

_DAY = "[0-9]{4}(-[0-9]{2}){2}"
_FORMS = {"text": "(?s).{1,4096}", "hash": "sha256:[0-9a-f]{64}", "id": "[0-9a-f]{32}", "date": _DAY}
_FORMS |= {"time": _DAY + "T[0-9]{2}(:[0-9]{2}){2}Z", "reason": REASONS, "verdict": VERDICTS}
_NAMES = """BOOL=bool U8=uint8 I8=int8 F8_E4M3=float8_e4m3fn F8_E5M2=float8_e5m2 I16=int16 U16=uint16 F16=float16
    BF16=bfloat16 I32=int32 U32=uint32 F32=float32 I64=int64 U64=uint64 F64=float64 C64=complex64"""
_DTYPES = dict(re.findall(r"(\w+)=(\w+)", _NAMES))
_Tensor = tuple[int, int, str, tuple[int, ...]]
_TYPES = {"flag": (bool,), "number": (int, float), "object": (dict,)}
_ENDS = ("value", "low", "high", "null_mean", "null_low", "null_high", "least_detectable")
_METRIC = {"name": "text", "decides": "flag", "num_models": "count", "p": "number"} | dict.fromkeys(_ENDS, "number?")
_AUDIT: dict[str, Any] = {"tier": "text", "num_models": "count", "effect": "number", "trace_seen": "number?"}
_AUDIT |= {"plan_hash": "hash", "file": "hash", "metrics": [_METRIC], "reasons": ["text"], "verdict": "verdict"}
_AUDIT["controls"] = dict.fromkeys(_CONTROLS, "text")
_REQUEST = {"id": "id", "reason": "reason", "forget_commit": "hash", "num_rows": "count", "commit_key_id": "text"}
_METHOD = {"name": "text", "params": "object", "code": "text", "model_code": "hash?", "seed": "number"}
_ENV = {"excise": "text", "torch": "text", "python": "text", "machine": "text", "threads": "count", "*": "any"}
_COPIES = {"purged": ["hash"], "kept": [{"id": "text", "until": "date?"}]}
_HASHES = ("prev", "model_before", "model_after", "model_file", "data_manifest", "retain_root", "hash")
_COUNTS = ("v", "seq", "data_rows", "retain_rows", "sequence")
_OWN = {"time": "time", "claim": "text", "oracle": "text", "limits": ["text"], "run": "id", "accept_drop": "flag"}
_OWN["retraining_share"] = "number?"
_PARTS = {"requests": [_REQUEST], "method": _METHOD, "env": _ENV, "audit": _AUDIT, "drift": "object", "copies": _COPIES}
FIELDS: dict[str, Any] = dict.fromkeys(_HASHES, "hash") | dict.fromkeys(_COUNTS, "count") | _OWN | _PARTS
"""Every field of a receipt and the kind of its value (`?`: or null). All are needed; there are others only where `*` is."""


class Mismatch(str):
    """A fault of this kind: a file is not what its record says."""


class Unreadable(ValueError):
    """Bytes or values that are not in the form they should have."""


def canonical(value: object) -> bytes:
    """Give JSON in the one form that is hashed: ASCII, keys sorted, no spaces; `Unreadable` what JSON does not give back."""
    try:
        text = _ENCODER.encode(value)
        if json.loads(text) != value:
            raise TypeError
    except (TypeError, ValueError, RecursionError) as error:
        raise Unreadable("expected plain values for a record: finite numbers, lists, texts as keys") from error
    return text.encode()


def parsed(content: bytes, limit: int = MAX_RECEIPT_BYTES) -> Any:
    """Read JSON; `Unreadable` if too long, a key stands twice, it holds NaN, or there are other faults."""
    if len(content) > limit or sum(content.count(one) for one in (b"{", b"[", b",")) > MAX_VALUES:
        raise Unreadable(f"expected at most {limit} bytes of JSON and {MAX_VALUES} values, found {len(content)} bytes")
    try:
        return json.loads(content.decode(), object_pairs_hook=_once, parse_constant=int)  # int takes no NaN
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"expected JSON in strict form: {error}") from error


def _opened(place: Place) -> BinaryIO:
    if not stat.S_ISREG(Path(place).stat().st_mode):
        raise Unreadable(f"expected a file at {os.fspath(place)!a}, found a directory, a pipe or a device")
    return Path(place).open("rb")


def _content(place: Place, limit: int = MAX_RECEIPT_BYTES) -> bytes:
    with _opened(place) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Unreadable(f"expected at most {limit} bytes in {os.fspath(place)!a}, found more")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def digest_of(content: bytes) -> str:
    """Give the SHA-256 of bytes as it stands in receipts."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def sealed(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Give a receipt with its `hash`: the SHA-256 over the canonical bytes of all else."""
    rest = {name: value for name, value in receipt.items() if name != "hash"}
    return {**rest, "hash": digest_of(canonical(rest))}


def receipt_faults(receipt: Any) -> list[str]:
    """Say in sentences what is wrong with one receipt by itself: its fields, hash, words and verdict."""
    if found := _field_faults(receipt, FIELDS, ""):
        return found
    try:
        body = _ENCODER.encode({name: value for name, value in receipt.items() if name != "hash"}).encode()
    except (TypeError, ValueError, RecursionError):
        return ["it holds other than plain values"]
    if receipt["hash"] != digest_of(body):
        found.append(Mismatch(f"it was changed: its hash is {receipt['hash']}, that of its content {digest_of(body)}"))
    found += [] if receipt["v"] == 1 else [f"it is of version {receipt['v']}, and this file knows version 1"]
    found += [] if receipt["claim"] == CLAIM else [f"it claims {receipt['claim']!a}, and may claim only {CLAIM!r}"]
    found += [] if receipt["requests"] else ["it answers no request"]
    found += [f"it leaves out the sentence: {one}" for one in LIMITS if one not in receipt["limits"]]
    method = {**receipt["method"], "params": None}  # settings name modules of the user's
    ours = _ENCODER.encode({**receipt, "method": method}).lower()
    found += [f"it says {one!r}, which nothing in it bears out" for one in _WORDS.findall(ours)]
    return found + (_against_pass(receipt["audit"]) if receipt["audit"]["verdict"] == "PASS" else [])


def _field_faults(value: Any, kind: Any, where: str) -> list[str]:
    if type(kind) is str:
        return [] if _is(value, kind) else [f"field '{where}' is not of its kind: {kind}"]
    if type(kind) is list and type(value) is list:
        return [fault for held in value for fault in _field_faults(held, kind[0], where)]
    if not isinstance(kind, dict) or not isinstance(value, dict):
        return [f"field '{where}' is no {'list' if type(kind) is list else 'object'}"]
    at, found = f"{where}." if where else "", []
    for name, inner in kind.items():
        if name in value:
            found += _field_faults(value[name], inner, at + name)
        elif name != "*":
            found.append(f"field '{at}{name}' is missing")
    return found + [f"field {at + name!a} is not known" for name in value if name not in kind and "*" not in kind]


def _is(value: Any, kind: str) -> bool:
    if kind in _FORMS:
        return type(value) is str and re.fullmatch(_FORMS[kind], value) is not None
    if kind.endswith("?"):
        return value is None or _is(value, kind[:-1])
    return kind == "any" or (type(value) is int and value >= 0 if kind == "count" else type(value) in _TYPES[kind])


def _against_pass(audit: dict[str, Any]) -> list[str]:
    """Say what forbids a PASS: it needs controls that behaved, and numbers that tell the network from no other."""
    came, deciding = audit["controls"], [one for one in audit["metrics"] if one["decides"]]
    found = [f"PASS, but control {name!r} came to {came[name]!a}" for name in came if came[name] != _CONTROLS[name]]
    shared = sum(one["name"] not in _LEVEL_APART for one in deciding)
    if not shared or audit["num_models"] < _FEWEST_MODELS:
        found.append(f"PASS, but by {shared} measures over {audit['num_models']} retrained networks: too few")
    found += [
        f"PASS, but {one['name']!a} tells it from networks that never saw the rows (p = {one['p']})"
        for one in deciding
        if not _LEVEL_APART.get(one["name"], _ALPHA / max(shared, 1)) < one["p"] <= 1
    ]
    seen, effect = audit["trace_seen"], audit["effect"]
    if seen is None or not 0 <= seen <= effect <= 1:
        least = "not known" if seen is None else f"{round(seen, 2)} of that in the original"
        found.append(f"PASS, but the least trace it notices is {least}; it should be {round(effect, 2)} or less")
    return found


def entry_faults(content: bytes) -> tuple[Any, list[str]]:
    """Give what stands in the bytes of one receipt, without their end of line, and what is wrong with it."""
    try:
        receipt = json.loads(content) if len(content) <= MAX_RECEIPT_BYTES else None
        if _ENCODER.encode(receipt).encode() != content:  # whatever was read leniently has other canonical bytes
            return None, [Mismatch("its bytes are not in canonical form: changed, or saved by another program")]
        _link(content)
    except (ValueError, RecursionError, MemoryError):
        return None, [Mismatch("it is no JSON object with one seq, one prev and one hash")]
    return receipt, receipt_faults(receipt)


def log_faults(content: bytes, head: Mapping[str, Any] | None = None) -> list[str]:
    """Say what is wrong with a log: its first bad entry, counted from 1. With a head more is seen; it may have grown since."""
    *lines, rest = content.split(b"\n")
    hashes = [GENESIS]
    for seq, line in enumerate(lines, 1):
        try:
            number, before, told, found = _link(line)
        except ValueError:
            return [Mismatch(f"entry {seq}: it is no receipt in canonical form")]
        if told != found:
            return [Mismatch(f"entry {seq}: it was changed: its hash is {told!a}, that of its content {found}")]
        if (number, before) != (seq, hashes[-1]):
            return [Mismatch(f"entry {seq}: it is number {number} after {before!a}; entry {seq - 1} is {hashes[-1]}")]
        hashes.append(told)
    if rest:
        return [Mismatch(f"entry {len(hashes)}: it has no end of line: its writing was broken off, or it was cut")]
    if head is not None and head["seq"] >= len(hashes):
        return [Mismatch(f"entry {len(hashes)}: it is gone: the log was cut off before the head, entry {head['seq']}")]
    if head is not None and hashes[head["seq"]] != head["hash"]:
        return [Mismatch(f"entry {head['seq']}: it is not the exported head, {head['hash']}: the log was written anew")]
    return []


def _link(line: bytes) -> tuple[int, str, str, str]:
    """Give an entry's number, the hash it follows, its own hash, and that of its content; `ValueError` if it has none."""
    (_, seq), (_, before), (start, own) = (line.split(name) for name in (b'"seq":', b'"prev":"', b'"hash":"'))
    (number, _, _), (prev, _, _), (told, _, rest) = seq.partition(b","), before.partition(b'",'), own.partition(b'",')
    return int(number), prev.decode(), told.decode(), digest_of(start + rest)


def head_of(given: Head) -> dict[str, Any]:
    """Give an exported head as `{"seq", "hash"}`, from such values, `SEQ:HASH` or a JSON file; else `Unreadable`."""
    if isinstance(given, str):
        typed = re.fullmatch(r"(\d{1,18}):(?:sha256:)?(.*)", given)
        given = {"seq": int(typed[1]), "hash": f"sha256:{typed[2]}"} if typed else parsed(_content(given))
    if not isinstance(given, Mapping) or not _is(given.get("seq"), "count") or not _is(given.get("hash"), "hash"):
        raise Unreadable(
            'expected a head as SEQ:HASH (64 digits of 0-9a-f), or a file with {"seq": number, "hash": "sha256:..."}'
        )
    return {"seq": given["seq"], "hash": given["hash"]}


def model_digest(path: Place) -> str:
    """Give the SHA-256 over names (sorted), types, shapes and bytes of a safetensors file's tensors; else `Unreadable`."""
    running = hashlib.sha256()
    with _opened(path) as file:
        tensors, begin = _tensors(file)
        for name, (start, stop, dtype, shape) in sorted(tensors.items()):
            running.update(f"{name}\0torch.{dtype}\0{shape}\0".encode())
            file.seek(begin + start)
            for at in range(start, stop, 1 << 20):
                running.update(file.read(min(1 << 20, stop - at)))
    return f"sha256:{running.hexdigest()}"


def _tensors(file: BinaryIO) -> tuple[dict[str, _Tensor], int]:
    """Read a safetensors header and see that its tensors fill the rest of the file without a gap."""
    size, length = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise Unreadable(f"expected a safetensors header within {size} bytes, found one of {length}")
    header = parsed(file.read(length), MAX_HEADER_BYTES)
    if type(header) is not dict:
        raise Unreadable("expected an object as safetensors header")
    tensors = {name: _tensor(name, told) for name, told in header.items() if name != "__metadata__"}
    end = 0
    for name, (start, stop, *_) in sorted(tensors.items(), key=lambda item: item[1][:2]):
        if start != end:
            raise Unreadable(f"tensor {name!a} begins at byte {start}, and the one before it ends at {end}")
        end = stop
    if end != size - 8 - length:
        raise Unreadable(f"the tensors end at byte {end}, and the file has {size - 8 - length} bytes for them")
    return tensors, 8 + length


def _tensor(name: str, told: Any) -> _Tensor:
    if not name.isprintable():  # a NUL would make two sets of tensors look alike, a lone surrogate has no bytes
        raise Unreadable(f"no network has a tensor of the name {name!a}")
    try:
        dtype, shape, (start, stop) = _DTYPES[told["dtype"]], told["shape"], told["data_offsets"]
        if len(told) != 3 or len(shape) > 64 or not all(_is(one, "count") for one in (*shape, start, stop)):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"tensor {name!a} is not told by a known dtype, a shape and data_offsets") from error
    each = 1 if dtype == "bool" else int(re.findall(r"\d+", dtype)[0]) // 8
    if start + each * math.prod(shape) != stop:
        raise Unreadable(f"tensor {name!a} does not fill the bytes {start} to {stop}")
    return start, stop, dtype, tuple(shape)


def root_from(leaf: bytes, path: Sequence[tuple[str, bytes]]) -> str:
    """Give the Merkle root to which a leaf leads beside hashes on its left or right, leaf and nodes hashed as in RFC 6962."""
    found = hashlib.sha256(b"\0" + leaf).digest()
    for side, beside in path:
        found = hashlib.sha256(b"\1" + (beside + found if side == "left" else found + beside)).digest()
    return f"sha256:{found.hex()}"


def audited(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a receipt repeats of the numbers in `audit.json`."""
    told = {name: numbers[name] for name in ("tier", "trace_seen", "controls", "verdict", "reasons")}
    metrics = [{name: one[name] for name in _METRIC} for one in numbers["measures"]]
    plan = {"plan_hash": f"sha256:{numbers['plan_digest']}", "effect": numbers["plan"]["effect"]}
    return {**told, **plan, "metrics": metrics, "num_models": numbers["num_oracles"]}


def faults(
    receipt: Place, *, weights: At = None, log: At = None, head: Head = None, audit: At = None, record: At = None
) -> list[str]:
    """Say what speaks against a receipt (a file with one canonical line), in sentences; none if it is valid.

    Beside it may be given the safetensors file of the model after, the log, a head of it, the run's `audit.json`, and a
    record's path to a root (`excise ledger show-record`). `Unreadable` is a head that is none; `OSError`, what cannot be read.
    """
    content, top = _content(receipt, MAX_RECEIPT_BYTES + 1), None if head is None else head_of(head)
    held, found = entry_faults(content.removesuffix(b"\n"))
    found += [] if content.endswith(b"\n") else [Mismatch("it has no end of line: cut, or saved by another program")]
    parts = {"receipt": found}
    if log is not None:
        whole = _content(log, MAX_LOG_BYTES)
        parts["log"] = log_faults(whole, top)
        if not (whole.startswith(content) or b"\n" + content in whole):
            parts["log"].append(Mismatch("this receipt is not in it"))
    elif top is not None and not found and top != {"seq": held["seq"], "hash": held["hash"]}:
        parts["head"] = [Mismatch(f"it is entry {top['seq']} and not this receipt; give the log as well")]
    for name, place in {"weights": weights, "audit": audit, "record": record}.items():
        if place is not None and not found:
            try:
                parts[name] = [Mismatch(one) for one in _BESIDE[name](held, Path(place))]
            except (ValueError, KeyError, TypeError) as error:
                parts[name] = [Mismatch(f"{os.fspath(place)!a} is not of the form it should have: {error}")]
    return [type(one)(f"{name}: {one}") for name, some in parts.items() for one in some]


def _weights_faults(receipt: dict[str, Any], path: Path) -> list[str]:
    found, told = model_digest(path), receipt["model_after"]
    if found != told:
        return [f"they are {found}, and the receipt is for {told}: another model, or changed"]
    with path.open("rb") as file:
        whole, told = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", receipt["model_file"]
    return [] if whole == told else [f"the tensors are right, but the file is {whole}, not {told}: saved anew"]


def _audit_faults(receipt: dict[str, Any], path: Path) -> list[str]:
    content = _content(path, MAX_AUDIT_BYTES)
    numbers = parsed(content, MAX_AUDIT_BYTES)
    told, model = audited(numbers), f"sha256:{numbers['unlearned']['model_digest']}"
    found = [f"its {name} is not the receipt's" for name in sorted(told) if told[name] != receipt["audit"][name]]
    found += [] if model == receipt["model_after"] else [f"it is of another model, {model!a}"]
    return found + ([] if digest_of(content) == receipt["audit"]["file"] else ["its file is not the recorded one"])


def _record_faults(receipt: dict[str, Any], path: Path) -> list[str]:
    told = parsed(_content(path))
    root = root_from(bytes.fromhex(told["leaf"]), [(side, bytes.fromhex(beside)) for side, beside in told["path"]])
    there = any(root == one["forget_commit"] for one in receipt["requests"])
    return [] if there else [f"it leads to {root}, which is no root of the receipt"]


_BESIDE = {"weights": _weights_faults, "audit": _audit_faults, "record": _record_faults}


def outlook(receipt: Place, given: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Give what a receipt says in one line, empty where it cannot be believed, and what was not looked at (None in `given`)."""
    told, found = entry_faults(_content(receipt, MAX_RECEIPT_BYTES + 1).removesuffix(b"\n"))
    notes = [f"no --{name}: {one}" for name, one in UNSEEN.items() if given[name] is None]
    if found:
        return "", notes
    of = f"requests: {len(told['requests'])}; rows: {sum(one['num_rows'] for one in told['requests'])}"
    return f"{told['audit']['verdict']}; {of}; network: {told['model_after']}; {told['time']}; claim: {CLAIM}", notes


def main(words: Sequence[str] | None = None) -> int:
    """Check what a command line names; give 0 if it is valid, 6 if a file is not what its record says, else 3."""
    parser = argparse.ArgumentParser(description="Check a receipt with the standard library alone.")
    parser.add_argument("receipt")
    for name in ("weights", "log", "head", "audit", "record"):
        parser.add_argument(f"--{name}", help="SEQ:HASH, or a file" if name == "head" else "a file")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = vars(parser.parse_args(words))
    as_json = asked.pop("json")
    try:
        found, (said, notes) = faults(**asked), outlook(asked["receipt"], asked)
    except (OSError, ValueError, MemoryError) as error:
        parser.error(ascii(str(error))[1:-1])
    told = {"valid": not found, "says": said, "reasons": found, "notes": notes}
    text = "\n  ".join([*[said] * bool(said), "not valid" if found else "valid", *found, *notes])
    sys.stdout.write(f"{json.dumps(told) if as_json else text}\n")
    return 0 if not found else 6 if any(isinstance(one, Mismatch) for one in found) else 3


if __name__ == "__main__":
    sys.exit(main())
