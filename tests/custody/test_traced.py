import pytest
import torch

from excise import errors, params, store
from excise.custody import Traced
from excise.custody.traced import read_asked
from tests.custody.removal import FORGET, NUM_ROWS, RETAIN, removal


def test_a_run_gives_both_networks_the_counts_and_keyed_digests(made):
    traced = made.traced()
    assert params.digest(traced.network.before) == params.model_digest(made.original) == traced.network.before_digest
    assert params.digest(traced.network.after) == params.model_digest(made.released)
    assert (traced.rows.num_rows, traced.rows.num_forget) == (NUM_ROWS, len(FORGET))
    assert traced.rows.are_forgotten(FORGET) and not traced.rows.are_forgotten(RETAIN)
    assert traced.retained == store.commitment(RETAIN) and made.traced(None).retained == ""


def test_what_the_run_released_stays_and_what_it_left_does_not(made):
    released = {"run.json", "model.safetensors", "mask.safetensors", "patch.safetensors"}
    later = {
        "audit.json",
        "audit-0123456789ab.json",
        "audit-plan.json",
        "report.html",
        "receipt.json",
        "receipts.jsonl",
    }
    for name in (*later, "rows.json", "last-finite.safetensors", "notes.txt", ".run.json.0123456789ab.tmp"):
        (made.run / name).write_text("{}")
    assert {path.name for path in made.traced().released} == released | later


def test_an_original_that_is_gone_or_another_by_now_is_none_and_its_digest_is_known(made):
    digest = params.model_digest(made.original)
    store.write_tensors(made.weights, made.released.state_dict())
    assert made.traced().network.before is None
    made.weights.unlink()
    found = made.traced().network
    assert found.before is None and found.before_digest == digest


def test_other_ids_are_refused(made):
    with pytest.raises(errors.BadRequest, match=r"the ids given are not those that .*run was made with"):
        made.traced(FORGET + 1)


def test_what_is_no_run_is_refused(tmp_path, made):
    with pytest.raises(
        errors.BadRequest,
        match=r"expected the directory of an `excise unlearn` or `excise ledger` run, found no run.json in",
    ):
        Traced.of(tmp_path)
    with pytest.raises(errors.Corrupt, match=r"run.json is not a record that this version can read"):
        read_asked(made.run, {"request": {"command": 3}})
    (tmp_path / "other").mkdir()
    other = removal(tmp_path / "other", command="localize")
    with pytest.raises(errors.BadRequest, match=r"run, found one of 'localize' in"):
        Traced.of(other.run)


def test_a_changed_network_is_corrupt_and_not_traced(made):
    store.write_tensors(made.run / "model.safetensors", {"w": torch.ones(1)})
    with pytest.raises(errors.Corrupt, match="is not what its record says"):
        made.traced()
