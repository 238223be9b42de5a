"""How often audits of one network err, and how much of a trace left behind they notice."""

from dataclasses import replace

import msgspec
import numpy as np
from scipy import stats
from scipy.special import expit

from benchmarks.audit_pools import NUM_ORACLES, generator_of, mean_accuracy
from excise.measure import auc, klom, ulira
from excise.oracles import Trained
from excise.pipeline import policy
from excise.pipeline.evidence import Oracles
from excise.pipeline.population import AMONG, margins_of

LEVEL = 0.05
ARM = 32
EFFECTS = (0.125, 0.25, 0.5, 1.0)


def share(count, trials):
    """Give a count with the exact 95% interval of its rate (Clopper and Pearson); networks that return make it too narrow."""
    low = 0.0 if count == 0 else float(stats.beta.ppf(0.025, count, trials - count + 1))
    high = 1.0 if count == trials else float(stats.beta.ppf(0.975, count + 1, trials - count))
    return {"count": int(count), "of": int(trials), "low": low, "high": high}


def verdicts(outcomes):
    """Count the words."""
    words = [one.verdict for one in outcomes]
    return {word: share(words.count(word), len(words)) for word in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")}


def tally(outcomes):
    """Count verdicts, controls that came out wrong, and for each deciding measure p <= 0.05, alone and after Holm."""
    deciding = [one.name for one in outcomes[0].measures if one.decides]
    named = [{one.name: one.p for one in outcome.measures} for outcome in outcomes]
    rejected = [{one.name for one in policy.rejects(outcome.measures)} for outcome in outcomes]
    told = sum(bool(found) for found in rejected)
    return {
        "verdicts": verdicts(outcomes),
        "told_apart": share(told, len(outcomes)),
        "controls": {
            name: share(sum(one.controls[name] != wanted for one in outcomes), len(outcomes))
            for name, wanted in policy.CONTROLS.items()
        },
        "measures": {
            name: {
                "alone": share(sum(one[name] <= LEVEL for one in named), len(outcomes)),
                "after_holm": share(sum(name in one for one in rejected), len(outcomes)),
            }
            for name in deciding
        },
    }


def null_of_one_network(pools, draws):
    """Audit retrained networks at T1, each network of the pool in turn."""
    pool, generator = pools.wrong, generator_of(1)
    own = [number % len(pool.oracles) for number in range(draws)]
    return tally([pool.audited(pool.oracles[place], generator, without=[place]) for place in own])


def null_of_populations(pools, draws):
    """Audit retraining as a recipe at T2: a network and three arms that share none, dealt anew each time.

    What the originals come to as a population is taken once: they are told apart by every measure in every draw.
    """
    pool, generator = pools.wrong, generator_of(2)
    size = min(ARM, (len(pool.oracles) - 1) // 3)
    originals, nothing, outcomes = margins_of(pool.originals[:size]), None, []
    for _ in range(draws):
        order = [pool.oracles[place] for place in generator.permutation(len(pool.oracles))]
        oracles = order[size : 2 * size]
        own, reference, held_out = (margins_of(order[part * size : (part + 1) * size]) for part in range(3))
        nothing = nothing or deciding(originals, reference, held_out, generator)
        arms = policy.Arms(
            unlearned=deciding(own, reference, held_out, generator),
            nothing=nothing,
            retrained=deciding(held_out[: size // 2], reference, held_out[size // 2 :], generator),
        )
        before = pool.any_original(generator)
        outcomes.append(policy.verdict(order[3 * size], before, oracles, pool.split, arms=arms))
    return {**tally(outcomes), "arm": size}


def deciding(own, oracles, held_out, generator):
    """Take the two measures of populations, as tier T2 does."""
    found = (
        ulira(own, oracles, held_out, generator, among=AMONG),
        klom(own, oracles, held_out, generator=generator, among=AMONG),
    )
    return [msgspec.structs.replace(one, decides=True) for one in found]


def as_oracles(evidence):
    """Give evidence in the form in which populations hold it; the networks themselves are not looked at again."""
    return Oracles([Trained(0, {}, 0.0, None)] * len(evidence), evidence)


def nothing_done(pools, draws):
    """Audit originals that nothing was done to, on sets of wrong labels, half of them, a fifth; and on rows with no trace."""
    generator, found = generator_of(3), {}
    for name, count in {"wrong": draws - 2 * (draws // 3), "half": draws // 3, "fifth": draws // 3}.items():
        found[name] = _unchanged(getattr(pools, name), count, generator)
    for name in ("easy", "clean"):
        found[name] = _unchanged(getattr(pools, name), draws // 2, generator)
    return found


def _unchanged(pool, draws, generator):
    outcomes = []
    for number in range(draws):
        own = pool.originals[number % len(pool.originals)]
        outcomes.append(pool.audited(own, generator, original=own))
    trace = float(np.mean([one.margins.mean() for one in pool.originals]) - _mean_margin(pool.oracles))
    return {
        "verdicts": verdicts(outcomes),
        "num_forget": len(pool.split.forget),
        "trace": trace,
        "memorised": float(np.mean(memorised(pool) >= 0.5)),
    }


def memorised(pool):
    """Give each forget row's memorisation: how much more often originals get it right than oracles do (Feldman 2020)."""
    right = [
        np.mean([one.rows.predicted["forget"] == one.rows.targets["forget"] for one in group], axis=0)
        for group in (pool.originals, pool.oracles)
    ]
    return np.asarray(right[0] - right[1])


def _mean_margin(networks):
    return float(np.mean([one.margins.mean() for one in networks]))


def left_behind(pools, draws):
    """Audit networks that kept a share of the wrong labels: their FAIL rate, and what share of the mean trace they kept."""
    pool, generator = pools.wrong, generator_of(4)
    oracle, original = _mean_margin(pool.oracles), _mean_margin(pool.originals)
    rows = []
    for left, networks in {0.0: pool.oracles, **pools.left, 1.0: pool.originals}.items():
        places = range(len(networks))
        outcomes = [
            pool.audited(networks[number % len(places)], generator, without=[number] if left == 0 else ())
            for number in range(min(draws, 10 * len(networks)) if left else min(draws, len(networks)))
        ]
        rows.append(
            {
                "rows_left": left,
                "num_networks": len(networks),
                "trace_left": (_mean_margin(networks) - oracle) / (original - oracle),
                "forget_accuracy": mean_accuracy(networks, "forget"),
                "fail": verdicts(outcomes)["FAIL"],
            }
        )
    return rows


def effects(pools, draws):
    """Audit oracles whose log-odds of the forget rows were moved a share of the way to an original's; else oracles.

    The last row of a set moves each by the very share that its audit says it would have noticed with probability 0.8. Since
    the accuracies stay an oracle's, only two of the five measures can see anything: less than a real remainder shows.
    `promised` counts only audits that say they would have noticed this share, the only ones that may pass.
    """
    rows = []
    for name in ("wrong", "half", "fifth", "clean", "easy"):
        pool, generator = getattr(pools, name), generator_of(5)
        for effect in (*EFFECTS, None):
            told, moved, promised = [], [], []
            for number in range(draws):
                place = number % len(pool.oracles)
                before = pool.any_original(generator)
                held = pool.draw(generator, without=[place])
                seen = policy.trace_seen(policy.judge(before, held, pool.split)[1])
                if seen is None:
                    continue
                promised.append(effect is None or seen <= effect)
                moved.append(seen if effect is None else effect)
                trace = before.margins - margins_of(held).mean(axis=0)
                own = replace(pool.oracles[place], margins=pool.oracles[place].margins + moved[-1] * trace)
                told.append(policy.judge(own, held, pool.split)[0])
            kept = [word == "FAIL" for word, said in zip(told, promised, strict=True) if said]
            rows.append(
                {
                    "set": name,
                    "effect": effect,
                    "mean": float(np.mean(moved)),
                    "fail": share(told.count("FAIL"), len(told)),
                    "promised": share(sum(kept), len(kept)) if kept else None,
                }
            )
    return rows


def population_attack(pools, draws):
    """Hold the confidence attack's word against the verdict, where half of the forget rows have wrong labels."""
    pool, generator, found = pools.half, generator_of(6), {}
    for name, networks in (("nothing", pool.originals), ("retrained", pool.oracles)):
        outcomes = []
        for number in range(draws):
            place = number % len(networks)
            own = networks[place]
            outcomes.append(
                pool.audited(own, generator, original=own)
                if name == "nothing"
                else pool.audited(own, generator, without=[place])
            )
        found[name] = {
            "auc": float(np.mean([_confidence_auc(one) for one in networks])),
            "attack": float(np.mean([one.attack for one in networks])),
            "forget_accuracy": mean_accuracy(networks, "forget"),
            "verdicts": verdicts(outcomes),
        }
    return {**found, "num_oracles": NUM_ORACLES, "draws": draws}


def _confidence_auc(one):
    return auc(expit(one.rows.margins["forget"]), expit(one.rows.margins["test"]))
