"""What a ledger's book says of a run, told on a book that was written by hand."""

import pytest
import torch

from excise import errors, params, store
from excise.custody import Traced, Wish, decide, find_copies, purge
from excise.custody.lives import BOOK, PAPERS, RUNS, LedgerRun
from excise.ledger.book import Book
from excise.ledger.entries import Life, Request
from excise.lifecycle import papers
from excise.oracles import Bank, Trained
from tests.custody.removal import DATA, FORGET, NUM_ROWS, RETAIN, moved, network, saved

OTHERS = torch.arange(5, 45, 10)
NETWORKS = ("model.safetensors", "patch.safetensors")


def life_of(root, verdicts=("PASS", "PASS", "PASS")):
    """Write a ledger with runs over ten rows, four, and four others; give its directory and the original network."""
    original, directory = network(), root / "life"
    store.write_tensors(root / "w.safetensors", original.state_dict())
    life = Life(
        opened="2026-01-01T00:00:00Z",
        original=params.model_digest(original),
        manifest_root="sha256:0",
        num_rows=NUM_ROWS,
        key_id="k-0",
        max_drop=0.1,
        due_days=30,
        test_accuracy=0.9,
        words={"weights": str(root / "w.safetensors")},
    )
    Book.create(directory / BOOK, life).close()
    for name in ("receipts.jsonl", "manifest.bin"):
        store.write_bytes(directory / name, b"{}\n" * len(FORGET))
    with Book(directory / BOOK) as book:
        for number, (count, verdict) in enumerate(zip((len(FORGET), 4, 4), verdicts, strict=False), 1):
            told = {"received": "", "due": "", "reason": "erasure", "state": "open", "root": "", "key_id": "k-1"}
            book.add(
                Request(id=f"request {number}", num_rows=count, **told), [bytes([number, at]) for at in range(count)]
            )
            run = book.begin(f"run {number}", "", {})
            adopted = verdict == "PASS"
            book.finish(run.number, seq=number, receipt=str(number), found={"adopted": adopted}, answered=adopted)
            where = directory / RUNS / f"{number:04d}"
            after = moved(original, number, 0.3)
            for name in NETWORKS:
                store.write_tensors(where / name, after.state_dict())
            store.write_json(where / "audit.json", [0] * len(FORGET))
            asked = {"command": "ledger", "run": f"run {number}", "data_commitment": f"{DATA} {number}"}
            store.RunDirectory(where, asked).complete([*NETWORKS, "audit.json"], {})
    return directory, original


def run_of(directory, number):
    return directory / RUNS / f"{number:04d}"


def test_a_run_knows_its_counts_its_original_and_whether_others_were_forgotten_before(tmp_path):
    directory, original = life_of(tmp_path)
    first, second = (Traced.of(run_of(directory, number)) for number in (1, 2))
    assert (first.rows.num_rows, first.rows.num_forget, second.rows.num_forget) == (NUM_ROWS, len(FORGET), 4)
    assert params.digest(first.network.before) == first.network.before_digest == params.model_digest(original)
    assert (first.ledger.num_before, second.ledger.num_before, second.ledger.in_use) == (0, len(FORGET), 3)
    assert (first.num_retained, second.num_retained) == (len(RETAIN), len(RETAIN) - 4)
    assert first.data == {f"{DATA} 1"} and second.data == {f"{DATA} 1", f"{DATA} 2"}
    assert not first.rows.are_forgotten(FORGET) and first.retained == ""
    told = Traced.of(run_of(directory, 1), FORGET)
    assert told.rows.are_forgotten(FORGET) and not told.rows.are_forgotten(OTHERS)
    assert told.retained == store.commitment(RETAIN)
    assert Traced.of(run_of(directory, 2), OTHERS).retained == ""  # what the first run forgot is not retained either


def test_its_names_are_the_ledgers_own(tmp_path):
    assert set(PAPERS) == {papers.BOOK, papers.RECEIPTS, papers.MANIFEST} and (BOOK, RUNS) == (papers.BOOK, papers.RUNS)


def test_an_original_that_is_gone_or_another_is_none(tmp_path):
    directory, _ = life_of(tmp_path)
    store.write_tensors(tmp_path / "w.safetensors", network(3).state_dict())
    assert Traced.of(run_of(directory, 1)).network.before is None
    (tmp_path / "w.safetensors").unlink()
    found = Traced.of(run_of(directory, 1))
    assert found.network.before is None and found.asked.weights_sha256 == "" != found.network.before_digest


