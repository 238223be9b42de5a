"""Runs over batches of requests: what a kill leaves, what comes meanwhile, what is refused."""

import contextlib
import json
import multiprocessing
import os
import threading

import pytest

import excise
from excise import errors, params, recipes, store, verify
from excise.ledger.book import Book
from excise.ledger.log import Log
from excise.lifecycle import Ledger, answering
from excise.lifecycle.papers import opened as papers_of
from excise.pipeline import Unlearned, measuring, swapping
from excise.recipes import Finetune
from excise.store.generations import Generations
from excise.train import Hooks
from tests.cluster.fleets import Elsewhere
from tests.lifecycle.conftest import COLLAPSE, PLAN
from tests.planted import TEST, TRAIN, WRONG, make

SHORT = {"tier": "T0"}


def network_in(directory):
    model = make()
    params.load_strictly_(model, store.read_tensors(directory / "model.safetensors")[0], "")
    return model


def sound(ledger):
    """Say what the verifier of the log finds, and that every finished run is what its record says."""
    for run in ledger.status()["runs"]:
        if run["state"] == "done":
            store.read_record(ledger.directory / "runs" / f"{run['number']:04d}")
    with papers_of(ledger.directory) as papers:
        return verify.log_faults(papers.log.path.read_bytes() if papers.log.path.exists() else b"")


def test_several_requests_are_answered_in_one_run_by_what_the_library_does_for_one_split(ledger, original):
    made = [ledger.request([3, 11]), ledger.request([19]), ledger.request([40])]
    done = ledger.run(Finetune(epochs=2), seed=5, **SHORT)
    assert done["requests"] == [one.id for one in made] and done["run"] == 1
    split = excise.Split(TRAIN, forget=[3, 11, 19, 40], test=TEST)
    twin = excise.unlearn(original, split, Finetune(epochs=2), fresh=make, seed=5, plan=PLAN)
    after = params.model_digest(network_in(ledger.directory / "runs" / "0001"))
    assert after == params.model_digest(twin.model) != params.model_digest(original)
    receipt = ledger.receipt(1)
    assert (
        receipt["model_after"] == f"sha256:{after}"
        and receipt["model_before"] == f"sha256:{params.model_digest(original)}"
    )
    assert receipt["retraining_share"] == done["retraining_share"] == twin.cost.retraining_share
    assert [one["num_rows"] for one in receipt["requests"]] == [2, 1, 1]
    assert (receipt["data_rows"], receipt["retain_rows"]) == (160, 156)
    assert {one["state"] for one in ledger.status()["requests"]} == {"answered"}


def test_the_next_run_begins_with_the_network_of_the_last_and_leaves_out_what_was_forgotten(ledger):
    ledger.request([3, 11])
    ledger.run(Finetune(epochs=1), **SHORT)
    ledger.request([19])
    ledger.run(Finetune(epochs=1), seed=2, **SHORT)
    first, second = (network_in(ledger.directory / "runs" / name) for name in ("0001", "0002"))
    kept = [row for row in range(160) if row not in (3, 11)]
    split = excise.Split((TRAIN[0][kept], TRAIN[1][kept]), forget=[kept.index(19)], test=TEST)
    twin = excise.unlearn(first, split, Finetune(epochs=1), seed=2)
    assert params.model_digest(second) == params.model_digest(twin.model)
    assert ledger.receipt(2)["model_before"] == ledger.receipt(1)["model_after"]
    assert ledger.receipt(2)["retain_rows"] == 157
    assert ledger.receipt(2)["drift"]["forgotten_fraction"] == 3 / 160


def test_without_an_open_request_nothing_is_run(ledger):
    with pytest.raises(errors.BadRequest, match="expected open requests to answer, found none"):
        ledger.run(Finetune(epochs=1), **SHORT)
    assert ledger.status()["runs"] == [] and not (ledger.directory / "runs").exists()


def test_a_request_that_comes_during_a_run_waits_for_the_next(ledger, monkeypatch):
    first, later = ledger.request([3]), []

    def meanwhile(*given, real=answering.unlearn, **options):
        adding = threading.Thread(target=lambda: later.append(ledger.request([11])))
        adding.start()
        adding.join(20)
        assert [one["running"] for one in ledger.status()["requests"]] == [True, False]
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "unlearn", meanwhile)
        done = ledger.run(Finetune(epochs=1), **SHORT)
    assert done["requests"] == [first.id] and ledger.receipt(1)["retain_rows"] == 159
    assert [one["state"] for one in ledger.status()["requests"]] == ["answered", "open"]
    assert ledger.run(Finetune(epochs=1), **SHORT)["requests"] == [later[0].id]


