"""Rounds of trials: so many settings are suggested at a time, tried by a fleet, and told to the journal in order.

What a setting is follows from the seed, from the rounds before, and from the settings suggested before it in its own round,
whose outcomes are not known yet and which count as the worst so far, so that the search looks elsewhere. So neither who tries
them nor which is done first changes what is tried next, and a search that was stopped within a round goes on in it. With one
trial a round each follows from all before it.

References:
    Ginsbourger, Le Riche, Carraro, "Kriging Is Well-Suited to Parallelize Optimization", 2010: the constant liar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from excise.cluster import Fleet
from excise.oracles import keys
from excise.oracles.away import Notes, require_equal
from excise.pipeline.tuning_journal import Journal, Margins, Trial
from excise.pipeline.tuning_search import suggest
from excise.pipeline.tuning_space import Space, default_settings
from excise.pipeline.tuning_trials import Search, ranked, repeated
from excise.train.engine import Cost

Tried = tuple[Trial, Margins | None]


def search(run: Search, journal: Journal, where: Space, trials: int, *, at_once: int, fleet: Fleet) -> None:
    """Try settings, round after round, until the journal holds so many trials."""
    while len(journal.trials) < trials:
        _Round(run, journal, settings_of_round(run, journal, where, trials, at_once), trials).through(fleet)


def settings_of_round(
    run: Search, journal: Journal, where: Space, trials: int, at_once: int
) -> dict[int, dict[str, Any]]:
    """Give, by number, the settings that are still to be tried in the round at work."""
    done = journal.trials
    begin = len(done) - len(done) % at_once
    known = [(one.settings, place) for one, place in ranked(done[:begin])]
    worst = 1 + max((place for _, place in known), default=-1)
    round_so_far: list[Mapping[str, Any]] = [one.settings for one in done[begin:]]
    found: dict[int, dict[str, Any]] = {}
    for number in range(len(done), min(begin + at_once, trials)):
        settings = None if number else default_settings(run.recipe, where)
        if settings is None:
            settings = suggest(where, [*known, *((own, worst) for own in round_so_far)], run.engine.seed)
        round_so_far.append(settings)
        found[number] = settings
    return found


class _Round:
    """The trials of one round."""

    def __init__(self, run: Search, journal: Journal, settings: Mapping[int, dict[str, Any]], trials: int) -> None:
        self._run, self._journal, self._settings, self._trials = run, journal, settings, trials

    def through(self, fleet: Fleet) -> None:
        """Try what has not been tried, and tell the journal everything in order."""
        hooks, ready = self._run.engine.hooks, dict[int, Tried]()
        if fleet.here:
            for _, (number, tried) in fleet.run(try_here, self._run, self._new()):
                ready[number] = tried
                self._tell(ready)
        else:
            numbers = list(self._settings)
            stage = f"trials {numbers[0] + 1}-{numbers[-1] + 1}/{self._trials}, on workers"
            hooks.on_stage(stage, len(numbers))
            try:
                for _, (number, tried, notes) in fleet.run(try_there, _Shared.of(self._run), self._new()):
                    for note in notes:
                        hooks.on_note(note)
                    hooks.on_step()
                    ready[number] = tried
                    self._tell(ready)
            finally:
                hooks.on_stage_end(stage)
        self._tell(ready)

    def _new(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give the settings that were not tried before."""
        earlier: list[Mapping[str, Any]] = [one.settings for one in self._journal.trials]
        for number, settings in self._settings.items():
            if settings not in earlier:
                self._run.engine.hooks.on_part(f"trial {number + 1}/{self._trials}")
                yield number, settings
            earlier.append(settings)

    def _tell(self, ready: Mapping[int, Tried]) -> None:
        """Enter in the journal what is next, as far as it is known."""
        journal = self._journal
        while (number := len(journal.trials)) in self._settings:
            tried = repeated(number, self._settings[number], journal) or ready.get(number)
            if tried is None:
                return
            journal.add(*tried)


def try_here(run: Search, asked: tuple[int, dict[str, Any]]) -> tuple[int, Tried]:
    """Try settings in this process, as a job of a fleet."""
    return asked[0], run.trial(*asked)


@dataclass(frozen=True, eq=False)
class _Shared:
    """What goes to the workers: the search without who watches it, and what it ran in."""

    run: Search
    surroundings: Mapping[str, str]

    @classmethod
    def of(cls, run: Search) -> _Shared:
        return cls(replace(run, engine=replace(run.engine, hooks=Notes(), cost=Cost(), trace=[])), keys.surroundings())


def try_there(shared: _Shared, asked: tuple[int, dict[str, Any]]) -> tuple[int, Tried, list[str]]:
    """On a worker: try settings.

    Raises:
        errors.ClusterError: the worker has another version or number of threads.
    """
    require_equal(shared.surroundings, keys.surroundings())
    heard = Notes()
    return asked[0], replace(shared.run, engine=replace(shared.run.engine, hooks=heard)).trial(*asked), heard.notes
