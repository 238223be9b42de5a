"""What the papers claim, and whether it appears in these numbers. No sentence here knows its verdict beforehand."""

from dataclasses import dataclass

from benchmarks.published.numbers import Counts, Interval, against, arms, values

GRADIENT = ("SCRUB", "NegGradPlus", "Finetune")
NEAR_POINTS = 2.0
"""Gap of accuracies, in points, within which an arm counts as like a retrained network."""
FORGOTTEN, KEPT_POINTS = 0.05, 5.0
"""Of a removed class: the most test accuracy that counts as forgotten, and what the others may lose, in points."""


@dataclass(frozen=True)
class Verdict:
    """A claim, what was found, and whether that bears it out.

    Attributes:
        system: whose claim.
        claim: in a line.
        here: the numbers.
        appears: `appears`, `in part` (in half of the cases or more), `does not appear` or `not run`.
    """

    system: str
    claim: str
    here: str
    appears: str


def verdicts(found):
    """Give every claim's verdict."""
    return [claim(found) for claim in CLAIMS]


def judged(good, cases):
    """Say it of a number of cases in which a claim held."""
    if not cases:
        return "not run"
    return "appears" if good == cases else "in part" if 2 * good >= cases else "does not appear"


def _contest(counts):
    """Say it of a comparison that a claim says is won."""
    if not counts.cases:
        return "not run"
    if counts.nearer == counts.cases:
        return "appears"
    return "in part" if counts.nearer > counts.further and 2 * counts.nearer >= counts.cases else "does not appear"


def _told(counts):
    return (
        f"nearer in {counts.nearer} of {counts.cases} comparisons, further in {counts.further}, open in {counts.even}"
    )


def _klom(place, arm):
    return [max(value, 1e-3) for value in values(place["arms"][arm], "klom95_forget")]


def _rivals(found, arm, rivals):
    """Compare an arm's KLoM with that of others, on every set."""
    return Counts.over(
        against(_klom(place, arm), _klom(place, rival))
        for _, _, place in arms(found)
        for rival in rivals
        if arm in place["arms"] and rival in place["arms"]
    )


def matching_is_closer(found):
    counts = _rivals(found, "DMM", GRADIENT)
    return Verdict(
        "DMM",
        "nearer to oracles on the forget rows (KLoM, 95th percentile of rows) than gradient-based methods",
        f"against {', '.join(GRADIENT)}: {_told(counts)}",
        _contest(counts),
    )


def matching_on_components(found):
    """Compare DMM's advantage over the best gradient-based method on component sets with that on random rows."""
    better, cases, words = 0, 0, []
    for problem, sets in found["problems"].items():
        lead = {name: _lead(place) for name, place in sets.items() if "DMM" in place["arms"]}
        coherent = [lead[name] for name in lead if name.startswith("component")]
        if not coherent or "random" not in lead:
            continue
        cases += 1
        most = Interval.of([max(row) for row in zip(*coherent, strict=True)])
        plain = Interval.of(lead["random"])
        ahead = Interval.of([max(row) - other for *row, other in zip(*coherent, lead["random"], strict=True)])
        better += ahead.sign > 0 and most.mean > 0
        words.append(f"{problem}: lead of {most} nats there, {plain} on random rows")
    return Verdict(
        "DMM",
        "the lead is largest on sets along principal components",
        "; ".join(words) or "no such sets",
        judged(better, cases),
    )


def _lead(place):
    own = values(place["arms"]["DMM"], "klom95_forget")
    rivals = [values(place["arms"][name], "klom95_forget") for name in GRADIENT if name in place["arms"]]
    return [min(others) - mine for mine, *others in zip(own, *rivals, strict=True)]


def oracle_matching_reaches_floor(found):
    reached, cases, over = 0, 0, []
    for _, _, place in arms(found):
        if "OracleMatching" not in place["arms"]:
            continue
        cases += 1
        own = values(place["arms"]["OracleMatching"], "klom95_forget")
        gap = Interval.of([mine - one["floor"]["klom95_forget"] for mine, one in zip(own, place["scene"], strict=True)])
        reached += gap.sign <= 0
        over.append(gap.mean)
    low, high = (f"{end:.1f}" for end in (min(over), max(over))) if over else ("-", "-")
    return Verdict(
        "DMM",
        "matching oracles themselves reaches what two arms of oracles give",
        f"KLoM on forget rows not above that in {reached} of {cases} cases; above it by {low} to {high} nats on average",
        judged(reached, cases),
    )