def test_two_runs_at_once_are_refused(ledger):
    ledger.request([3])
    with store.lock(ledger.directory), pytest.raises(errors.InUse, match="is in use by process"):
        ledger.run(Finetune(epochs=1), **SHORT)
    assert ledger.status()["runs"] == []
    assert len(ledger.status()["requests"]) == 1


def test_a_request_needs_no_lock(ledger):
    with store.lock(ledger.directory):
        ledger.request([3])
    assert len(ledger.status()["requests"]) == 1


# ---- kills


def _dies(ledger, recipe, where, name, count, before):
    """Run in a process that dies, without a last word, at one call of one function."""
    left = [count]
    real = getattr(where, name)

    def last(*given, **options):
        left[0] -= 1
        if left[0] == 0 and before:
            os._exit(9)
        found = real(*given, **options)
        if left[0] == 0:
            os._exit(9)
        return found

    setattr(where, name, last)
    ledger.run(recipe, **SHORT)
    os._exit(0)


def killed(ledger, recipe, where, name, count=1, *, before=False):
    process = multiprocessing.get_context("fork").Process(
        target=_dies, args=(ledger, recipe, where, name, count, before)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 9, (where, name, process.exitcode)


def test_a_run_that_is_killed_at_every_step_in_turn_ends_as_one_that_was_not(opened):

    recipe = recipes.DEL(epochs=1)
    whole, torn = opened("whole"), opened("torn")
    for ledger in (whole, torn):
        ledger.request([3, 11])
        ledger.request([19])
    expected = whole.run(recipe, **SHORT)
    killed(torn, recipe, Book, "begin", before=True)
    assert torn.status()["runs"] == []
    for where, name, count, before in (
        (Book, "begin", 1, False),
        (answering, "unlearned_again", 1, False),
        (os, "fsync", 3, True),
        (Unlearned, "save", 1, False),
        (store.RunDirectory, "complete", 1, False),
        (os, "fsync", 9, True),
        (store, "amend_record", 1, False),
        (store, "amend_record", 2, True),
        (store, "amend_record", 2, False),
        (Log, "append", 1, True),
        (Log, "append", 1, False),
    ):
        killed(torn, recipe, where, name, count, before=before)
        assert sound(torn) == []
        states = [one["state"] for one in torn.status()["requests"]]
        assert len(states) == 2 and len(set(states)) == 1
    assert not [path for path in torn.directory.rglob("*") if path.suffix == ".tmp" or path.name == store.CHECKPOINTS]
    # the receipt is in the log: looking is enough to bring the book up to it, and there is nothing left to run
    assert states == ["answered", "answered"]
    with pytest.raises(errors.BadRequest, match="found none"):
        torn.run(recipe, **SHORT)
    later = torn.request([40])
    killed(torn, recipe, Book, "finish", before=True)
    killed_again = torn.status()
    assert killed_again["head"]["seq"] == 2 and [one["state"] for one in killed_again["requests"]] == ["answered"] * 3
    assert torn.receipt(later.id)["seq"] == 2
    # what came out is what comes out undisturbed, and it was counted once
    assert torn.receipt(1)["model_after"] == whole.receipt(1)["model_after"]
    assert len(torn.status()["runs"]) == 2
    first = torn.receipt(1)
    assert first["audit"]["verdict"] == expected["verdict"]
    assert first["audit"]["metrics"] == whole.receipt(1)["audit"]["metrics"]
    assert {**first["drift"]} == expected["drift"]
    assert sound(torn) == []


def test_a_receipt_whose_end_of_line_was_lost_is_not_written_twice(ledger):
    ledger.request([3])

    killed(ledger, Finetune(epochs=1), Book, "finish", before=True)
    log = ledger.directory / "receipts.jsonl"
    log.write_bytes(log.read_bytes()[:-1])
    done = ledger.run(Finetune(epochs=1), **SHORT)
    assert done["seq"] == 1 and log.read_bytes().count(b"\n") == 1
    assert sound(ledger) == []
    assert [one["state"] for one in ledger.status()["requests"]] == ["answered"]


def test_going_on_with_other_settings_is_refused_and_anew_begins_again_with_all_that_is_open(ledger):

    ledger.request([3])
    killed(ledger, Finetune(epochs=1), store.RunDirectory, "complete")
    ledger.request([11])
    with pytest.raises(
        errors.BadRequest, match=r"run 1 was begun with other settings and is not done \(settings\.method\..*--anew"
    ):
        ledger.run(Finetune(epochs=2), **SHORT)
    with pytest.raises(errors.BadRequest, match=r"options\.seed: 0 there, 1 here"):
        ledger.run(Finetune(epochs=1), seed=1, **SHORT)
    assert (ledger.directory / "runs" / "0001" / "model.safetensors").is_file()
    done = ledger.run(Finetune(epochs=2), anew=True, **SHORT)
    assert (done["run"], done["seq"], len(done["requests"])) == (2, 1, 2)
    assert [run["state"] for run in ledger.status()["runs"]] == ["dropped", "done"]
    assert list((ledger.directory / "runs" / "0001").iterdir()) == []  # a network nobody needs


def test_what_a_killed_giving_up_has_left_is_removed_by_the_next_run(ledger):
    ledger.request([3])
    killed(ledger, Finetune(epochs=1), store.RunDirectory, "complete")
    with papers_of(ledger.directory) as papers:
        papers.book.drop(1)
    assert (ledger.directory / "runs" / "0001" / "model.safetensors").is_file()
    assert ledger.run(Finetune(epochs=1), **SHORT)["run"] == 2
    assert [path for path in (ledger.directory / "runs" / "0001").rglob("*") if path.is_file()] == []


def stopping(wanted):
    """Options with which a run is stopped as by a signal, at the third step of a training whose checkpoints are wanted."""
    held = []

    class Stops(Hooks):
        steps = 0

        def on_step(self):
            self.steps += bool(wanted(held[-1]) and held[-1].inside)
            if self.steps == 3:
                held[-1].stop(KeyboardInterrupt())

    @contextlib.contextmanager
    def watched(kept):
        held.append(kept)
        yield

    return {"hooks": Stops(), "watched": watched}


def test_a_stop_in_the_midst_of_training_goes_on_from_a_checkpoint_to_the_same_bits(opened):
    whole, torn = opened("whole"), opened("torn")
    for ledger in (whole, torn):
        ledger.request([3, 11])
    whole.run(Finetune(epochs=2), **SHORT)

    with pytest.raises(KeyboardInterrupt):
        torn.run(Finetune(epochs=2), **stopping(lambda kept: kept.directory is not None), **SHORT)
    kept = torn.directory / "runs" / "0001" / store.CHECKPOINTS
    assert list(kept.iterdir())
    torn.run(Finetune(epochs=2), **SHORT)
    assert torn.receipt(1)["model_after"] == whole.receipt(1)["model_after"]
    assert not kept.exists()


@pytest.mark.parametrize(
    ("plan", "given", "words"),
    [
        (None, {}, "plan: every run is audited beside networks retrained the way yours was"),
        (None, {"tier": "T1"}, "plan: every run is audited"),
        (PLAN, {"tier": "T9"}, "tier: expected one of T0, T1, T2, found 'T9'"),
        (PLAN, {"tier": "T0", "oracles": 4}, "oracles: tier T0 retrains nothing"),
        (PLAN, {**SHORT, "checkpoint_seconds": float("inf")}, "checkpoint_seconds: expected a finite number"),
        (PLAN, {**SHORT, "bank": __file__}, "bank: expected a directory, found a file"),
    ],
)
def test_an_audit_that_cannot_be_made_is_refused_before_a_run_is_begun(opened, plan, given, words):
    ledger = opened(plan=plan)
    ledger.request([3])
    with pytest.raises(errors.BadRequest, match=words):
        ledger.run(Finetune(epochs=1), **given)
    assert ledger.status()["runs"] == []


def test_words_that_cannot_be_acted_on_leave_no_run_to_go_on_with(ledger):
    ledger.request([3])
    for _ in range(2):
        with pytest.raises(errors.BadRequest, match="holdout"):
            ledger.run(recipes.SCRUBPlusR(), **SHORT)
    assert [run["state"] for run in ledger.status()["runs"]] == ["dropped", "dropped"]
    assert ledger.run(Finetune(epochs=1), **SHORT)["seq"] == 1


def test_what_goes_wrong_beside_a_checkpoint_does_not_take_it_away(opened, monkeypatch):
    whole, torn = opened("whole"), opened("torn")
    for ledger in (whole, torn):
        ledger.request([3, 11])
    whole.run(Finetune(epochs=2), **SHORT)
    with pytest.raises(KeyboardInterrupt):
        torn.run(Finetune(epochs=2), **stopping(lambda kept: kept.directory is not None), **SHORT)
    kept = torn.directory / "runs" / "0001" / store.CHECKPOINTS
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    for error in (errors.BadData, errors.MaskMismatch):
        with monkeypatch.context() as patch, pytest.raises(error, match="away"):
            patch.setattr(answering, "unlearned_again", lambda *_, e=error, **__: (_ for _ in ()).throw(e("away")))
            torn.run(Finetune(epochs=2), **SHORT)
        assert {path.name: path.read_bytes() for path in kept.iterdir()} == before != {}
    assert torn.run(Finetune(epochs=2), **SHORT)["run"] == 1
    assert torn.receipt(1)["model_after"] == whole.receipt(1)["model_after"]


def test_a_stop_in_the_midst_of_an_audit_leaves_a_checkpoint_of_its_network(ledger, tmp_path):
    ledger.request([3])
    bank = tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        ledger.run(Finetune(epochs=1), tier="T1", oracles=1, bank=bank, **stopping(lambda kept: kept.directory is None))
    (training,) = bank.glob(".training-*")
    assert Generations(training).newest(1)[0] is not None
    assert (ledger.directory / "runs" / "0001" / store.RECORD).is_file() and ledger.status()["head"]["seq"] == 0


def test_a_fleet_trains_the_networks_of_the_audit(ledger, tmp_path):
    ledger.request([3])
    fleet = Elsewhere()
    with pytest.raises(errors.BadRequest, match=r"fleet: expected an excise\.cluster\.OnRay"):
        ledger.run(Finetune(epochs=1), **SHORT, fleet="local")
    done = ledger.run(Finetune(epochs=1), tier="T1", oracles=1, bank=tmp_path / "bank", fleet=fleet)
    assert done["verdict"] == "INCONCLUSIVE" and ("train_there", 0) in [
        (name, item.number) for name, item in fleet.jobs
    ]


def test_a_run_that_diverged_waits_and_another_recipe_takes_its_place(ledger):
    ledger.request([3])
    for _ in range(2):
        with pytest.raises(errors.Diverged):
            ledger.run(recipes.NegGrad(lr=1e38, epochs=3), **SHORT)
    assert [run["state"] for run in ledger.status()["runs"]] == ["begun"]
    assert ledger.run(Finetune(epochs=1), anew=True, **SHORT)["run"] == 2


# ---- verdicts


def test_a_network_that_lost_too_much_is_not_adopted_until_somebody_accepts_that(opened, original):
    ledger = opened(max_drop=0.02)
    made = ledger.request([3])
    for _ in range(2):
        with pytest.raises(errors.Refused, match=r"run 1: test accuracy is .*more than the 2.00% .*--accept-drop"):
            ledger.run(COLLAPSE, **SHORT)
    found = ledger.status()
    assert found["head"]["seq"] == 0 and found["model"] is None
    assert [one["state"] for one in found["requests"]] == ["open"]
    done = ledger.run(Finetune(epochs=1, lr=0.001), anew=True, **SHORT)
    assert done["adopted"] and done["requests"] == [made.id]
    lenient = opened("lenient", max_drop=0.02)
    lenient.request([3])
    with pytest.raises(errors.Refused):
        lenient.run(COLLAPSE, **SHORT)
    accepted = lenient.run(COLLAPSE, accept_drop=True, **SHORT)  # the same run goes on; its audit still judges it
    assert (accepted["run"], accepted["verdict"], accepted["adopted"]) == (1, "FAIL", False)
    assert [one.receipt(1)["accept_drop"] for one in (ledger, lenient)] == [False, True]
    assert lenient.status()["runs"][0]["verdict"] == "FAIL"


def test_a_drop_that_is_just_allowed_is_allowed(opened, original):
    ledger = opened(max_drop=0.0)
    ledger.request([3])
    assert ledger.run(recipes.Nothing(), **SHORT)["drift"]["test_accuracy_change"] == 0.0


def test_a_fail_keeps_the_request_open_and_its_receipt_stays_beside_a_later_pass(opened, bank, monkeypatch):
    monkeypatch.setattr(measuring, "informing", lambda *_: [])  # what does not decide takes longer than all the rest
    monkeypatch.setattr(swapping, "names", lambda *_: ())
    ledger = opened(max_drop=1.0)
    made = ledger.request(WRONG, reason="mislabel")
    failed = ledger.run(COLLAPSE, **SHORT)
    assert (failed["verdict"], failed["adopted"], failed["seq"]) == ("FAIL", False, 1)
    found = ledger.status()
    assert [(one["state"], one["verdict"]) for one in found["requests"]] == [("failed", "FAIL")]
    assert found["waiting"] == 1 and found["model"] is None
    first = ledger.receipt(1)
    done = ledger.run(recipes.Retrain(plan=PLAN), tier="T1", oracles=8, bank=bank.directory, seed=3)
    assert (done["verdict"], done["adopted"], done["seq"]) == ("PASS", True, 2)
    assert [(one["state"], one["verdict"], one["runs"]) for one in ledger.status()["requests"]] == [
        ("answered", "PASS", [1, 2])
    ]
    assert ledger.receipt(1) == first and ledger.receipt(made.id)["seq"] == 2
    assert ledger.receipt(2)["model_before"] == first["model_before"]  # a network that failed is nothing to begin with
    assert verify.receipt_faults(ledger.receipt(2)) == [] and sound(ledger) == []
    numbers = json.loads((ledger.directory / "runs" / "0002" / "audit.json").read_text())
    assert numbers["controls"] == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}


