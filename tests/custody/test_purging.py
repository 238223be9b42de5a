"""What may go goes, all else stays, the record tells it; and a purge that was killed anywhere finishes when given again."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from excise import errors, store
from excise.custody import Finding, Wish, decide, find_copies, purge
from excise.custody.purging import LIST, origin, recorded_digest, require_quarantine
from excise.oracles import Bank, Trained
from tests.cli.project import tree
from tests.custody.removal import DATA, FORGET, RETAIN, plant_innocents, removal, saved

OWN = ("checkpoints/checkpoint-x.safetensors", "last-finite.safetensors", "rows.json", ".run.json.0123456789ab.tmp")
RELEASED = {"run.json", "model.safetensors", "mask.safetensors", "patch.safetensors", "audit.json", "report.html"}


def left_about(root, *, innocents=True):
    """Give a removal with leftovers of its own, a bank, and a project with copies, innocents and a link."""
    made = removal(root)
    (made.run / "checkpoints").mkdir()
    for name in (*OWN, "audit.json", "report.html"):
        (made.run / name).write_bytes(f"content of {name}".encode())
    bank = Bank(root / "bank", data=DATA)
    told = {"architecture": "A", "num_parameters": 3, "created": None}
    trained = Trained(0, {"weight": torch.zeros(3)}, 1.0, 60)
    bank.keep("1" * 64, trained, kind="original", num_rows=200, **told)
    bank.keep("2" * 64, trained, kind="oracle", num_rows=len(RETAIN), rows=RETAIN, **told)
    bank.keep("3" * 64, trained, kind="oracle", num_rows=len(RETAIN), **told)
    training = bank.directory / f".training-{'4' * 64}"
    training.mkdir()
    (training / "checkpoint-x.safetensors").write_bytes(b"x")
    (bank.directory / f".training-{'5' * 64}").mkdir()
    project = root / "project"
    project.mkdir()
    if innocents:
        plant_innocents(made, project)
    saved(project / "state.pt", made.original.state_dict())
    (project / "ids.txt").write_text(" ".join(map(str, FORGET.tolist())))
    (project / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (project / "latest").symlink_to(made.weights)
    return made, bank, project


@pytest.fixture
def about(tmp_path):
    return left_about(tmp_path)


def purged(about, wish, apart=()):
    made, bank, _ = about
    traced = made.traced()
    decided = decide(find_copies(traced, wish.places, bank, apart=apart), traced, wish)
    return purge(decided, traced, wish, bank)


def gone(before, root):
    """Give the files that are no longer there, by their place below the root; nothing else may have changed but records."""
    after = tree(root)
    kept = {name: value for name, value in before.items() if name in after}
    changed = {name for name, value in kept.items() if after[name] != value}
    assert {Path(name).name for name in changed} <= {"run.json"}, changed
    return {name for name in before if name not in after}


OF_EXCISE = {f"run/{name}" for name in OWN} | {
    "run/checkpoints",
    f"bank/{'1' * 64}.safetensors",
    f"bank/.training-{'5' * 64}",
}


def test_unasked_only_what_is_excises_own_goes(about, tmp_path):
    before = tree(tmp_path)
    done, troubles = purged(about, Wish(places=[tmp_path / "project"]))
    assert troubles == [] and gone(before, tmp_path) == OF_EXCISE
    assert {path.name for path in about[0].run.iterdir()} == RELEASED
    assert len(done) == len(OF_EXCISE) - 2  # two were folders, one of them empty
    assert [entry.kind for entry in about[1].entries()] == ["oracle", "oracle", "unfinished"]


def test_with_remove_what_lies_in_the_places_goes_too_and_a_link_is_not_followed(about, tmp_path):
    before = tree(tmp_path)
    _, troubles = purged(about, Wish(places=[tmp_path / "project"], remove=True))
    assert troubles == []
    assert gone(before, tmp_path) == OF_EXCISE | {"project/state.pt", "project/ids.txt", "project/latest"}
    assert about[0].weights.is_file() and (tmp_path / "project" / "net.h5").is_file()


def test_the_original_goes_only_where_its_place_is_named(about, tmp_path):
    purged(about, Wish(places=[tmp_path / "project"], remove=True))
    assert about[0].weights.is_file()
    purged(about, Wish(places=[about[0].weights], remove=True))
    assert not about[0].weights.exists()


def test_what_is_to_be_kept_stays(about, tmp_path):
    before = tree(tmp_path)
    keep = [tmp_path / "project" / "state.pt", tmp_path / "bank", about[0].run / "last-finite.safetensors"]
    purged(about, Wish(places=[tmp_path], remove=True, keep=keep))
    missing = gone(before, tmp_path)
    assert "project/ids.txt" in missing and "original/w.safetensors" in missing
    assert not missing & {"project/state.pt", "run/last-finite.safetensors", f"bank/{'1' * 64}.safetensors"}
    kept = {entry["what"]: entry["why"] for entry in store.read_record(about[0].run)["kept"]}
    assert kept["the original network"] == "kept as asked"


def test_what_the_run_released_stays_whatever_is_said_of_it(about):
    """A finding that names it would be a mistake, and nothing is taken away by one."""
    traced = about[0].traced()
    for name in RELEASED:
        path = about[0].run / name
        digest = store.file_digest(path)
        mistake = Finding(path=str(path), what="a copy", why="", certainty="sure", sha256=digest, num_bytes=1, own=True)
        (decided,) = decide([mistake], traced, Wish(places=[about[0].run], remove=True))
        assert (decided.how, decided.why) == (None, "part of what the run released")


def test_a_quarantine_holds_every_byte_under_its_hash_for_its_owner_alone(about, tmp_path):
    hidden = tmp_path / "hidden"
    (tmp_path / "project" / "again.pt").write_bytes((tmp_path / "project" / "state.pt").read_bytes())
    content = {name: (tmp_path / "project" / name).read_bytes() for name in ("state.pt", "again.pt", "ids.txt")}
    before = tree(tmp_path)
    _, troubles = purged(about, Wish(places=[tmp_path / "project"], quarantine=hidden))
    assert troubles == []
    moved = {"project/state.pt", "project/again.pt", "project/ids.txt", "project/latest"}
    assert gone(before, tmp_path) == OF_EXCISE | moved
    text = (hidden / LIST).read_text()
    assert str(tmp_path) not in text and not any(name in text for name in content)
    listed = {origin(one).name: one for one in store.read_json(hidden / LIST)}
    assert listed.keys() == content.keys()
    for name, one in listed.items():
        assert (hidden / one["sha256"]).read_bytes() == content[name]
    assert {path.name for path in hidden.iterdir()} == {LIST, *(one["sha256"] for one in listed.values())}
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in hidden.iterdir()} == {0o600}


def test_the_record_tells_what_was_done_and_confirms_no_guess_of_a_list(about, tmp_path):
    made, _, project = about
    digests = {
        name: store.file_digest(path) for name, path in (("state", project / "state.pt"), ("ids", project / "ids.txt"))
    }
    files = store.read_record(made.run)["files"]
    purged(about, Wish(places=[project], remove=True))
    text = (made.run / "run.json").read_text()
    record = store.read_record(made.run)
    entries = {entry["what"]: entry for entry in record["purged"]}
    assert record["files"] == files and "purging" not in record
    assert entries["a network trained on all rows"]["how"] == "removed"
    assert f"sha256:{digests['state']}" in [entry["sha256"] for entry in record["purged"]]
    listed = entries["a list of the forgotten rows"]["sha256"]
    assert listed.startswith("hmac-sha256:") and digests["ids"] not in text
    assert all(entry.keys() == {"sha256", "what", "certainty", "when", "how"} for entry in record["purged"])
    assert all(entry.keys() == {"sha256", "what", "certainty", "when", "why"} for entry in record["kept"])
    assert str(project) not in text


def test_a_keyed_digest_is_another_under_another_key_and_a_plain_one_is_the_files(about, tmp_path, monkeypatch):
    found = find_copies(about[0].traced(), [tmp_path / "project"])
    plain = next(one for one in found if one.path.endswith("state.pt"))
    listed = next(one for one in found if one.path.endswith("ids.txt"))
    link = next(one for one in found if one.link)
    assert recorded_digest(plain) == f"sha256:{plain.sha256}" and recorded_digest(link) == ""
    first = recorded_digest(listed)
    assert first == recorded_digest(listed)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    assert recorded_digest(listed) != first


@pytest.mark.parametrize("quarantine", [False, True])
def test_given_again_it_does_nothing_and_writes_nothing(about, tmp_path, quarantine):
    hidden = tmp_path / "hidden" if quarantine else None
    wish = Wish(places=[tmp_path / "project"], remove=not quarantine, quarantine=hidden)
    purged(about, wish, apart=[hidden] if hidden else [])
    before = tree(tmp_path)
    assert purged(about, wish, apart=[hidden] if hidden else []) == ([], [])
    after = tree(tmp_path)
    assert {name: value for name, value in after.items() if value is not None} == {
        name: value for name, value in before.items() if value is not None
    }


def killed_at(number, work):
    """Do some work in another process, which ends before its n-th change of the disk; say whether it lived to the end."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    left = [number]

    def counted(real):
        def call(*words, **more):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return real(*words, **more)

        return call

    try:
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_before_any_change_of_the_disk_and_given_again_it_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a process that ends loses nothing that it has written
    ends, alive = [], False
    while not alive:
        root = tmp_path / str(len(ends))
        root.mkdir()
        about, hidden = left_about(root, innocents=False), root / "hidden"
        wish = Wish(places=[root / "project"], quarantine=hidden)
        alive = killed_at(len(ends), lambda: purged(about, wish, [hidden]))  # noqa: B023 - called at once
        announced = (about[0].run / "run.json").read_text()
        assert str(root / "project") not in announced  # names of files may name people
        assert purged(about, wish, [hidden])[1] == []
        record = store.read_record(about[0].run)
        assert "purging" not in record
        told = {(entry["what"], entry["how"]) for entry in record["purged"]}  # a set: the kill leaves temporary names
        ends.append((sorted(tree(root)), told, sorted(entry["what"] for entry in record["kept"])))
    assert len(ends) >= 15
    for one in ends:
        assert one == ends[0]