def found_in(directory, number, forget=None):
    found = find_copies(Traced.of(run_of(directory, number), forget), [directory])
    return {str(one.path).removeprefix(f"{directory}/") for one in found if one.path.startswith(str(directory))}


def test_networks_of_earlier_runs_are_copies_and_what_the_life_goes_on_with_is_not(tmp_path):
    directory, _ = life_of(tmp_path)
    assert found_in(directory, 1) == set()
    assert found_in(directory, 2) == {f"runs/0001/{name}" for name in NETWORKS}
    assert found_in(directory, 3) == {f"runs/000{run}/{name}" for run in (1, 2) for name in NETWORKS}
    saved(run_of(directory, 3) / "best.pt", network().state_dict())
    assert found_in(directory, 1) == {"runs/0003/best.pt"}


def test_the_network_in_use_stays_whatever_it_saw(tmp_path):
    directory, _ = life_of(tmp_path, ("PASS", "FAIL", "FAIL"))
    assert found_in(directory, 3) == {f"runs/0002/{name}" for name in NETWORKS}


def test_networks_of_a_bank_are_told_by_the_data_of_this_run_and_those_before(tmp_path):
    directory, _ = life_of(tmp_path)
    trained = Trained(0, {"weight": torch.zeros(3)}, 1.0, 60)
    told = {"architecture": "A", "num_parameters": 3, "num_rows": len(RETAIN)}
    for number, kind, rows in ((1, "original", RETAIN), (1, "oracle", RETAIN), (3, "original", OTHERS)):
        key = f"{number}{kind[-1]}".encode().hex().ljust(64, "0")
        Bank(tmp_path / "bank", data=f"{DATA} {number}").keep(key, trained, kind=kind, rows=rows, **told)

    def told_of(number, forget=None):
        found = find_copies(Traced.of(run_of(directory, number), forget), [], Bank(tmp_path / "bank"))
        return sorted((one.certainty, one.what.removeprefix("a network trained ")) for one in found if one.own)

    other, whole = ("unknown", "on other data"), ("likely", "on all rows")
    assert told_of(1, FORGET) == [whole, other]  # the oracle is of what this run retained
    assert told_of(1) == [whole, other, ("unknown", "without some rows")]
    assert told_of(2) == told_of(2, OTHERS) == [whole, ("likely", "on more rows than were retained"), other]
    assert told_of(3) == [whole, whole, ("likely", "on more rows than were retained")]


def test_what_is_purged_leaves_every_record_of_the_ledger_true(tmp_path):
    directory, _ = life_of(tmp_path)
    traced = Traced.of(run_of(directory, 2))
    wish = Wish(places=[directory], remove=True)
    done, troubles = purge(decide(find_copies(traced, [directory]), traced, wish), traced, wish)
    assert troubles == [] and len(done) == 2
    for number in (1, 2, 3):
        store.read_record(run_of(directory, number))
    assert store.read_record(run_of(directory, 1))["files"].keys() == {"audit.json"}
    assert len(store.read_record(run_of(directory, 2))["purged"]) == 2


def test_a_ledger_in_which_a_run_is_under_way_is_not_purged(tmp_path):
    directory, _ = life_of(tmp_path)
    traced = Traced.of(run_of(directory, 2))
    wish = Wish(places=[directory], remove=True)
    decided = decide(find_copies(traced, [directory]), traced, wish)
    with store.lock(directory), pytest.raises(errors.InUse, match="is in use by"):
        purge(decided, traced, wish)
    assert all((run_of(directory, 1) / name).is_file() for name in NETWORKS)


def test_ids_of_another_number_of_rows_are_refused(tmp_path):
    directory, _ = life_of(tmp_path)
    for ids, words in ((FORGET[:4], "found 4, the highest 60"), (FORGET + 100, "found 10, the highest 280")):
        with pytest.raises(
            errors.BadRequest, match=rf"expected the ids of the 10 rows \(of 200, .*{words}; give those"
        ):
            Traced.of(run_of(directory, 1), ids)


def test_a_run_that_is_not_in_its_ledger_is_refused(tmp_path):
    directory, _ = life_of(tmp_path)
    alone = tmp_path / "alone"
    run_of(directory, 1).rename(alone)
    with pytest.raises(
        errors.BadRequest, match=r"expected a run of `excise ledger` where its ledger keeps it.*alone; give"
    ):
        Traced.of(alone)
    alone.rename(run_of(directory, 7))
    with pytest.raises(errors.Corrupt, match=r"book.sqlite does not know the run in .*0007; put back both"):
        LedgerRun.of(run_of(directory, 7), store.read_record(run_of(directory, 7)))
