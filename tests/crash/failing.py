"""The n-th call that changes the disk fails, in a process of its own; and a process that may write no long file."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from excise import store
from excise.errors import DiskError
from tests.crash.killing import differing
from tests.crash.pictures import damaged, picture
from tests.crash.project import COMMANDS, Stages
from tests.crash.server import Ended, Place, run
from tests.crash.shim import Failure, Shim


def fail_at(stages: Stages, name: str, root: Path, failure: Failure) -> bool:
    """Have one call of a command fail, look at what is left, give the command again; say whether there was such a call.

    Raises:
        AssertionError: a file is damaged, the command has not said what is wrong, or what comes of it in the end is not what
            it should be.
    """
    shim, place = Shim(failure), stages.before(name).copied_to(root)
    ended = run(place, COMMANDS[name].steps(place), before=shim.install)
    _require_told_and_sound(stages, name, place, ended, f"{name}, {failure}", failed=bool(shim.failed))
    return bool(shim.failed)


def fill_up(stages: Stages, name: str, root: Path, most_bytes: int) -> bool:
    """Let a command write no file longer than so many bytes, as on a disk that is full; say whether that was in its way."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    place = stages.before(name).copied_to(root)
    ended = run(place, COMMANDS[name].steps(place), before=limit)
    _require_told_and_sound(stages, name, place, ended, f"{name}, at most {most_bytes} bytes", failed=ended.code != 0)
    return ended.code != 0


def _require_told_and_sound(stages: Stages, name: str, place: Place, ended: Ended, where: str, *, failed: bool) -> None:
    where = f"{where}: {ended}"
    assert ended.code in ((DiskError.exit_code, 0) if failed else (0,)), where
    assert "Traceback" not in ended.err, where
    if ended.code:
        message = ended.err.strip().splitlines()[-1]
        assert message.startswith("excise: "), where
        assert re.search(rf"{COMMANDS[name].written}|bank|/state/", message), where
        assert "could not write" not in message or re.search(r"\(\d+ bytes\)", message), where
    assert damaged(place) == [], f"{where}: {damaged(place)}"
    again = run(place, COMMANDS[name].steps(place))
    assert again.code == 0, f"{where}; then {again}"
    free = f"{place.work.name}/{COMMANDS[name].written}/{store.LOCK}"  # could not be taken away, and nobody holds it
    assert store.holder(place.work / COMMANDS[name].written) is None, where
    found = {path: held for path, held in picture(place).items() if not failed or path != free}
    differences = differing(picture(stages.after(name)), found)
    assert not differences, f"{where}; then {differences}"