def test_a_file_that_was_changed_since_it_was_looked_at_stays(about, tmp_path):
    made, bank, project = about
    wish = Wish(places=[project], remove=True)
    traced = made.traced()
    decided = decide(find_copies(traced, wish.places, bank), traced, wish)
    (project / "state.pt").write_bytes(b"something else")
    (project / "ids.txt").unlink()
    done, troubles = purge(decided, traced, wish)
    assert len(troubles) == 1 and "state.pt: it was changed since it was looked at" in troubles[0].told
    assert troubles[0].exit_code == 3
    assert (project / "state.pt").read_bytes() == b"something else"
    assert "state.pt" not in {Path(one.finding.path).name for one in done}


def test_what_cannot_be_removed_is_told_and_the_rest_goes_on(about, tmp_path, monkeypatch):
    remove = store.remove

    def fail(path):
        if path.name == "state.pt":
            raise errors.DiskError(f"could not remove {path}: Permission denied")
        remove(path)

    monkeypatch.setattr(store, "remove", fail)
    _, troubles = purged(about, Wish(places=[tmp_path / "project"], remove=True))
    assert len(troubles) == 1 and "Permission denied" in troubles[0].told and troubles[0].exit_code == 5
    assert not (tmp_path / "project" / "ids.txt").exists()
    recorded = [entry["sha256"] for entry in store.read_record(about[0].run)["purged"]]
    assert f"sha256:{store.file_digest(tmp_path / 'project' / 'state.pt')}" not in recorded


