import msgspec
import pytest

from excise.lifecycle import Options, answering
from excise.recipes import Finetune


def test_options_come_back_from_the_book_as_they_were(ledger, monkeypatch):
    seen = []

    def watched(*given, real=answering.unlearned_again, **options):
        seen.append(given[4])
        return real(*given, **options)

    monkeypatch.setattr(answering, "unlearned_again", watched)
    ledger.request([3])
    ledger.run(Finetune(epochs=1), tier="T0", seed=4, effect=0.25, recompute=False, words={"set": ["epochs=1"]})
    with answering.opened(ledger.directory) as papers:
        (run,) = papers.book.runs()
    assert seen == [msgspec.convert(run.asked["options"], Options)]
    assert seen[0] == Options(tier="T0", seed=4, effect=0.25, recompute=False, words={"set": ["epochs=1"]})


@pytest.mark.parametrize("change", [{"seed": 1}, {"tier": "T1"}, {"oracles": 4}, {"effect": 0.1}, {"recompute": False}])
def test_every_option_tells_runs_apart(change):
    assert Options(**change) != Options()
    assert msgspec.to_builtins(Options(**change)) != msgspec.to_builtins(Options())
