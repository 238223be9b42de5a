import pytest
import torch

from excise import errors, params, store
from excise.lifecycle import Ledger, Subject, Trained
from excise.lifecycle.papers import opened as papers_of
from excise.lifecycle.settings import source_digest
from excise.recipes import Finetune
from tests.planted import TEST, TRAIN, make


@pytest.fixture
def subject(original):
    return Subject(model=original, trained=Trained(TRAIN, test=TEST))


def test_test_accuracy_is_the_share_of_test_rows_that_are_right(subject, original):
    with torch.no_grad():
        right = original(TEST[0]).argmax(1) == TEST[1]
    assert subject.test_accuracy(original) == float(right.double().mean())
    assert 0.5 < subject.test_accuracy(original) < 1


def test_the_environment_names_what_bits_depend_on(subject):
    found = subject.environment()
    assert found["device"] == "cpu" and found["threads"] == torch.get_num_threads()
    assert {"torch", "python", "machine", "excise"} <= found.keys()


def test_the_code_of_the_network_is_its_builders_file_or_its_classes(subject, original):
    built = Subject(model=original, trained=subject.trained, fresh=make)
    assert built.model_code() == source_digest(make) != source_digest(type(original))
    assert subject.model_code() == source_digest(type(original))


def test_the_network_in_use_is_the_originals_then_the_last_runs(ledger, original):
    def in_use():
        with papers_of(ledger.directory) as papers:
            return ledger.subject.in_use(papers, papers.book.life())

    assert in_use() is original
    ledger.request([3])
    ledger.run(Finetune(epochs=1), tier="T0")
    assert f"sha256:{params.model_digest(in_use())}" == ledger.receipt(1)["model_after"]


def test_a_network_that_is_not_of_this_life_is_refused(ledger):
    other = Ledger(ledger.directory, make(), TRAIN, test=TEST)
    for row in (3, 11):  # beside the original, then beside the network of a run
        other.request([row])
        with pytest.raises(errors.Corrupt, match=r"expected the original network .*\(digest .*found another"):
            other.run(Finetune(epochs=1), tier="T0")
        ledger.run(Finetune(epochs=1), tier="T0")


def test_a_runs_network_that_was_changed_is_not_gone_on_with(ledger):
    ledger.request([3])
    ledger.run(Finetune(epochs=1), tier="T0")
    path = ledger.directory / "runs" / "0001" / "model.safetensors"
    tensors, metadata = store.read_tensors(path)
    tensors["2.bias"][0] += 1e-6
    store.write_tensors(path, tensors, metadata)
    ledger.request([11])
    with pytest.raises(errors.Corrupt, match=r"runs/0001/model.safetensors is not the network of its receipt"):
        ledger.run(Finetune(epochs=1), tier="T0")
