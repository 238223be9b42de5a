"""Random edits of a log, a receipt and weights, each of which a check must find; `make soak` runs ten thousand.

An edit is a flipped bit, a changed byte, a changed field (sealed again or not), an entry put in, taken out, moved or doubled,
or the end cut off with a head exported before.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from safetensors.torch import save

from excise import store, verify
from tests.ledger import samples

FIELDS = ("claim", "model_after", "retain_rows", "time", "sequence", "v", "oracle", "data_rows", "retraining_share")


def flipped(content, dice):
    spoiled = bytearray(content)
    spoiled[dice.randrange(len(spoiled))] ^= 1 << dice.randrange(8)
    return bytes(spoiled)


def rewritten(content, dice):
    place, length = dice.randrange(len(content)), dice.randrange(1, 9)
    return content[:place] + dice.randbytes(dice.randrange(9)) + content[place + length :]


def other_value(receipt, dice):
    """The receipt with one field changed."""
    copy = json.loads(json.dumps(receipt))
    place = copy["audit"] if dice.random() < 0.4 else copy
    name = dice.choice(("verdict", "num_models", "effect", "trace_seen") if place is not copy else FIELDS)
    if dice.random() < 0.3:
        del place[name]
    else:
        place[name] = "FAIL" if name == "verdict" else dice.choice([0, 0.25, "x", samples.hexadecimal(dice.random())])
    return copy


def edited_log(receipts, dice):
    """An edited log's bytes, and whether its first changed entry was sealed again."""
    lines = [verify.canonical(one) + b"\n" for one in receipts]
    at, kind = dice.randrange(len(lines)), dice.randrange(8)
    if kind == 0:
        lines[at] = flipped(lines[at], dice)
    elif kind == 1:
        lines[at] = rewritten(lines[at], dice)
    elif kind == 2:
        lines[at] = verify.canonical(other_value(receipts[at], dice)) + b"\n"
    elif kind == 3:
        lines[at] = verify.canonical(verify.sealed(other_value(receipts[at], dice))) + b"\n"
    elif kind == 4:
        del lines[at]
    elif kind == 5:
        lines.insert(at, dice.choice(lines))
    elif kind == 6:
        to = dice.choice([place for place in range(len(lines)) if place != at])
        lines.insert(to, lines.pop(at))
    whole = b"".join(lines)
    return (whole[: dice.randrange(len(whole))] if kind == 7 else whole), kind == 3


def first_changed(content, edited):
    """The number of the first line that is not what it was, each with its end."""
    before, after = ([line + b"\n" for line in whole.split(b"\n")[:-1]] for whole in (content, edited))
    same = [one == other for one, other in zip(before, after, strict=False)]
    return (same.index(False) if False in same else len(same)) + 1


def spoil_logs(count, seed):
    """How many of `count` edits of a log were found with the right entry named.

    An entry that was sealed again stands up by itself: what is named is the one after it, which follows another; or, where it
    is the last, it itself, by the head.
    """
    dice, receipts = random.Random(seed), samples.chain(6, audit=samples.numbers(num_measures=5))
    content, found = samples.content_of(receipts), 0
    head = {"seq": len(receipts), "hash": receipts[-1]["hash"]}
    for _ in range(count):
        edited, sealed_again = edited_log(receipts, dice)
        while edited == content:
            edited, sealed_again = edited_log(receipts, dice)
        first = min(first_changed(content, edited) + sealed_again, len(receipts) + (not sealed_again))
        told = verify.log_faults(edited, head)
        named = f"entry {first}:"
        found += bool(told) and told[0].startswith(named)
    return found


def spoil_receipts(count, seed, directory: Path):
    """How many of `count` edits of a receipt, alone or with its head, were found."""
    dice, receipt = random.Random(seed), samples.chain(2)[1]
    whole, path, found = verify.canonical(receipt) + b"\n", directory / "receipt.json", 0
    head = {"seq": 2, "hash": receipt["hash"]}
    for number in range(count):
        sealed_again = number % 4 == 3
        edited = whole
        while edited == whole:
            if number % 4 == 2 or sealed_again:
                changed = other_value(receipt, dice)
                edited = verify.canonical(verify.sealed(changed) if sealed_again else changed) + b"\n"
            else:
                edited = (flipped, rewritten)[number % 2](whole, dice)
        path.write_bytes(edited)
        found += bool(verify.faults(path, head=head if sealed_again else None))
    return found


def spoil_weights(count, seed, directory: Path):
    """How many of `count` edits of the weights' file were found."""
    dice, path = random.Random(seed), directory / "model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    tensors = {"a.weight": torch.rand(8, 4, generator=generator), "a.bias": torch.rand(8, generator=generator)}
    tensors["steps"] = torch.tensor(3)
    store.write_tensors(path, tensors, {"kind": "excise-model-1"})
    model, file = verify.model_digest(path), store.file_digest(path)
    receipt, found = directory / "receipt.json", 0
    sealed = verify.sealed(samples.build(1, verify.GENESIS, model_after=model, model_file=file))
    receipt.write_bytes(verify.canonical(sealed) + b"\n")
    whole = path.read_bytes()
    assert verify.faults(receipt, weights=path) == []
    for number in range(count):
        edited = whole
        while edited == whole:
            if number % 3 == 2:  # one weight, in a file that is as it should be
                name = dice.choice(sorted(tensors))
                changed = {**tensors, name: tensors[name].clone()}
                changed[name].view(-1)[dice.randrange(changed[name].numel())] += 1
                edited = save(changed, {"kind": "excise-model-1"})
            else:
                edited = (flipped, rewritten)[number % 3](whole, dice)
        path.write_bytes(edited)
        found += bool(verify.faults(receipt, weights=path))
    return found


def soak(directory: Path, count=10_000, seed=0):
    """Make `count` edits, six in ten of logs, two in ten each of receipts and weights; give how many were found of each."""
    share = count // 5
    return {
        "logs": (spoil_logs(count - 2 * share, seed), count - 2 * share),
        "receipts": (spoil_receipts(share, seed, directory), share),
        "weights": (spoil_weights(share, seed, directory), share),
    }