def test_rows_that_the_record_lists_go_from_the_record_too(about):
    run = about[0].run
    store.amend_record(run, {"rows.json": b"[1]"})
    purged(about, Wish())
    assert "rows.json" not in store.read_record(run)["files"] and not (run / "rows.json").exists()


def test_a_copy_in_quarantine_that_is_not_what_it_was_is_written_again(about, tmp_path):
    hidden, path = tmp_path / "hidden", tmp_path / "project" / "state.pt"
    digest, content = store.file_digest(path), path.read_bytes()
    store.write_bytes(hidden / digest, b"half of it")
    purged(about, Wish(places=[path], quarantine=hidden))
    assert (hidden / digest).read_bytes() == content and not path.exists()


def test_a_quarantine_that_does_not_keep_what_is_written_loses_nothing(about, tmp_path, monkeypatch):
    write = store.write_bytes
    monkeypatch.setattr(store, "write_bytes", lambda path, content: write(path, bytes(content)[:-1]))
    path = tmp_path / "project" / "state.pt"
    _, troubles = purged(about, Wish(places=[path], quarantine=tmp_path / "hidden"))
    assert "is not what it was; the file was left where it is" in troubles[0].told and path.is_file()


def test_a_quarantine_is_for_its_owner_alone_and_not_in_the_run(about, tmp_path):
    run = about[0].run
    with pytest.raises(errors.BadRequest, match=r"--quarantine: .*lies in the run directory"):
        require_quarantine(run / "hidden", run)
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(errors.BadRequest, match=r"--quarantine: others may look into .*chmod 700"):
        require_quarantine(tmp_path / "open", run)
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.BadRequest, match="--quarantine: expected a folder, found something else at"):
        require_quarantine(tmp_path / "file", run)
    require_quarantine(tmp_path / "new", run)


