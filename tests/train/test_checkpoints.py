import functools
import hashlib
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from excise import errors, methods, params, store
from excise.data import Rows
from excise.masks import Mask
from excise.store.generations import Generations
from excise.train import Hooks, Pass, TrainPlan, fit_
from excise.train.checkpoints import Checkpoints
from tests.probes import Watched, engine_for, same_bytes, snapshot
from tests.train import resuming
from tests.train.resuming import PLANS, Killed, Killing, picture

SGD = next(iter(PLANS))
KINDS = list(resuming.some_methods(SGD))


@pytest.fixture(autouse=True)
def _key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here, and it takes most of the time


@pytest.fixture
def place(tmp_path):
    return tmp_path / "kept"


def run_of(kind="a cycled stream", plan=SGD, **options):
    return resuming.unlearning(resuming.some_methods(plan)[kind], resuming.split(), **options)


@functools.cache
def never_stopped(kind="a cycled stream"):
    """Give what the run leaves that nothing disturbs."""
    return picture(run_of(kind)(None, Hooks()))


def killed(go, place, number, *, seconds=0):
    """Run until something is heard for the n-th time."""
    with pytest.raises(Killed):
        go(Checkpoints(place, seconds), Killing(number))


def resumed(go, place):
    """Go on; give what was left, what was told, and how many things had been kept."""
    ear = Killing()
    return picture(go(Checkpoints(place, 0), ear)), ear.notes


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_order(place):
    return sorted(place.glob("checkpoint-*"))


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_after_every_step_ends_with_the_same_bits(kind, plan, place):
    resuming.resume_at_every_step(run_of(kind, plan), place)


@pytest.mark.parametrize("signal", [False, True])
def test_a_run_broken_off_once_anywhere_ends_with_the_same_bits(signal, place):
    assert resuming.resume_everywhere(run_of("three stages"), place, [1, 8, 12], signal=signal) >= 12
    assert not place.exists()


def test_keeping_checkpoints_changes_no_bit_and_no_number(place):
    go = run_of("three stages")
    assert picture(go(Checkpoints(place, 0), Hooks())) == never_stopped("three stages")


def test_a_finished_stage_is_taken_as_it_was_left_and_reads_no_row(place):
    inputs, labels = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 3
    data = Watched(inputs, labels)
    first = fitted(data, place)
    data.read.clear()
    assert same_bytes(snapshot(fitted(data, place)), snapshot(first))
    assert data.read == []


def test_steps_that_were_done_are_skipped_without_reading_their_rows(place):
    inputs, labels = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 3
    data = Watched(inputs, labels)
    expected = fitted(data, None)
    whole, _ = data.read[:], data.read.clear()
    with pytest.raises(Killed):
        fitted(data, place, Killing(3))  # two steps of four rows are kept, the third is lost
    assert data.read == whole[:12]
    data.read.clear()
    assert same_bytes(snapshot(fitted(data, place)), snapshot(expected))
    assert data.read == whole[8:]


def fitted(data, place, hooks=None, **plan):
    """Two epochs of five steps."""
    model = resuming.start()
    engine = replace(
        engine_for(model, hooks=hooks or Hooks()), checkpoints=None if place is None else Checkpoints(place, 0)
    )
    plan = TrainPlan(**{"epochs": 2, "lr": 0.05, "batch_size": 4, **plan})
    one = Pass(lambda step: step.mean_loss("retain"), ("retain",))
    fit_(model, lambda _: (one,), {"retain": Rows.all_of(data)}, plan, Mask.full(model), engine, stage="Test")
    return model


def test_a_run_that_diverges_keeps_the_same_last_sound_state_whether_it_was_killed_or_not(place):
    inputs, labels = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 3
    model = resuming.start()

    def objective(step):
        return step.mean_loss("retain") * (float("nan") if (step.epoch, step.index) == (1, 3) else 1)

    def go(checkpoints, hooks):
        own = params.clone_model(model)
        engine = replace(engine_for(own, hooks=hooks), checkpoints=checkpoints)
        streams, one = {"retain": Rows.all_of((inputs, labels))}, Pass(objective, ("retain",))
        plan = TrainPlan(epochs=3, lr=0.05, batch_size=4)
        fit_(own, lambda _: (one,), streams, plan, Mask.full(own), engine, stage="Test")

    with pytest.raises(errors.Diverged) as never:
        go(None, Hooks())
    with pytest.raises(Killed):
        go(Checkpoints(place, 0), Killing(9))  # two steps into the second epoch, whose start is the last sound state
    for _ in range(2):  # what diverged once does so again, and the checkpoints stay whole
        with pytest.raises(errors.Diverged) as found:
            go(Checkpoints(place, 0), Hooks())
        assert same_bytes(found.value.last_finite, never.value.last_finite)
        assert Generations(place).damaged() == []


