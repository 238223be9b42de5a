"""Disks that fail at the n-th call, or are full: the command says so, nothing is damaged, and it is given again."""

import errno

import pytest

from excise import errors
from tests.crash.failing import fail_at, fill_up
from tests.crash.pictures import damaged
from tests.crash.project import COMMANDS
from tests.crash.server import run
from tests.crash.shim import CODES, NONE_FAILS, Failure, Shim

PARTS = {
    "unlearn": (0.0, 0.3, 0.6, 0.97),
    "look": (0.2, 0.9),
    "report": (0.0, 0.5),
    "purge": (0.4,),
    "ledger": (0.1, 0.5, 0.9),
}
"""Which calls that change the disk fail here, as parts of all; `python -m benchmarks.soak` has each of them fail."""


@pytest.mark.parametrize("name", PARTS)
def test_whichever_call_fails_it_is_told_and_the_command_given_again_ends_as_it_should(stages, tmp_path, name):
    stages.after(name)
    for place, part in enumerate(PARTS[name]):
        failure = Failure(1 + int(part * stages.calls[name]), CODES[(place + len(name)) % 3], lasting=place % 2 == 1)
        assert fail_at(stages, name, tmp_path / "trial", failure), failure


@pytest.mark.parametrize(("name", "most_bytes"), [("unlearn", 1500), ("look", 9000), ("ledger", 5000)])
def test_a_full_disk_is_told_with_the_file_and_its_size_and_leaves_all_as_it_was(stages, tmp_path, name, most_bytes):
    assert fill_up(stages, name, tmp_path / "trial", most_bytes)


def test_a_disk_that_is_only_large_enough_is_no_failure(stages, tmp_path):
    assert not fill_up(stages, "look", tmp_path / "trial", 1 << 20)


def test_the_numbers_of_an_earlier_audit_are_never_lost_to_a_later_one(stages, tmp_path):
    earlier = (stages.after("audit").work / "run" / "audit.json").read_bytes()
    stages.after("look")
    for back in (4, 15):  # from the end: between the numbers, the page and the record
        place = stages.after("audit").copied_to(tmp_path / "trial")
        shim = Shim(Failure(stages.calls["look"] + 5 - back, errno.EIO, lasting=True))
        assert run(place, COMMANDS["look"].steps(place), before=shim.install).code == errors.DiskError.exit_code
        held = [path.read_bytes() for path in (place.work / "run").glob("audit*.json")]
        assert earlier in held and damaged(place) == []
        assert run(place, COMMANDS["look"].steps(place)).code == 0
        kept = [path for path in (place.work / "run").glob("audit-*.json") if path.name != "audit-plan.json"]
        assert [path.read_bytes() for path in kept] == [earlier]


def test_every_call_is_counted_and_only_the_one_that_is_to_fail_fails(stages, tmp_path):
    def outcome(failure):
        place, shim = stages.before("report").copied_to(tmp_path / "trial"), Shim(failure)
        return run(place, COMMANDS["report"].steps(place), before=shim.install).code, shim.calls, shim.failed

    stages.after("report")
    most = stages.calls["report"]
    assert outcome(NONE_FAILS) == (0, most, 0) and most > 2  # the lock at least is opened and taken away
    assert outcome(Failure(most + 1, errno.EIO)) == (0, most, 0)
    code, calls, failed = outcome(Failure(1, errno.EIO, lasting=True))
    assert code == errors.DiskError.exit_code and failed == calls >= 1