def test_a_quarantine_holds_no_place_no_run_and_no_bank_and_lies_in_none(about, tmp_path, monkeypatch):
    made, bank, project = about
    (tmp_path / "outer").mkdir(mode=0o700)
    (tmp_path / "outer" / "place").mkdir()
    for here, names in ((tmp_path, (".", "")), (project, ("..",))):
        monkeypatch.chdir(here)
        for name in names:
            with pytest.raises(
                errors.BadRequest, match=r"--quarantine: .* holds .*run, .*; choose a folder of its own"
            ):
                require_quarantine(Path(name), made.run)
    with pytest.raises(errors.BadRequest, match=r"outer holds .*place, and what is put aside is not looked into"):
        require_quarantine(tmp_path / "outer", made.run, [tmp_path / "outer" / "place"], bank)
    with pytest.raises(errors.BadRequest, match=r"--quarantine: .* lies in the bank"):
        require_quarantine(bank.directory / "aside", made.run, [], bank)
    require_quarantine(tmp_path / "outer" / "place" / "new", made.run, [tmp_path / "outer" / "place"], bank)


def test_what_is_to_be_kept_and_is_not_there_is_refused(about, tmp_path):
    with pytest.raises(errors.BadRequest, match=r"--keep: expected a folder or a file, found nothing at .*stat.pt"):
        Wish(places=[tmp_path / "project"], remove=True, keep=[tmp_path / "project" / "stat.pt"])
    Wish(keep=[tmp_path / "project" / "latest"])  # a link is kept by its own name


@pytest.mark.parametrize("name", ["purging", "purged", "kept"])
@pytest.mark.parametrize("value", [{}, "x", [1], [{"sha256": [1]}], 0])
def test_sections_of_the_record_that_are_of_another_form_are_told_before_anything_goes(about, tmp_path, name, value):
    held = store.read_sealed(about[0].run / "run.json")
    store.write_sealed(about[0].run / "run.json", {**held, name: value})
    before = tree(tmp_path / "project"), tree(tmp_path / "bank")
    with pytest.raises(errors.Corrupt, match=rf"is not a record that this version can read: '{name}'.*from a backup"):
        purged(about, Wish(places=[tmp_path / "project"], remove=True))
    assert (tree(tmp_path / "project"), tree(tmp_path / "bank")) == before


def test_an_announced_file_without_a_place_is_told(about):
    held = store.read_sealed(about[0].run / "run.json")
    store.write_sealed(about[0].run / "run.json", {**held, "purging": [{"sha256": ""}]})
    with pytest.raises(errors.Corrupt, match="'purging' names no file; take it from a backup"):
        purged(about, Wish())


def test_a_name_that_is_no_utf8_is_put_aside_and_given_back(about, tmp_path):
    path = tmp_path / "project" / os.fsdecode(b"bad\xff.npy")
    with path.open("wb") as file:
        np.save(file, FORGET.numpy())
    hidden = tmp_path / "hidden"
    _, troubles = purged(about, Wish(places=[path], quarantine=hidden))
    (entry,) = store.read_json(hidden / LIST)
    assert troubles == [] and origin(entry) == path and not path.exists()


def test_a_file_that_became_a_pipe_since_it_was_looked_at_stays(about, tmp_path):
    made, bank, project = about
    wish = Wish(places=[project / "state.pt"], remove=True)
    decided = decide(find_copies(made.traced(), wish.places, bank), made.traced(), wish)
    (project / "state.pt").unlink()
    os.mkfifo(project / "state.pt")
    assert "it was changed since it was looked at" in purge(decided, made.traced(), wish)[1][0].told


def test_where_a_file_came_from_is_read_with_the_key_alone(about, tmp_path, monkeypatch):
    hidden = tmp_path / "hidden"
    purged(about, Wish(places=[tmp_path / "project" / "state.pt"], quarantine=hidden))
    (entry,) = store.read_json(hidden / LIST)
    assert origin(entry) == tmp_path / "project" / "state.pt"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    with pytest.raises(errors.BadRequest, match="cannot be read with it"):
        origin(entry)


def test_two_wishes_at_once_are_refused(tmp_path):
    with pytest.raises(errors.BadRequest, match="expected one of --remove and --quarantine DIR, found both"):
        Wish(remove=True, quarantine=tmp_path)


def test_a_run_that_is_in_use_is_not_purged(about, tmp_path):
    before = tree(tmp_path / "project")
    with store.lock(about[0].run), pytest.raises(errors.InUse, match="is in use by"):
        purged(about, Wish(places=[tmp_path / "project"], remove=True))
    assert tree(tmp_path / "project") == before
