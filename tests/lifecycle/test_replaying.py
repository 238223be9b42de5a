import msgspec
import pytest
import torch

from excise import errors, params, recipes, store
from excise.lifecycle import Ledger, among, faults, replay, replaying
from excise.recipes import Finetune
from tests.lifecycle.conftest import COLLAPSE, PLAN
from tests.planted import TEST, TRAIN, make


def answered(ledger, *rows, recipe=None, **options):
    for row in rows:
        ledger.request([row])
        ledger.run(recipe or Finetune(epochs=1), tier="T0", **options)


def outcomes(found):
    return [one.outcome for one in found]


def test_ten_requests_in_a_row_replayed_from_the_ledger_give_the_same_weights(ledger, original):
    used = [Finetune(epochs=1), recipes.NegGradPlus(epochs=1)]
    for number, row in enumerate(range(3, 83, 8)):
        answered(ledger, row, recipe=used[number % 2], seed=number)
    anew = Ledger(ledger.directory, original, TRAIN, test=TEST, plan=PLAN, fresh=make)
    found = anew.replay(used)
    assert outcomes(found) == ["valid"] * 10 and faults(found) == []
    assert [one.seq for one in found] == list(range(1, 11))
    digests = [one.found for one in found]
    assert digests == [ledger.receipt(seq)["model_after"] for seq in range(1, 11)] and len(set(digests)) == 10
    state, _ = store.read_tensors(ledger.directory / "runs" / "0010" / "model.safetensors")
    assert digests[-1] == f"sha256:{params.digest(state)}"


def test_a_replay_writes_nothing_and_may_end_early(ledger):
    answered(ledger, 3, 11)
    before = {
        path: path.read_bytes()
        for path in ledger.directory.rglob("*")
        if path.suffix != ".sqlite-shm" and path.is_file()
    }
    assert outcomes(ledger.replay(seq=1)) == ["valid"]
    after = {path: path.read_bytes() for path in before}
    assert after == before
    for seq in (0, 3):
        with pytest.raises(errors.BadRequest, match=f"expected the number of a receipt, 1 to 2; found {seq}"):
            ledger.replay(seq=seq)


def test_a_run_that_was_not_adopted_is_repeated_too_and_the_next_does_not_begin_with_it(opened):
    ledger = opened(max_drop=1.0)
    ledger.request([3])
    assert not ledger.run(COLLAPSE, tier="T0")["adopted"]
    ledger.run(Finetune(epochs=1), tier="T0")
    found = ledger.replay()
    assert outcomes(found) == ["valid", "valid"]
    assert found[0].found != found[1].found


def test_in_another_environment_nothing_is_valid_even_where_the_bits_agree(ledger, monkeypatch):
    answered(ledger, 3, 11)
    real = type(ledger.subject).environment
    for field, value in (("threads", 64), ("torch", "3.0"), ("machine", "riscv64"), ("device", "xpu")):
        with monkeypatch.context() as patch:
            patch.setattr(type(ledger.subject), "environment", lambda self, f=field, v=value: {**real(self), f: v})
            found = ledger.replay()
        assert outcomes(found) == ["not comparable", "not comparable"]
        assert found[0].reason.startswith(f"it was made in another environment ({field}: ") and found[0].found is None
        assert found[1].reason == "it begins with the network of entry 1, which did not come out"
        assert faults(found)[0].startswith("entry 1: replay not comparable: it was made in another environment")


def test_other_bits_are_different_and_by_other_code_not_comparable(ledger, monkeypatch):
    answered(ledger, 3)

    def elsewhere(*given, real=replaying.unlearned_again, **options):
        made = real(*given, **options)
        with torch.no_grad():
            next(made.model.parameters()).view(-1)[0] += 1e-6
        return made

    monkeypatch.setattr(replaying, "unlearned_again", elsewhere)
    (found,) = ledger.replay()
    assert found.outcome == "different" and found.found != found.expected
    assert faults([found]) == [
        "entry 1: replay different: other bits came out of the same settings, rows and environment"
    ]
    with monkeypatch.context() as patch:
        patch.setattr(ledger.subject.__class__, "model_code", lambda _: None)
        (found,) = ledger.replay()
        assert found.outcome == "not comparable" and "its network was built by other code" in found.reason
    monkeypatch.setattr(replaying, "code_digest", lambda: "excise 9 sha256:0")
    (found,) = ledger.replay()
    assert found.outcome == "not comparable" and "it was made by other code" in found.reason


def test_without_its_recipe_a_run_cannot_be_repeated(ledger, original):
    answered(ledger, 3)
    anew = Ledger(ledger.directory, original, TRAIN, test=TEST, plan=PLAN, fresh=make)
    for given in ([], [Finetune(epochs=2)]):
        (found,) = anew.replay(given)
        assert (found.outcome, found.found) == ("not comparable", None)
        assert "its recipe (Finetune) cannot be made again with the settings it had" in found.reason
    assert outcomes(anew.replay([Finetune(epochs=2), Finetune(epochs=1)])) == ["valid"]
    (wrong,) = replay(ledger.directory, anew.subject, lambda _: Finetune(epochs=2))
    assert wrong.outcome == "not comparable"


def test_a_recipe_of_the_library_is_known_by_its_name(ledger, original):
    answered(ledger, 3, recipe=recipes.Nothing())
    anew = Ledger(ledger.directory, original, TRAIN, test=TEST, plan=PLAN, fresh=make)
    assert outcomes(anew.replay()) == ["valid"]


def test_a_destroyed_key_ends_what_can_be_repeated(ledger):
    answered(ledger, 3, 11, 19)
    ledger.forget_key(ledger.receipt(2)["requests"][0]["id"])
    found = ledger.replay()
    assert outcomes(found) == ["valid", "not comparable", "not comparable"]
    assert "was destroyed, and with it which rows it named" in found[1].reason


def test_a_run_that_read_rows_which_left_the_training_data_cannot_be_repeated(ledger, original):
    answered(ledger, 3, 11)
    kept = [row for row in range(160) if row != 11]
    anew = Ledger(ledger.directory, original, (TRAIN[0][kept], TRAIN[1][kept]), test=TEST, plan=PLAN, fresh=make)
    found = anew.replay([Finetune(epochs=1)])  # the first run has retained row 11
    assert outcomes(found) == ["not comparable", "not comparable"]
    assert found[0].reason == "1 of its rows are no longer in the training data"
    kept = [row for row in range(160) if row != 3]
    anew = Ledger(ledger.directory, original, (TRAIN[0][kept], TRAIN[1][kept]), test=TEST, plan=PLAN, fresh=make)
    found = anew.replay([Finetune(epochs=1)])
    assert found[0].reason == "1 of its rows are no longer in the training data"


def test_another_network_than_the_original_has_nothing_to_repeat(ledger):
    answered(ledger, 3)
    made = make()
    params.load_strictly_(made, store.read_tensors(ledger.directory / "runs" / "0001" / "model.safetensors")[0], "")
    anew = Ledger(ledger.directory, made, TRAIN, test=TEST, plan=PLAN, fresh=make)
    with pytest.raises(errors.BadRequest, match="a replay begins with the original network, and this is another"):
        anew.replay()


def test_among_some_recipes_the_one_with_all_settings_is_found():
    one, other = Finetune(epochs=1), Finetune(epochs=2)
    find = among([one, other])
    for recipe in (one, other):
        asked = {"recipe": "Finetune", "settings": replaying.recipe_values(recipe)}
        assert find(msgspec.json.decode(msgspec.json.encode(asked))) is recipe
    assert find({"recipe": "DEL", "settings": replaying.recipe_values(one)}) is None