# --- what is kept, and for whom ---------------------------------------------------------------------------------------


def test_of_each_stage_the_end_is_kept_however_long_the_interval(place):
    go = run_of("three stages")
    go(Checkpoints(place, 1e6), Hooks())
    assert [path.name.split("-")[1] for path in in_order(place)] == ["0001", "0002"]  # Nothing is no stage
    ear = Killing()
    go(Checkpoints(place, 1e6), ear)
    assert [note for note in ear.notes if "goes on" in note] == [
        "Finetune: goes on from its checkpoint after 2 epochs",
        "Relabel: goes on from its checkpoint after 2 epochs",
    ]


def test_within_the_interval_nothing_else_is_kept(place):
    killed(run_of(), place, 4, seconds=1e6)
    assert not place.exists()


def test_each_stage_keeps_two_generations(place):
    killed(run_of("three stages"), place, 12)
    assert [path.name.split("-")[1] for path in in_order(place)] == ["0001", "0001", "0002", "0002"]


def test_what_a_broken_off_write_has_left_is_removed_when_the_run_goes_on(place):
    killed(run_of(), place, 4)
    left = place / f".checkpoint-0001-00000004-{'a' * 64}.safetensors.0123456789ab.tmp"
    left.write_bytes(b"half")
    killed(run_of(), place, 5)
    assert not left.exists() and len(in_order(place)) == 2


def test_an_interval_that_is_no_time_is_refused(place):
    with pytest.raises(errors.BadRequest, match="checkpoint_seconds: expected a finite number"):
        Checkpoints(place, float("nan"))


def test_the_newest_destroyed_the_one_before_takes_over_and_one_step_is_lost(place):
    go = run_of()
    expected = never_stopped()
    killed(go, place, 4)
    before, newest = in_order(place)
    flip(newest)
    found, notes = resumed(go, place)
    assert found == expected
    digest = newest.name.split("-")[3].removesuffix(".safetensors")
    assert notes[0].startswith(f"Contrast: {newest} is damaged and passed over: expected SHA-256 {digest}, found ")
    assert notes[1] == "Contrast: goes on from its checkpoint after 0 epochs and 2 steps"
    assert before.name.split("-")[2] == "00000002"


def test_both_destroyed_the_stage_starts_anew_and_says_so(place):
    go = run_of()
    killed(go, place, 4)
    for path in in_order(place):
        flip(path)
    found, notes = resumed(go, place)
    assert found == never_stopped()
    assert len(notes) == 3 and notes[2] == "Contrast: no checkpoint is left that is whole; the stage starts anew"


def test_a_finished_stage_that_was_damaged_is_done_again_and_the_stage_at_work_goes_on(place):
    go = run_of("three stages")
    killed(go, place, 12)
    for path in in_order(place)[:2]:
        flip(path)
    found, notes = resumed(go, place)
    assert found == never_stopped("three stages")
    assert any(note.startswith("Relabel: goes on") for note in notes)


class Times(nn.Module):
    """A loss with a setting."""

    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, logits, targets):
        return self.factor * nn.functional.cross_entropy(logits, targets, reduction="none")


def forward_twice(model, batch):
    return 2 * model(batch[0]), batch[1]


PLAN = TrainPlan(epochs=2, batch_size=7, **PLANS[SGD])
ASKED = {"method": methods.Distill(plan=PLAN, max_epochs=1), "seed": 0}
OTHERS = {
    "another seed": {"seed": 1},
    "another setting": {"method": methods.Distill(plan=PLAN, max_epochs=1, alpha=0.25)},
    "another plan": {"method": methods.Distill(plan=TrainPlan(epochs=3, batch_size=7, lr=0.05), max_epochs=1)},
    "another teacher": {"method": methods.Distill(plan=PLAN, max_epochs=1, teacher=resuming.start())},
    "other rows": {"forget": [0, 1, 2, 3, 5]},
    "other unseen rows": {"holdout": [22, 23]},
    "another mask": {"where": "head"},
    "another loss": {"loss": Times(2.0)},
    "another forward": {"forward": forward_twice},
    "another network": {"nudge": 1e-12},
}


