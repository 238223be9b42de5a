import pytest

from excise import params, store
from excise.ledger import merkle
from excise.ledger.commitments import load_key
from excise.lifecycle.drift import distance
from excise.lifecycle.papers import opened as papers_of
from excise.lifecycle.settings import code_digest, recipe_values, source_digest
from excise.recipes import Finetune
from tests.planted import make


@pytest.fixture
def answered(ledger):
    for row in (3, 11):
        ledger.request([row])
        ledger.run(Finetune(epochs=1), tier="T0", seed=row)
    return ledger


def network_in(directory):
    model = make()
    params.load_strictly_(model, store.read_tensors(directory / "model.safetensors")[0], "")
    return model


def test_a_receipt_says_what_the_files_and_rows_say(answered):
    receipt, where = answered.receipt(2), answered.directory / "runs" / "0002"
    assert receipt["model_file"] == f"sha256:{store.file_digest(where / 'model.safetensors')}"
    assert receipt["audit"]["file"] == f"sha256:{store.file_digest(where / 'audit.json')}"
    assert receipt["method"] == {
        "name": "Finetune",
        "params": recipe_values(Finetune(epochs=1)),
        "code": code_digest(),
        "model_code": source_digest(make),
        "seed": 11,
    }
    assert receipt["accept_drop"] is False
    assert receipt["sequence"] == 2 and receipt["prev"] == answered.receipt(1)["hash"]
    with papers_of(answered.directory) as papers:
        life, runs = papers.book.life(), papers.book.runs()
    assert [answered.receipt(seq)["run"] for seq in (1, 2)] == [one.id for one in runs]
    digests = answered.subject.trained.digests(load_key(life.key_id))
    stays = sorted(digest for row, digest in enumerate(digests) if row not in (3, 11))
    assert receipt["retain_root"] == f"sha256:{merkle.root(stays).hex()}"
    assert receipt["data_manifest"] == life.manifest_root


def test_the_networks_that_saw_the_rows_are_named_as_kept(answered):
    named = [one["id"] for one in answered.receipt(2)["copies"]["kept"]]
    first = answered.receipt(1)
    assert named == [f"network {first['model_before']}", f"network {first['model_after']}"]


def test_drift_counts_from_the_original_and_costs_add_up(answered, original):
    one, two = (answered.receipt(seq) for seq in (1, 2))
    for receipt, name, rows in ((one, "0001", 1), (two, "0002", 2)):
        model = network_in(answered.directory / "runs" / name)
        assert receipt["drift"]["distance"] == distance(original, model)
        assert receipt["drift"]["forgotten_fraction"] == rows / 160
        change = answered.subject.test_accuracy(model) - answered.subject.test_accuracy(original)
        assert receipt["drift"]["test_accuracy_change"] == change
    assert two["drift"]["retrainings"] == one["retraining_share"] + two["retraining_share"]
    assert one["retraining_share"] == 159 / (159 * 30)


def test_without_a_training_plan_the_cost_is_not_known(opened):
    ledger = opened(plan=None)
    ledger.request([3])
    done = ledger.run(Finetune(epochs=1), tier="T0")
    assert done["retraining_share"] is None and done["drift"]["retrainings"] is None


def test_what_was_purged_in_earlier_runs_stands_in_the_next_receipt(ledger):
    ledger.request([3])
    ledger.run(Finetune(epochs=1), tier="T0")
    gone = {"sha256": f"sha256:{'b' * 64}", "what": "a checkpoint", "certainty": "sure", "when": "", "how": "removed"}
    a_list = {**gone, "sha256": f"hmac-sha256:{'c' * 64}"}  # under the owner's key, and nobody else's affair
    store.amend_record(ledger.directory / "runs" / "0001", purged=[gone, a_list, gone])
    ledger.request([11])
    ledger.run(Finetune(epochs=1), tier="T0")
    assert [ledger.receipt(seq)["copies"]["purged"] for seq in (1, 2)] == [[], [gone["sha256"]]]