def test_a_later_run_is_audited_beside_the_original_and_not_beside_the_network_in_use(opened, monkeypatch):
    ledger, seen = opened(max_drop=1.0), []

    def watched(unlearned, split, *, original, real=answering.audit, **options):
        seen.append((unlearned, original))
        return real(unlearned, split, original=original, **options)

    monkeypatch.setattr(answering, "audit", watched)
    for row in (3, 11):
        ledger.request([row])
        ledger.run(recipes.DEL(epochs=1), **SHORT)
    assert [original is ledger.subject.model for _, original in seen] == [True, True]
    first, second = (one.mask for one, _ in seen)
    assert (second | first).num_selected == second.num_selected >= first.num_selected
    assert [run["verdict"] for run in ledger.status()["runs"]] == ["INCONCLUSIVE", "INCONCLUSIVE"]


def test_the_network_of_an_earlier_run_may_be_removed_and_the_life_goes_on(opened):
    ledger = opened(max_drop=1.0)
    for row in (3, 11):
        ledger.request([row])
        ledger.run(recipes.DEL(epochs=1), **SHORT)
    first, second = (ledger.directory / "runs" / name for name in ("0001", "0002"))
    for name in ("model.safetensors", "patch.safetensors"):
        (first / name).unlink()
    ledger.request([19])
    done = ledger.run(recipes.DEL(epochs=1), **SHORT)
    assert done["adopted"] and (second / "model.safetensors").is_file()
    assert [one.outcome for one in ledger.replay([recipes.DEL(epochs=1)])] == ["valid"] * 3


def test_without_the_original_the_life_goes_on_and_drift_is_not_known(ledger):
    ledger.request([3])
    ledger.run(Finetune(epochs=1), **SHORT)
    in_use = network_in(ledger.directory / "runs" / "0001")
    later = Ledger(ledger.directory, in_use, TRAIN, test=TEST, plan=PLAN, fresh=make)
    later.request([11])
    done = later.run(Finetune(epochs=1), **SHORT)
    assert done["drift"]["distance"] is None and done["seq"] == 2


def test_a_seed_that_differs_makes_another_network(opened):
    digests = set()
    for seed in (0, 1):
        ledger = opened(str(seed))
        ledger.request([3])
        ledger.run(Finetune(epochs=1), seed=seed, **SHORT)
        digests.add(ledger.receipt(1)["model_after"])
    assert len(digests) == 2
