"""Memory that runs out in the middle: exit code 9, and the same command goes on from there to the same bits."""

import pytest

from excise import errors, store
from tests.crash.pictures import damaged
from tests.crash.project import UNLEARN
from tests.crash.server import run, typed

WORDS = ["mine:greedy" if word == "mine:make" else word for word in UNLEARN if word != "--quiet"]
STEPS = [typed(*WORDS, "--checkpoint-seconds", "0")]


@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_memory_that_runs_out_at_a_batch_is_told_and_the_same_command_goes_on(stages, tmp_path, number):
    place = stages.before("unlearn").copied_to(tmp_path / "trial")
    (place.work / "greedy").write_text(str(number))
    ended = run(place, STEPS)
    assert ended.code == errors.OutOfMemory.exit_code and "out of memory" in ended.err, ended
    assert "Traceback" not in ended.err and damaged(place) == []
    assert not (place.work / "run" / "model.safetensors").exists()
    (place.work / "greedy").unlink()
    again = run(place, STEPS)
    assert again.code == 0 and ("goes on from its checkpoint" in again.err) == (number > 1), again
    expected = stages.after("unlearn").work / "run"
    for name in ("model.safetensors", "mask.safetensors"):
        assert store.file_digest(place.work / "run" / name) == store.file_digest(expected / name), name
    assert sorted(path.name for path in (place.work / "run").iterdir()) == sorted(
        path.name for path in expected.iterdir()
    )
