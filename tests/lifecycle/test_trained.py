import pytest
import torch
from torch.utils.data import TensorDataset

from excise import errors
from excise.data import Rows
from excise.ledger import merkle
from excise.ledger.commitments import new_key, record_digests
from excise.ledger.manifest import Manifest
from excise.lifecycle.trained import Trained

INPUTS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
TEST = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)


@pytest.fixture
def key():
    return new_key()


def test_rows_are_found_again_by_their_digests(key):
    trained = Trained((INPUTS, LABELS), test=TEST)
    digests = trained.digests(key)
    assert len(set(digests)) == 12
    assert trained.ids_of([digests[7], digests[2], b"another"], key).tolist() == [2, 7]
    assert trained.ids_of([], key).tolist() == []


def test_an_exact_copy_is_found_with_the_row_and_another_label_is_another_row(key):
    inputs, labels = INPUTS.clone(), LABELS.clone()
    inputs[9], labels[9] = inputs[2], labels[2]
    inputs[5], labels[5] = inputs[2], labels[2] + 1
    trained = Trained((inputs, labels), test=TEST)
    assert trained.ids_of([trained.digests(key)[2]], key).tolist() == [2, 9]


def test_arrays_and_data_sets_of_the_same_rows_have_the_same_digests(key):
    as_set = Trained(TensorDataset(INPUTS, LABELS), test=TEST)
    assert as_set.digests(key) == Trained((INPUTS.numpy(), LABELS.numpy()), test=TEST).digests(key)
    assert as_set.digests(new_key()) != Trained((INPUTS, LABELS), test=TEST).digests(key)


def test_rows_held_out_of_the_training_data_are_no_training_rows(key):
    trained = Trained((INPUTS, LABELS), test=[0, 1])
    assert trained.rows.ids.tolist() == list(range(2, 12))
    assert trained.ids_of(trained.digests(key)[:1], key).tolist() == [2]


def test_the_split_of_a_run_forgets_the_batch_and_leaves_out_what_is_gone():
    split = Trained((INPUTS, LABELS), test=TEST).split(torch.tensor([3, 8]), torch.tensor([0, 5]))
    assert split.forget.ids.tolist() == [3, 8]
    assert split.retain.ids.tolist() == [1, 2, 4, 6, 7, 9, 10, 11]


def test_a_ledger_needs_test_rows():
    with pytest.raises(errors.BadSplit, match="every run of a ledger is audited, on rows the network never saw"):
        Trained((INPUTS, LABELS), test=None)


@pytest.mark.parametrize(
    ("change", "strange"),
    [
        ("one more", 1),
        ("another order", 0),
        ("a changed value", 1),
        ("a changed label", 1),
        ("a row less", 0),
    ],
)
def test_data_other_than_the_manifests_are_refused_with_how_many(key, change, strange):
    manifest = Manifest.of(Trained((INPUTS, LABELS), test=TEST).rows, key)
    inputs, labels = INPUTS.clone(), LABELS.clone()
    if change == "one more":
        inputs, labels = torch.cat([inputs, inputs[:1] + 1]), torch.cat([labels, labels[:1]])
    elif change == "another order":
        inputs, labels = inputs.flip(0), labels.flip(0)
    elif change == "a changed value":
        inputs[4, 0] += 1e-6
    elif change == "a changed label":
        labels[4] += 1
    else:
        inputs, labels = inputs[1:], labels[1:]
    changed = Trained((inputs, labels), test=TEST)
    with pytest.raises(errors.Corrupt, match=rf"{len(labels)} rows here, 12 there; {strange} of these were not there"):
        changed.require_life(manifest, [], key)


def test_rows_that_were_forgotten_may_be_gone_and_no_others(key):
    inputs, labels = INPUTS.clone(), LABELS.clone()
    inputs[9], labels[9] = inputs[2], labels[2]
    whole = Trained((inputs, labels), test=TEST)
    digests, manifest = whole.digests(key), Manifest.of(whole.rows, key)
    whole.require_life(manifest, [], key)
    kept = [id for id in range(12) if id not in (2, 4, 9)]
    less = Trained((inputs[kept], labels[kept]), test=TEST)
    less.require_life(manifest, {digests[2], digests[4]}, key)
    with pytest.raises(errors.Corrupt, match="gone without having been forgotten"):
        less.require_life(manifest, {digests[2]}, key)


def test_a_manifest_is_checked_at_each_reading_and_hashed_once(key, tmp_path, monkeypatch):
    trained, path = Trained((INPUTS, LABELS), test=TEST), tmp_path / "manifest.bin"
    Manifest.of(trained.rows, key).save(path)
    hashed = []
    plain = merkle.root
    monkeypatch.setattr(merkle, "root", lambda leaves: hashed.append(1) or plain(leaves))
    roots = [trained.manifest(path).root for _ in range(3)]
    assert len(set(roots)) == 1 and len(hashed) == 1
    other = Trained((INPUTS.flip(0), LABELS.flip(0)), test=TEST)
    Manifest.of(other.rows, key).save(path)
    assert trained.manifest(path).root != roots[0]  # another file is another manifest
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(errors.Corrupt):
        trained.manifest(path)


def test_test_rows_that_are_copies_of_training_rows_are_refused(key):
    both = torch.cat([TEST[0], INPUTS[[3, 5]]]), torch.cat([TEST[1], LABELS[[3, 5]]])
    with pytest.raises(errors.BadSplit, match="test: 2 of its 4 rows are exact copies of training rows"):
        Trained((INPUTS, LABELS), test=both).roots(key)
    relabelled = INPUTS[[3, 5]], LABELS[[3, 5]] + 1
    tested, held = Trained((INPUTS, LABELS), test=relabelled).roots(key)
    digests = sorted(record_digests(Rows.all_of(relabelled), key))
    assert (tested, held) == (merkle.root(digests).hex(), "")
    with_holdout = Trained((INPUTS, LABELS), test=relabelled, holdout=TEST).roots(key)
    assert with_holdout[0] == tested and len(with_holdout[1]) == 64