def asked(place, hooks, **options):
    """Run a request that is written down anew each time, as by another process."""
    told = {**ASKED, "forget": [0, 1, 2, 3, 4], "holdout": [21, 22, 23], "where": "", "nudge": 0.0, **options}
    model = resuming.start()
    with torch.no_grad():
        model.head.bias[0] += told.pop("nudge")
    own = resuming.excise.Split(
        resuming.split(augmented=False).train.source, forget=told.pop("forget"), holdout=told.pop("holdout")
    )
    where = told.pop("where")
    mask = Mask.where(model, lambda name: name.startswith(where))
    return resuming.excise.unlearn(
        model, own, told.pop("method"), mask=mask, hooks=hooks, checkpoints=place, checkpoint_seconds=0, **told
    )


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_anything_else_is_never_used(other, place):
    with pytest.raises(Killed):
        asked(place, Killing(5))
    ear = Killing()
    asked(place, ear, **OTHERS[other])
    assert not any("goes on" in note for note in ear.notes)
    (note,) = [note for note in ear.notes if "not used" in note]
    assert note.startswith(f"Distill: {place}")
    assert note.endswith(
        " was made for another request or network, or by another version, and is not used; the stage starts anew"
    )


def test_the_same_request_written_down_anew_goes_on(place):
    with pytest.raises(Killed):
        asked(
            place,
            Killing(5),
            loss=Times(0.5),
            method=methods.Distill(plan=PLAN, max_epochs=1, teacher=resuming.start()),
        )
    ear = Killing()
    same = {"loss": Times(0.5), "method": methods.Distill(plan=PLAN, max_epochs=1, teacher=resuming.start())}
    assert picture(asked(place, ear, **same)) == picture(asked(None, Hooks(), **same))
    assert [note for note in ear.notes if "goes on" in note or "not used" in note] == [
        "Distill: goes on from its checkpoint after 0 epochs and 4 steps"
    ]


def test_what_the_caller_says_the_result_depends_on_counts(place):
    go = run_of()
    with pytest.raises(Killed):
        go(Checkpoints(place, 0, fingerprint="rows of May"), Killing(4))
    ear = Killing()
    go(Checkpoints(place, 0, fingerprint="rows of June"), ear)
    assert sum("not used" in note for note in ear.notes) == 1


