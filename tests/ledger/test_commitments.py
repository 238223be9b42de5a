import hashlib
import hmac
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from excise import errors, verify
from excise.data.rows import Rows
from excise.ledger import commitments, merkle
from excise.ledger.commitments import (
    Commitment,
    commit,
    destroy_key,
    included,
    inclusion,
    load_key,
    new_key,
    record_digests,
)
from tests.ledger.samples import SOAK


@pytest.fixture(autouse=True)
def own_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def key():
    return new_key()


def rows_of(count=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Rows.all_of((torch.rand(count, 3, 2, generator=generator), torch.arange(count) % 4))


class Listed(Dataset):
    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


def test_a_digest_is_the_keyed_hash_of_form_bytes_and_label(key):
    rows = rows_of()
    inputs, labels = rows.source.tensors
    for index, digest in enumerate(record_digests(rows, key)):
        content = (
            b"\0torch.float32[3, 2];torch.int64[]\0"
            + inputs[index].numpy().tobytes()
            + int(labels[index]).to_bytes(8, "little")
        )
        assert digest == hmac.new(key.secret, content, hashlib.sha256).digest()


def test_pieces_and_ids_make_no_difference(key, monkeypatch):
    rows = rows_of()
    found = record_digests(rows, key)
    monkeypatch.setattr(commitments, "CHUNK_ROWS", 3)
    assert record_digests(rows, key) == found
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    moved = Rows.all_of((rows.source.tensors[0][order], rows.source.tensors[1][order]))
    assert record_digests(moved, key) == [found[index] for index in order]
    some = Rows(rows.source, torch.tensor([2, 7, 19]))
    assert record_digests(some, key) == [found[2], found[7], found[19]]
    assert record_digests(Rows(rows.source, torch.zeros(0, dtype=torch.int64)), key) == []


def test_the_same_records_in_another_holder_have_the_same_digests(key):
    inputs, labels = rows_of().source.tensors
    found = record_digests(Rows.all_of((inputs, labels)), key)
    pairs = [(one, int(label)) for one, label in zip(inputs, labels, strict=True)]
    holders = [(inputs.numpy(), labels.numpy().astype(np.uint8)), TensorDataset(inputs, labels.int()), Listed(pairs)]
    for holder in holders:
        assert record_digests(Rows.all_of(holder), key) == found


def test_any_change_of_a_record_changes_its_digest(key):
    inputs, labels = rows_of(4).source.tensors
    found = record_digests(Rows.all_of((inputs, labels)), key)
    bit = inputs.clone()
    bit.view(torch.int32)[0, 0, 0] ^= 1
    other = [
        (bit, labels),
        (inputs, labels + 1),
        (inputs.double(), labels),
        (inputs.reshape(4, 2, 3), labels),
        (inputs, inputs, labels),
    ]
    for changed in other:
        assert record_digests(Rows.all_of(changed), key)[0] != found[0]


def test_texts_and_dicts_have_digests_without_confusion(key):
    texts = [("ab", "c", 1), ("a", "bc", 1), ("ab", "c", 2), ("", "abc", 1), ("ab", "c", 1)]
    found = record_digests(Rows.all_of(Listed(texts)), key)
    assert len(set(found)) == 4
    assert found[0] == found[4]
    named = [{"x": torch.ones(2), "y": 1}, {"x": torch.ones(2), "y": 2}, {"y": 1, "x": torch.ones(2)}]
    found = record_digests(Rows.all_of(Listed(named)), key)
    assert found[0] == found[2] != found[1]
    assert len({*found, *record_digests(Rows.all_of(Listed([{"x": torch.ones(2), "z": 1}])), key)}) == 3


def test_rows_that_change_from_reading_to_reading_are_refused(key):
    class Augmented(Listed):
        def __getitem__(self, index):
            return torch.rand(2), index

    with pytest.raises(errors.BadData, match="the same each time they are read"), torch.random.fork_rng():
        record_digests(Rows.all_of(Augmented([0, 1])), key)


def test_examples_without_content_are_refused(key):
    with pytest.raises(errors.BadData, match="expected examples of tensors, numbers and texts to take digests of"):
        record_digests(Rows.all_of(Listed([{}, {}])), key)


def test_a_commitment_does_not_depend_on_the_order_of_rows(key):
    rows = rows_of()
    found = commit(rows, key)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    moved = Rows.all_of((rows.source.tensors[0][order], rows.source.tensors[1][order]))
    assert commit(moved, key) == found == Commitment(found.root, key.id, 20)
    assert found.root == f"sha256:{merkle.root(sorted(record_digests(rows, key))).hex()}"
    assert commit(rows.head(19), key).root != found.root


def test_repeated_rows_are_counted(key):
    rows = rows_of(6)
    inputs, labels = rows.source.tensors
    roots = set()
    for ids in ([0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 2, 2, 2], [0, 0, 1, 2], [0, 1, 1, 2]):
        roots.add(commit(Rows.all_of((inputs[ids], labels[ids])), key).root)
    assert len(roots) == 5
    twice = Rows.all_of((inputs[[0, 1, 1, 2]], labels[[0, 1, 1, 2]]))
    for position in range(4):
        digest = record_digests(twice, key)[position]
        assert included(commit(twice, key).root, digest, inclusion(twice, key, position))


def test_inclusion_holds_for_each_row_and_for_no_other(key):
    rows, others = rows_of(11), rows_of(11, seed=5)
    root = commit(rows, key).root
    strangers = record_digests(others, key)
    for position, digest in enumerate(record_digests(rows, key)):
        path = inclusion(rows, key, position)
        assert included(root, digest, path)
        assert not any(included(root, stranger, path) for stranger in strangers)
        told = path.to_dict(digest)
        steps = [(side, bytes.fromhex(beside)) for side, beside in told["path"]]
        assert verify.root_from(bytes.fromhex(told["leaf"]), steps) == root
    with pytest.raises(errors.BadRequest, match=r"expected one of the 11 rows, counted from 0; found 11"):
        inclusion(rows, key, 11)


def test_without_the_key_nobody_can_confirm_a_guess():
    # The attacker has every record of the data set, its ids and the receipt; all that is missing is the key.
    rows = rows_of(40)
    forgotten = Rows(rows.source, torch.tensor([3, 8, 21]))
    root = commit(forgotten, new_key()).root
    dice = random.Random(0)
    contents = list(commitments._contents(rows.source.read(rows.ids), 40))
    for guess in range(1_000_000 if SOAK else 2000):
        secret = [b"", b"\0" * 32, dice.randbytes(32), str(guess).encode()][guess % 4]
        chosen = [3, 8, 21] if guess % 2 else dice.sample(range(40), 3)
        digests = sorted(hmac.new(secret, contents[index], hashlib.sha256).digest() for index in chosen)
        plain = sorted(hashlib.sha256(contents[index]).digest() for index in chosen)
        assert root not in (f"sha256:{merkle.root(one).hex()}" for one in (digests, plain))


def test_the_same_rows_twice_cannot_be_connected():
    rows = rows_of(30)
    first, second = (record_digests(rows, new_key()) for _ in range(2))
    assert not {*first} & {*second}
    assert commit(rows, new_key()).root != commit(rows, new_key()).root


def test_a_destroyed_key_shows_nothing_any_more(key):
    rows = rows_of(5)
    assert commit(rows, load_key(key.id)) == commit(rows, key)
    destroy_key(key.id)
    with pytest.raises(errors.BadRequest, match="was destroyed"):
        load_key(key.id)


def test_a_third_party_checks_a_record_with_the_one_file(key, tmp_path):
    rows = rows_of(7)
    digest = record_digests(rows, key)[4]
    told = inclusion(rows, key, 4).to_dict(digest)
    code = (
        "import runpy, sys; room = runpy.run_path(sys.argv[1])\n"
        f"print(room['root_from'](bytes.fromhex({told['leaf']!r}), [(s, bytes.fromhex(b)) for s, b in {told['path']!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, verify.__file__], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == commit(rows, key).root