def projection_is_like_retraining(found):
    like, helped, cases = 0, 0, 0
    for _, _, place in arms(found):
        if "PGU" not in place["arms"]:
            continue
        cases += 1
        rows = place["arms"]["PGU"]
        gaps = [100 * Interval.of(values(rows, "gap", part)).mean for part in ("forget", "retain", "test")]
        like += all(abs(gap) <= NEAR_POINTS for gap in gaps)
        helped += against(values(rows, "distance"), values(place["arms"]["Nothing"], "distance")) < 0
    return Verdict(
        "PGU",
        "close to a retrained network on all measures, without the training rows",
        f"accuracies within {NEAR_POINTS:g} points on forget, retain and test in {like} of {cases} cases; margins nearer to "
        f"the oracles than those of doing nothing in {helped}",
        judged(min(like, helped), cases),
    )


def _removal(found, arm):
    """Give each problem's test accuracy on the removed class, and what the others lost, in points."""
    for problem, sets in found["problems"].items():
        if "class" in sets and arm in sets["class"]["arms"]:
            rows, before = sets["class"]["arms"][arm], sets["class"]["scene"]
            removed = values(rows, "accuracy", "removed")
            lost = [
                100 * (one["originals"]["others"] - kept)
                for one, kept in zip(before, values(rows, "accuracy", "others"), strict=True)
            ]
            yield problem, removed, lost


def _removes(system, claim):
    def judge(found):
        good, cases, words = 0, 0, []
        for problem, removed, lost in _removal(found, system):
            cases += 1
            good += max(removed) <= FORGOTTEN and max(lost) <= KEPT_POINTS
            left = Interval.of([100 * value for value in removed])
            words.append(f"{problem}: {left}% left on its test rows, the others {Interval.of(lost)} points lower")
        return Verdict(system, claim, "; ".join(words) or "not run", judged(good, cases))

    return judge


def duck_leads_by_aus(found):
    counts, against_tune = Counts(), Counts()
    for _, name, place in arms(found):
        if "DUCK" not in place["arms"] or name not in ("class", "random"):
            continue
        for rival in ("Finetune", "NegGradPlus", "SCRUB", "SalUn"):
            pair = [
                [row[0] for row in values(place["arms"][arm], "aus")] for arm in ("DUCK", rival) if _sound(place, arm)
            ]
            if len(pair) == 2:
                sign = -Interval.of([one - other for one, other in zip(*pair, strict=True)]).sign
                counts.add(sign)
                against_tune.add(sign) if rival == "Finetune" else None
    return Verdict(
        "DUCK",
        "the highest unlearning score (AUS), for classes and for random rows",
        f"against Finetune, NegGradPlus, SCRUB and SalUn: higher in {counts.nearer} of {counts.cases} comparisons, lower in "
        f"{counts.further}; against Finetune alone higher in {against_tune.nearer} of {against_tune.cases}",
        _contest(counts),
    )


def _sound(place, arm):
    return arm in place["arms"] and not any(row.get("failed") for row in place["arms"][arm])


def duck_is_cheaper(found):
    counts, shares = Counts(), []
    for _, _, place in arms(found):
        if _sound(place, "DUCK") and _sound(place, "Finetune"):
            own, other = (values(place["arms"][arm], "trained_share") for arm in ("DUCK", "Finetune"))
            counts.add(against(own, other))
            shares += [one / two for one, two in zip(own, other, strict=True)]
    span = f"{min(shares):.2g} to {max(shares):.2g}" if shares else "-"
    return Verdict(
        "DUCK",
        "far cheaper than finetuning",
        f"fewer rows forward and backward than the Finetune chosen here in {counts.nearer} of {counts.cases} cases; "
        f"{span} times as many",
        _contest(counts),
    )


def jit_on_random_rows(found):
    near, nearer, cases = 0, 0, 0
    for _, name, place in arms(found):
        if name != "random" or "JiT" not in place["arms"]:
            continue
        cases += 1
        gaps = [100 * Interval.of(values(place["arms"]["JiT"], "gap", part)).mean for part in ("forget", "test")]
        near += all(abs(gap) <= NEAR_POINTS for gap in gaps)
        nearer += against(values(place["arms"]["JiT"], "distance"), values(place["arms"]["Nothing"], "distance")) < 0
    return Verdict(
        "JiT",
        "random rows: near a retrained network on forget and test rows, with neither labels nor retained rows",
        f"accuracies within {NEAR_POINTS:g} points in {near} of {cases} problems; margins nearer to the oracles than those of "
        f"doing nothing in {nearer}",
        judged(min(near, nearer), cases),
    )


CLAIMS = (
    matching_is_closer,
    matching_on_components,
    oracle_matching_reaches_floor,
    projection_is_like_retraining,
    _removes("DUCK", "a removed class has next to no accuracy left, the others keep theirs"),
    duck_leads_by_aus,
    duck_is_cheaper,
    _removes("JiT", "a class is removed from network and forget rows alone, the others keep most of theirs"),
    jit_on_random_rows,
)