def test_another_number_of_threads_starts_anew(place, monkeypatch):
    go = run_of()
    killed(go, place, 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found, notes = resumed(go, place)
    assert found == never_stopped()
    assert len(notes) == 1
    assert notes[0].endswith(
        "was made with 1 threads and this run has 3; the two are not bit-comparable, so it is not used; the stage starts anew"
    )


@pytest.mark.parametrize("what", ["torch.__version__", "excise.train.checkpoints.__version__"])
def test_another_version_starts_anew(what, place, monkeypatch):
    go = run_of()
    killed(go, place, 4)
    monkeypatch.setattr(what, "9.9.9")
    found, notes = resumed(go, place)
    assert found == never_stopped()
    assert len(notes) == 1 and "not used" in notes[0]


def test_what_bears_its_own_hash_and_says_something_else_is_not_used(place):
    go = run_of()
    Generations(place).keep({}, {"epoch": 1}, series=1)
    found, notes = resumed(go, place)
    assert found == never_stopped()
    assert "is not used" in notes[0]


def test_no_plain_hash_of_the_rows_is_kept(place):
    data = resuming.split()
    killed(run_of("three stages"), place, 12)
    known = [data.forget.ids, data.retain.ids, data.holdout.ids, data.forget.ids.to(torch.int32)]
    content = b"".join(path.read_bytes() for path in in_order(place))
    for ids in known:
        plain = params.raw_bytes(ids)
        assert bytes(plain) not in content
        assert hashlib.sha256(plain).hexdigest().encode() not in content
        assert store.commitment(ids).encode() not in content


def test_the_time_before_is_counted(place):
    go = run_of()
    killed(go, place, 6)
    kept = Generations(place).newest(1)[0]
    done = go(Checkpoints(place, 0), Hooks())
    assert kept.facts["position"]["seconds"] > 0
    assert done.cost.seconds > kept.facts["position"]["seconds"]
    last = Generations(place).newest(1)[0].facts["position"]
    assert done.cost.parts["unlearn"].seconds > last["seconds"] > kept.facts["position"]["seconds"]


# --- stopping ---------------------------------------------------------------------------------------------------------


class Stopping(Hooks):
    """Does something at the n-th step."""

    def __init__(self, number, act):
        self._left, self._act = number, act

    def on_step(self):
        self._left -= 1
        if self._left == 0:
            self._act()


class Stopped(BaseException):
    """What a signal asks for."""


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6])
def test_a_stop_keeps_the_step_and_raises(number, place):
    go = run_of()
    own = Checkpoints(place, 1e6)
    with pytest.raises(Stopped, match="by hand"):
        go(own, Stopping(number, lambda: own.stop(Stopped("by hand"))))
    assert not own.inside
    position = Generations(place).newest(1)[0].facts["position"]
    assert (position["epoch"], position["step"]) == ((number - 1) // 3, (number - 1) % 3 + 1)  # three steps an epoch
    found, notes = resumed(go, place)
    assert found == never_stopped()
    assert len(notes) == 1 and "goes on" in notes[0]


def test_a_signal_stops_the_run_after_its_step(place):
    go, own = run_of("three stages"), Checkpoints(place, 1e6)

    def handle(number, _frame):
        error = SystemExit(128 + number)
        if not own.inside:
            raise error
        own.stop(error)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(SystemExit, match="143"):
            go(own, Stopping(6, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Generations(place).newest(1)[0].facts["position"]["step"] > 0
    assert resumed(go, place)[0] == never_stopped("three stages")


def test_a_process_that_is_killed_leaves_what_another_goes_on_from(place):
    go = run_of("a reset before")
    child = os.fork()
    if child == 0:
        go(Checkpoints(place, 0), Stopping(5, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found, notes = resumed(go, place)
    assert found == never_stopped("a reset before")
    assert notes[0] == "Relabel: goes on from its checkpoint after 1 epochs and 1 steps"


def test_only_what_can_be_kept_is_inside(place):
    own = Checkpoints(place, 0)
    seen = {"Finetune": [], "look": [], "trace": [], "statistics": []}

    class Looking(Hooks):
        def on_stage(self, name, num_steps):
            self.name = name

        def on_step(self):
            seen[self.name].append(own.inside)

        def on_epoch(self, trace):
            seen["trace"].append(own.inside)

    method = resuming.some_methods(SGD)["a look after each epoch"]
    judge = type(method)._judged

    def judged(*arguments):
        seen["look"].append(own.inside)
        return judge(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(method), "_judged", judged)
        resuming.unlearning(method, resuming.split())(own, Looking())
    assert set(seen["Finetune"]) == set(seen["trace"]) == {True}
    assert set(seen["look"]) == set(seen["statistics"]) == {False}
    assert not own.inside


def test_a_stop_that_comes_after_the_last_checkpoint_is_raised_at_the_stages_end(place):
    own, model = Checkpoints(place, 1e6), resuming.start()
    with pytest.raises(Stopped), own.stage("Test", model, {}, None, engine_for(model)):
        own.stop(Stopped())
    assert not own.inside
    assert run_of("one stream")(own, Hooks()) is not None  # raised once


def test_a_stop_that_came_before_stops_the_first_step(place):
    own = Checkpoints(place, 1e6)
    own.stop(Stopped())
    with pytest.raises(Stopped):
        run_of()(own, Hooks())
    assert Generations(place).newest(1)[0].facts["position"]["step"] == 1


def test_another_run_within_this_one_stops_with_it(place, tmp_path):
    whole = Checkpoints(None, 1e6)
    own = whole.at(place, "inner")
    seen = []
    with pytest.raises(Stopped):
        run_of()(own, Stopping(2, lambda: (seen.append(whole.inside), whole.stop(Stopped()))))
    assert seen == [True] and not whole.inside
    assert len(in_order(place)) == 1


def test_without_a_directory_nothing_is_kept_and_nothing_is_inside():
    own, seen = Checkpoints(None, 0), []
    run_of()(own, Stopping(2, lambda: seen.append(own.inside)))
    own.clear()
    assert seen == [False]
