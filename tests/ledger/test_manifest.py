import os
import time

import numpy as np
import pytest
import torch

from excise import errors
from excise.data import Split
from excise.data.rows import Rows
from excise.ledger import merkle
from excise.ledger.commitments import destroy_key, new_key, record_digests
from excise.ledger.manifest import Manifest
from excise.store import keys
from tests.ledger.samples import SOAK


@pytest.fixture(autouse=True)
def own_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def arrays(count=300):
    return torch.rand(count, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 10


@pytest.fixture
def rows():
    return Rows.all_of(arrays())


@pytest.fixture
def manifest(rows):
    return Manifest.of(rows, new_key())


def test_the_root_is_that_of_the_digests_in_the_order_of_ids(rows, manifest):
    digests = record_digests(rows, keys.load_key(manifest.key_id))
    assert manifest.root == f"sha256:{merkle.root(digests).hex()}"
    assert manifest.num_rows == 300
    assert [row.tobytes() for row in manifest.digests] == digests


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_what_is_saved_is_read_back(rows, tmp_path, count):
    one = Manifest.of(Rows(rows.source, rows.ids[:count]), new_key())
    path = tmp_path / "manifest.bin"
    one.save(path)
    assert path.stat().st_size == 16 + 34 + 16 + (count + 7) // 8 + 32 * count + 32
    back = Manifest.load(path)
    assert (back.root, back.num_rows, back.key_id) == (one.root, count, one.key_id)
    assert torch.equal(back.ids, one.ids)
    assert (back.digests == one.digests).all()
    back.require_same(Rows(rows.source, rows.ids[:count]))


def test_ids_with_gaps_are_kept(rows, tmp_path):
    split = Split(arrays(), forget=[5], test=list(range(0, 300, 7)))
    one = Manifest.of(split.train, new_key())
    one.save(tmp_path / "m")
    back = Manifest.load(tmp_path / "m")
    assert torch.equal(back.ids, split.train.ids)
    back.require_same(split.train)
    wanted = Rows(rows.source, torch.tensor([5, 8, 299]))
    assert back.find(wanted).tolist() == [5, 8, 299]
    with pytest.raises(errors.BadSplit, match="1 of 1 records are in no training row"):
        back.find(Rows(rows.source, torch.tensor([14])))


def test_records_are_found_by_content_and_near_copies_are_not(rows, manifest):
    inputs, labels = arrays()
    chosen = torch.randperm(300, generator=torch.Generator().manual_seed(1))[:100]
    assert manifest.find(Rows.all_of((inputs[chosen], labels[chosen]))).tolist() == sorted(chosen.tolist())
    near = inputs[chosen].clone()
    near.view(torch.int32)[torch.arange(100), torch.arange(100) % 4, 0] ^= 1  # the last bit of one pixel
    for place in range(100):
        one = slice(place, place + 1)
        for changed in ((near[one], labels[chosen][one]), (inputs[chosen][one], labels[chosen][one] + 1)):
            with pytest.raises(errors.BadSplit, match=r"1 of 1 records are in no training row \(at position 0\)"):
                manifest.find(Rows.all_of(changed))


def test_one_strange_record_refuses_the_whole_request(manifest):
    inputs, labels = arrays()
    mixed = inputs[:20].clone()
    mixed[[3, 4, 8, 9, 10, 17]] += 1
    with pytest.raises(
        errors.BadSplit,
        match=r"6 of 20 records .* \(at positions 3, 4, 8, 9, 10 and further\); a record must be exactly",
    ) as caught:
        manifest.find(Rows.all_of((mixed, labels[:20])))
    assert "0." not in str(caught.value)  # nothing of a row's content


def test_every_copy_of_a_record_is_found():
    inputs, labels = arrays(10)
    inputs[7], labels[7] = inputs[2], labels[2]
    manifest = Manifest.of(Rows.all_of((inputs, labels)), new_key())
    assert manifest.find(Rows.all_of((inputs[[2]], labels[[2]]))).tolist() == [2, 7]
    assert manifest.find(Rows.all_of((inputs[[2, 7, 4]], labels[[2, 7, 4]]))).tolist() == [2, 4, 7]


def test_changed_data_are_refused_with_their_number(rows, manifest):
    manifest.require_same(rows)
    inputs, labels = arrays()
    inputs[[3, 9]] += 1
    labels[200] += 1
    with pytest.raises(errors.Corrupt, match="3 of 300 rows have changed since"):
        manifest.require_same(Rows.all_of((inputs, labels)))
    inputs, labels = arrays()
    order = torch.arange(300)
    order[[1, 2]] = order[[2, 1]]
    with pytest.raises(errors.Corrupt, match="2 of 300 rows have changed"):
        manifest.require_same(Rows.all_of((inputs[order], labels[order])))
    with pytest.raises(errors.Corrupt, match="expected 300 rows, found 299"):
        manifest.require_same(rows.head(299))
    longer = Rows(Rows.all_of(arrays(301)).source, torch.arange(1, 301))
    with pytest.raises(errors.Corrupt, match="expected 300 rows, found 300 with other ids"):
        manifest.require_same(longer)


def test_without_its_key_nothing_can_be_found(rows, manifest):
    destroy_key(manifest.key_id)
    for ask in (manifest.find, manifest.require_same):
        with pytest.raises(errors.BadRequest, match="was destroyed"):
            ask(rows)


def test_a_changed_file_is_refused(manifest, tmp_path):
    path = tmp_path / "m"
    manifest.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        with pytest.raises((errors.Corrupt, errors.BadData)):
            Manifest.load(path)
    for cut in (1, 32, 1000):
        path.write_bytes(whole[:-cut])
        with pytest.raises(errors.Corrupt, match="is not what was written"):
            Manifest.load(path)
    path.write_bytes(whole[:40])
    with pytest.raises(errors.Corrupt, match="damaged, or of a later version"):
        Manifest.load(path)
    path.write_bytes(whole[:15] + b"2" + whole[16:])
    with pytest.raises(errors.Corrupt, match="damaged, or of a later version"):
        Manifest.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(errors.BadData, match="is no manifest"):
        Manifest.load(path)
    with pytest.raises(errors.BadData, match="expected a manifest at"):
        Manifest.load(tmp_path / "nowhere")


def test_a_file_whose_ids_do_not_fit_its_rows_is_refused(manifest, tmp_path):
    path = tmp_path / "m"
    Manifest(manifest.digests, torch.zeros(300, dtype=torch.int64), manifest.key_id).save(path)
    with pytest.raises(errors.Corrupt, match="expected 300 ids, found 1"):
        Manifest.load(path)


def test_it_holds_no_list_of_ids_and_nothing_of_a_row(rows, manifest, tmp_path):
    path = tmp_path / "m"
    manifest.save(path)
    whole = path.read_bytes()
    inputs, _ = arrays()
    assert not any(row.numpy().tobytes() in whole for row in inputs.flatten(1))
    assert np.arange(8, dtype=np.int64).tobytes() not in whole
    assert "digests" not in repr(manifest)
    assert manifest.key_id in repr(manifest)


def test_a_million_rows_are_checked_in_ten_seconds(tmp_path):
    count = 1_000_000 if SOAK else 100_000
    digests = np.random.default_rng(0).integers(0, 256, (count, 32), dtype=np.uint8)
    path = tmp_path / "m"
    one = Manifest(digests, torch.arange(count), new_key().id)
    one.save(path)
    began = time.process_time()
    back = Manifest.load(path)
    root = back.root
    assert time.process_time() - began <= 10 * count / 1_000_000
    assert root.startswith("sha256:")
    assert back.num_rows == count


def test_a_pipe_is_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "manifest.bin")
    with pytest.raises(errors.BadData, match="it is a directory, a pipe or a device"):
        Manifest.load(tmp_path / "manifest.bin")
