"""Commands killed anywhere: nothing is damaged or lost, and given again they end as if nobody had disturbed them."""

import random
import shutil
import signal

import pytest

from excise import store
from excise.store.generations import Generations
from tests.crash.killing import break_off, differing
from tests.crash.pictures import checked, damaged, picture
from tests.crash.project import COMMANDS
from tests.crash.server import run

KILLS = {"unlearn": 3, "audit": 1, "look": 1, "report": 1, "purge": 1, "tune": 1, "open": 1, "ledger": 2}
STOPS = [
    ("unlearn", signal.SIGTERM, 2),
    ("audit", signal.SIGTERM, 1),
    ("ledger", signal.SIGTERM, 1),
    ("tune", signal.SIGINT, 1),
]


@pytest.mark.parametrize("name", KILLS)
def test_what_is_killed_and_given_again_ends_as_if_nobody_had_disturbed_it(stages, tmp_path, name):
    draws = random.Random(f"kill {name}")
    for _ in range(KILLS[name]):
        break_off(stages, name, tmp_path / "trial", draws)


def test_a_run_killed_three_times_in_a_row_comes_to_its_end_too(stages, tmp_path):
    break_off(stages, "unlearn", tmp_path / "trial", random.Random(3), times=3)


@pytest.mark.parametrize(("name", "number", "times"), STOPS)
def test_a_signal_stops_a_command_within_seconds_and_given_again_it_goes_on(stages, tmp_path, name, number, times):
    draws = random.Random(f"stop {name}")
    for _ in range(times):
        break_off(stages, name, tmp_path / "trial", draws, number=number)


def test_a_process_that_is_killed_at_once_has_done_nothing_and_one_that_is_not_has_acknowledged_all(stages, tmp_path):
    place = stages.before("ledger").copied_to(tmp_path / "trial")
    killed = run(place, COMMANDS["ledger"].steps(place), number=signal.SIGKILL)
    assert (killed.code, killed.done) == (-signal.SIGKILL, 0)
    ended = run(place, COMMANDS["ledger"].steps(place))
    assert (ended.code, ended.done) == (0, len(COMMANDS["ledger"].steps(place)))


@pytest.mark.parametrize("name", ["unlearn", "look"])
def test_what_a_run_killed_after_the_last_of_its_work_has_left_goes_with_the_next(stages, tmp_path, name):
    place = stages.after(name).copied_to(tmp_path / "trial")
    run_directory = place.work / "run"
    (run_directory / ".run.json.0123456789ab.tmp").write_bytes(b"")
    (run_directory / store.LOCK).write_bytes(b"")
    if name == "unlearn":
        Generations(run_directory / store.CHECKPOINTS).keep({}, {})
    assert run(place, COMMANDS[name].steps(place)).code == 0
    assert not differing(picture(stages.after(name)), picture(place))


def test_what_killed_trainings_have_left_in_the_bank_goes_with_the_next_audit(stages, tmp_path):
    place = stages.before("audit").copied_to(tmp_path / "trial")
    bank = place.root / "cache" / "excise" / "bank"
    shutil.copytree(stages.after("audit").root / "cache" / "excise" / "bank", bank)
    kept = next(bank.glob("*.safetensors"))
    (bank / f".{kept.name}.0123456789ab.tmp").write_bytes(b"half")
    for name in (
        kept.stem,
        "0" * 64,
    ):  # of one that was kept just before the kill, and of one that nobody has asked for
        Generations(bank / f".training-{name}").keep({}, {})
    assert run(place, COMMANDS["audit"].steps(place)).code == 0
    shutil.rmtree(bank / f".training-{'0' * 64}")
    assert not differing(picture(stages.after("audit")), picture(place))


def test_two_undisturbed_runs_leave_the_same_and_a_picture_shows_what_is_not(stages, tmp_path):
    place = stages.before("look").copied_to(tmp_path / "trial")
    assert run(place, COMMANDS["look"].steps(place)).code == 0
    expected = picture(stages.after("look"))
    assert picture(place) == expected
    assert {one.state for one in checked(place)} == {"sound"}
    (place.work / "run" / ".run.json.0123456789ab.tmp").write_bytes(b"")
    model = place.work / "run" / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    numbers = store.read_json(place.work / "run" / "audit.json")
    store.write_json(place.work / "run" / "audit.json", {**numbers, "verdict": "PASS"})
    found = " ".join(differing(expected, picture(place)))
    for one in ("0123456789ab.tmp", "model.safetensors", "audit.json, verdict", "report.html"):
        assert (one in found) == (one != "report.html")
    assert [one.path.rpartition("/")[2] for one in damaged(place)] == ["audit.json", "model.safetensors"]
