"""What other runs and ledgers released, or began with, is told of, and does not go with the copies."""

import pytest

from excise import errors, store
from excise.custody import Traced, Wish, decide, find_copies, purge
from excise.custody.claims import is_paper
from excise.custody.lives import PAPERS
from excise.custody.purging import RELEASED_ELSEWHERE
from tests.custody.removal import FORGET, moved, removal
from tests.custody.test_lives import life_of, run_of


def other_run(made, folder, **more):
    """A run over the same original that forgot other rows, so that its network saw the ones in question."""
    after = moved(made.original, 9, 0.1)
    store.write_tensors(folder / "model.safetensors", after.state_dict())
    store.write_json(folder / "rows.json", FORGET.tolist())
    asked = {**store.read_record(made.run)["request"], "forget_commitment": store.commitment(FORGET + 1), **more}
    store.RunDirectory(folder, asked).complete(["model.safetensors", "rows.json"], {})
    return folder / "model.safetensors"


def found_at(path, traced, places):
    (one,) = [one for one in find_copies(traced, places) if one.path == str(path)]
    return one


def done(traced, wish):
    return purge(decide(find_copies(traced, wish.places), traced, wish), traced, wish)


def test_what_another_run_released_stays_unless_it_is_asked_for_and_then_its_record_stays_true(made, tmp_path):
    path = other_run(made, tmp_path / "other")
    traced = made.traced()
    assert found_at(path, traced, [tmp_path]).released_by == str(path.parent)
    assert (
        found_at(path.parent / "rows.json", traced, [tmp_path]).released_by == ""
    )  # what an audit leaves of single rows
    wish = Wish(places=[path], remove=True)
    assert done(traced, wish) == ([], []) and path.is_file()
    assert [one["why"] for one in store.read_record(made.run)["kept"] if one["why"] == RELEASED_ELSEWHERE]
    assert str(path.parent) not in (made.run / "run.json").read_text()
    gone, troubles = done(traced, Wish(places=[path], remove=True, also_released=True))
    assert troubles == [] and [one.finding.path for one in gone] == [str(path)] and not path.exists()
    assert store.read_record(path.parent)["files"].keys() == {"rows.json"}


def test_other_bytes_under_the_name_of_a_released_file_are_a_copy_like_any(made, tmp_path):
    path = other_run(made, tmp_path / "other")
    path.write_bytes(made.weights.read_bytes())
    assert found_at(path, made.traced(), [tmp_path]).released_by == ""


def test_a_link_to_what_another_run_released_stays_too(made, tmp_path):
    path = other_run(made, tmp_path / "other")
    (tmp_path / "latest").symlink_to(path)
    traced, wish = made.traced(), Wish(places=[tmp_path / "latest", path], remove=True)
    assert done(traced, wish) == ([], []) and (tmp_path / "latest").is_symlink()


def test_a_run_that_is_damaged_or_in_use_loses_nothing_more(made, tmp_path):
    path = other_run(made, tmp_path / "other")
    traced, wish = made.traced(), Wish(places=[path], remove=True, also_released=True)
    with store.lock(path.parent):
        assert [one.exit_code for one in done(traced, wish)[1]] == [errors.InUse.exit_code]
    (path.parent / "rows.json").write_text("[1]")
    assert [one.exit_code for one in done(traced, wish)[1]] == [errors.Corrupt.exit_code]
    assert path.is_file()


def test_networks_of_another_ledger_stay_and_its_original_is_told_to_be_needed(tmp_path):
    directory, original = life_of(tmp_path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    made = removal(other)
    store.write_tensors(made.weights, original.state_dict(), {"note": "another file"})
    asked = {"weights": str(made.weights), "weights_sha256": store.file_digest(made.weights)}
    record = store.read_record(made.run)
    store.write_sealed(made.run / "run.json", {**record, "request": {**record["request"], **asked}})
    traced = made.traced()
    found = {one.path: one for one in find_copies(traced, [tmp_path])}
    for number in (2, 3):  # the first is, by its seed, what this run released
        path = run_of(directory, number) / "model.safetensors"
        assert found[str(path)].released_by == str(path.parent)
    assert found[str(tmp_path / "w.safetensors")].needed_by == str(directory)
    assert found[str(made.weights)].needed_by == str(made.run)
    assert not {path.rpartition("/")[2] for path in found} & set(PAPERS)
    done(traced, Wish(places=[tmp_path], remove=True, keep=[tmp_path / "w.safetensors"]))
    for number in (1, 2, 3):
        assert store.read_record(run_of(directory, number))["files"].keys() >= {
            "model.safetensors",
            "patch.safetensors",
        }


def test_the_original_of_a_ledger_is_needed_by_it_under_its_name_wherever_it_lies_now(tmp_path):
    directory, _ = life_of(tmp_path)
    traced = Traced.of(run_of(directory, 1))
    assert found_at(tmp_path / "w.safetensors", traced, [tmp_path]).needed_by == str(directory)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes())
    assert found_at(tmp_path / "moved" / "w.safetensors", traced, [tmp_path]).needed_by == ""  # a copy like any
    (tmp_path / "moved" / "other.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes())
    (tmp_path / "w.safetensors").rename(tmp_path / "moved" / "w.safetensors")
    traced = Traced.of(run_of(directory, 1))
    assert found_at(tmp_path / "moved" / "w.safetensors", traced, [tmp_path]).needed_by == str(directory)
    assert found_at(tmp_path / "moved" / "other.safetensors", traced, [tmp_path]).needed_by == ""


@pytest.mark.parametrize("name", [*PAPERS, "book.sqlite-wal", "book.sqlite-shm"])
def test_a_ledgers_own_files_are_papers_where_another_of_them_lies_and_not_elsewhere(tmp_path, name):
    life_of(tmp_path)
    (tmp_path / "life" / name).touch()
    (tmp_path / name).touch()
    assert is_paper(tmp_path / "life" / name) and not is_paper(tmp_path / name)
    assert not is_paper(tmp_path / "life" / "ids.npy")


def test_the_weights_of_a_run_that_were_moved_are_told_by_their_name_and_hash(made, tmp_path):
    (tmp_path / "moved").mkdir()
    made.weights.rename(tmp_path / "moved" / "w.safetensors")
    found = found_at(tmp_path / "moved" / "w.safetensors", made.traced(), [tmp_path])
    assert found.needed_by == str(made.run)
    with (tmp_path / "moved" / "w.safetensors").open("ab") as file:
        file.write(b" ")
    assert found_at(tmp_path / "moved" / "w.safetensors", made.traced(), [tmp_path]).needed_by == ""


def test_what_is_no_record_claims_nothing(made, tmp_path):
    path = other_run(made, tmp_path / "other")
    (path.parent / "run.json").write_text("{}")
    (tmp_path / "other" / "book.sqlite").write_bytes(b"no book")
    found = found_at(path, made.traced(), [tmp_path])
    assert (found.released_by, found.needed_by) == ("", "")
    other_run(made, tmp_path / "tuned", command="localize")
    assert found_at(made.weights, made.traced(), [tmp_path]).needed_by == str(made.run)
