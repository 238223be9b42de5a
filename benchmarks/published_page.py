"""The page of the published systems, written from numbers alone."""

from benchmarks.published_arms import BASELINES, CONTROLS, EVERY, MASKED, MASKS, PUBLISHED
from benchmarks.published_claims import FORGOTTEN, KEPT_POINTS, NEAR_POINTS, verdicts
from benchmarks.published_numbers import (
    NOTHING,
    SAME_COST,
    Counts,
    Interval,
    against,
    arms,
    beside,
    distance,
    masked,
    told,
    values,
)
from benchmarks.published_problems import DEALS, title_of

NAMES = {"digits": "Digits", "fashion-mnist": "Fashion-MNIST"}
PARTS = ("forget", "retain", "test")
SIGNS = {-1: "nearer", 0: "open", 1: "**loses**"}


def render(found, chosen):
    """Give the page."""
    return "\n".join(
        [
            *_head(found, chosen),
            *_answers(found),
            *_claims(found),
            *_overview(found),
            *_localization(found),
            *(line for problem in found["problems"] for line in _problem(found, problem)),
            *_prepared(found),
            *_settings(found, chosen),
        ]
    ) + "\n"


def _head(found, chosen):
    what = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    count = len(found["seeds"])
    sizes = [
        f"- {NAMES[name]}: {size['num_train']} rows to train on, {_models(found, name)} originals, as many oracles and as many "
        f"held-out oracles a forget set, at each seed. {NETWORKS[found['size'], name]}"
        for name, size in found["sizes"].items()
    ]
    absent = [f"- {NAMES[name]} is left out: {why}." for name, why in found["absent"].items()]
    return [
        "# Four published systems, beside oracles",
        "",
        "Written by `python -m benchmarks.published`; do not edit. DMM, PGU, DUCK and JiT (see",
        "[the four systems](../published.md)), beside DEL, baselines, retraining that costs what DEL costs, doing nothing, and",
        "oracles: networks trained from scratch without the forget rows.",
        "",
        *sizes,
        *absent,
        "",
        f"Every number is a mean over {count} training seeds, each with rows, forget sets, originals and oracles of its own, and",
        f"± is half of a 95% t-interval over these {count}: wide, and of one data set and one architecture each. A recipe is put",
        "to every original of a seed. *Gaps* are accuracies less the oracles', in points. *U-LiRA* is the share of (network,",
        "forget row) pairs that an attacker with shadow networks calls rightly; *KLoM* is KL(unlearned || oracle) of a row's",
        "margins in nats, on average over rows and at their 95th percentile. With so few networks neither is near 0.5 or 0 even",
        f"for retraining: the row *oracles* says what two arms of oracles give, dealt anew {DEALS} times. *AUS* is DUCK's score with",
        "its error propagated over networks and seeds. *Distance* is the root mean square over rows of a network's margin less",
        "the oracles' mean, in units of the oracles' spread, averaged over forget, retain and test rows; two arms of oracles",
        "give about 1. *Cost* counts rows passed forward and backward as a share of one retraining's, *forward* those passed",
        "forward alone; seconds are the median of one request, two processes at work on the machine.",
        "",
        f"Settings were chosen from {chosen['trials']} trials for every recipe, problem and kind of forget set, on another seed "
        f"({chosen['seed']}), by the distance of {chosen['num_models']} networks: with oracles, which nobody has in practice, and the",
        "same for all. Half of the rows that no network was trained on are the holdout that PGU and DUCK need to stop; the other",
        "half is the test. *Nearer*, *open* and *loses* compare distances with those of `SameCostRetrain`, paired by seed, by a",
        "95% t-interval of the logarithm of their ratio.",
        "",
        f"Measured in {found['seconds'] / 60:.0f} minutes ({found['workers']} processes, networks that were in the bank not trained "
        f"again) with {what}.",
    ]


NETWORKS = {
    ("usual", "digits"): "A perceptron of 128 hidden units.",
    ("usual", "fashion-mnist"): "A balanced draw is not made; images are pooled to 14 x 14; two convolutions with batch normalisation.",
    ("tiny", "digits"): "A perceptron of 8 hidden units.",
    ("tiny", "fashion-mnist"): "Two convolutions with batch normalisation.",
    ("large", "fashion-mnist"): "ResNet-18 of width 32.",
    ("pretend", "fashion-mnist"): "Digits in its place; ResNet-18 of width 2.",
}


def _models(found, name):
    return next(iter(found["problems"][name].values()))["scene"][0]["num_models"]


def _answers(found):
    """Say first who does what, in counts."""
    lines = [
        "",
        "## In short",
        "",
        "Of how many cases, a problem and a forget set each, a method ends nearer to the oracles than retraining that costs what",
        "DEL costs, and than doing nothing; *both* is what makes it worth its while. Where a method is further than such a",
        "retraining in more cases than it is nearer, it loses.",
        "",
        "| | nearer than retraining | further | nearer than nothing | further | nearer than both | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for arm in (*PUBLISHED, *BASELINES, SAME_COST, NOTHING, "OracleMatching"):
        counts, idle = beside(found, arm, SAME_COST), beside(found, arm, NOTHING)
        if counts.cases:
            cells = [_of(counts.nearer, counts), _of(counts.further, counts), _of(idle.nearer, idle), _of(idle.further, idle)]
            cells.append(_of(_both(found, arm), counts))
            lines.append(f"| {arm} | {' | '.join(cells)} | {_verdict(counts, idle)} |")
    lines += ["", *_sentences(found)]
    return lines


def _of(count, counts):
    return f"{count} of {counts.cases}"


def _both(found, arm):
    return sum(
        against(distance(place, arm), distance(place, SAME_COST)) < 0
        and against(distance(place, arm), distance(place, NOTHING)) < 0
        for _, _, place in arms(found)
        if arm in place["arms"]
    )


def _verdict(counts, idle):
    words = []
    if counts.further > counts.nearer:
        words.append("loses to retraining")
    if idle.further > idle.nearer:
        words.append("worse than nothing")
    return ", ".join(words)


def _sentences(found):
    """Name who loses, and who has the most cases in which it is worth its while."""
    some = [arm for arm in (*PUBLISHED, *BASELINES) if beside(found, arm, SAME_COST).cases]
    losers = [arm for arm in some if "loses" in _verdict(beside(found, arm, SAME_COST), Counts())]
    most = max((_both(found, arm) for arm in some), default=0)
    best = [arm for arm in some if most and _both(found, arm) == most]
    lines = []
    if losers:
        lines.append(f"Losing to a retraining of DEL's cost in more cases than not: {', '.join(losers)}.")
    if best:
        lines.append(f"Nearer than both retraining and nothing most often: {', '.join(best)}, in {most} of the cases.")
    else:
        lines.append("None is nearer than both retraining and nothing in any case.")
    return lines


def _claims(found):
    lines = [
        "",
        "## What the papers claim",
        "",
        "Claims as abstracts put them, on networks a thousand times smaller than theirs: what does not appear here may well appear",
        f"there. *Near* is within {NEAR_POINTS:g} points; *removed* is at most {FORGOTTEN:.0%} on the class' test rows at every seed, at",
        f"most {KEPT_POINTS:g} points lost on the others'.",
        "",
        "| system | claim | here | verdict |",
        "|---|---|---|---|",
    ]
    return [*lines, *(f"| {one.system} | {one.claim} | {one.here} | **{one.appears}** |" for one in verdicts(found))]


def _overview(found):
    lines = ["", "## Distance to the oracles", ""]
    for problem, sets in found["problems"].items():
        lines += [
            f"{NAMES[problem]}; bold where it loses to retraining at DEL's cost, * where it is nearer.",
            "",
            "| | " + " | ".join(title_of(name) for name in sets) + " | cost |",
            "|---|" + "---:|" * (len(sets) + 1),
            "| *oracles* | "
            + " | ".join(str(_floor(place, "distance")) for place in sets.values())
            + " | 100% |",
        ]
        for arm in EVERY:
            if any(arm in place["arms"] for place in sets.values()):
                cells = " | ".join(_distance_cell(place, arm) for place in sets.values())
                lines.append(f"| {arm} | {cells} | {_span(sets, arm)} |")
        lines.append("")
    return lines[:-1]


def _floor(place, key):
    return Interval.of([one["floor"][key] for one in place["scene"]])


def _failed(place, arm):
    return any(row.get("failed") for row in place["arms"][arm])


def _distance_cell(place, arm):
    if arm not in place["arms"]:
        return ""
    sign = 0 if arm == SAME_COST else against(distance(place, arm), distance(place, SAME_COST))
    text = "failed" if _failed(place, arm) else str(Interval.of(distance(place, arm)))
    return f"**{text}**" if sign > 0 else f"{text} *" if sign < 0 else text


def _span(sets, arm):
    """Give the lowest and highest cost over the forget sets."""
    shares = [
        share
        for place in sets.values()
        if arm in place["arms"] and not _failed(place, arm)
        for share in values(place["arms"][arm], "trained_share")
    ]
    if not shares:
        return "-"
    low, high = (f"{100 * end:.0f}" for end in (min(shares), max(shares)))
    return f"{low}%" if low == high else f"{low} to {high}%"


def localization_words(found):
    """Answer in words whether localization helps, from the numbers."""
    some = [arm for arm in MASKED if masked(found, arm, "del", "none").cases]
    alone, chance = Counts(), Counts()
    for arm in some:
        alone, chance = alone + masked(found, arm, "del", "none"), chance + masked(found, arm, "del", "random")
    if not alone.cases:
        return ["Not measured."]
    lines = [
        f"Under DEL's mask the methods end nearer to the oracles than without one in {alone.nearer} of {alone.cases} cases beyond "
        f"the interval, further in {alone.further}; in {alone.even} it is open.",
        f"Against as many weights of each layer at random DEL's are nearer in {chance.nearer} of {chance.cases} cases, further in "
        f"{chance.further}, open in {chance.even}.",
        f"(By chance alone about {0.025 * alone.cases:.1f} of {alone.cases} would fall on either side.)",
    ]
    lines.append(_conclusion(alone, chance))
    return lines


def _conclusion(alone, chance):
    """Give the one sentence: does it help, and is it the choice of channels that does?"""
    luck = 0.025 * alone.cases
    helps, hurts = alone.nearer > max(alone.further, 2 * luck), alone.further > max(alone.nearer, 2 * luck)
    chosen = chance.nearer > max(chance.further, 2 * luck)
    if helps and chosen:
        return "So here it helps more often than it hurts, and the choice of channels has a part in it."
    if helps:
        return "So a mask helps here more often than it hurts, but one drawn at random does as well: where it lies does not matter."
    if hurts:
        better = "better than a random mask, but worse than none" if chosen else "and no better than a random mask"
        return f"So the answer here is no: localization hurts more often than it helps, {better}."
    better = "though the choice is better than chance" if chosen else "and its choice is not better than chance"
    return f"So the answer here is that it makes no difference that these numbers show, {better}."


def _localization(found):
    lines = [
        "",
        "## Does localization help?",
        "",
        "Each method alone, under the 30% of the weights that DEL would choose (weight times gradient, whole channels; without the",
        "head that DEL trains besides), and under as many of each layer drawn at random. The settings are those chosen without a",
        "mask, which does the masks no favour.",
        "",
        *localization_words(found),
        "",
    ]
    for problem in found["problems"]:
        lines.append(f"![{NAMES[problem]}: distance to the oracles under masks](../images/published-masks-{problem}.svg)")
    lines += [
        "",
        "| method | problem | DEL's mask against none | a random mask against none | DEL's against random |",
        "|---|---|---|---|---|",
    ]
    for arm in MASKED:
        for problem in found["problems"]:
            own = {**found, "problems": {problem: found["problems"][problem]}}
            pairs = [masked(own, arm, *pair) for pair in (("del", "none"), ("random", "none"), ("del", "random"))]
            if pairs[0].cases:
                lines.append(f"| {arm} | {NAMES[problem]} | " + " | ".join(_three(one) for one in pairs) + " |")
    return lines


def _three(counts):
    return f"nearer {counts.nearer}, open {counts.even}, further {counts.further}"


def _problem(found, problem):
    lines = ["", f"## {NAMES[problem]}"]
    for name, place in found["problems"][problem].items():
        lines += ["", f"### {title_of(name)} ({_rows(place)} rows)", "", *_accuracy_table(place), "", *_audit_table(place)]
        failed = [arm for arm in place["arms"] if _failed(place, arm)]
        for arm in failed:
            why = next(row["why"] for row in place["arms"][arm] if row.get("why"))
            lines += ["", f"{arm} failed: {why}"]
    return lines


def _rows(place):
    counts = sorted({one["num_forget"] for one in place["scene"]})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _arms_of(place):
    return [arm for arm in EVERY if arm in place["arms"] and not _failed(place, arm)]


def _accuracy_table(place):
    removed = "removed" in place["scene"][0]["oracles"]
    more = ["removed class, test", "other classes, test"] if removed else []
    heads = ["", "forget", "retain", "test", *more, "AUS", "beside same cost", "cost", "forward", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, key in (("oracles", "oracles"), ("originals", "originals")):
        rows = place["scene"]
        cells = [_points([one[key][part] for one in rows]) for part in (*PARTS, *(("removed", "others") if removed else ()))]
        aus = _aus([one["aus"] for one in rows]) if key == "oracles" else ""
        cost = "100%" if key == "oracles" else ""
        seconds = f"{_mean([one['retraining_seconds'] for one in rows]):.2g}" if key == "oracles" else ""
        lines.append("| " + " | ".join([f"*{name}: accuracy*", *cells, aus, "", cost, "", seconds]) + " |")
    for arm in _arms_of(place):
        rows = place["arms"][arm]
        cells = [_points(values(rows, "gap", part), sign=True) for part in PARTS]
        if removed:
            cells += [_points(values(rows, "accuracy", part)) for part in ("removed", "others")]
        sign = "" if arm == SAME_COST else SIGNS[against(distance(place, arm), distance(place, SAME_COST))]
        spent = [f"{100 * _mean(values(rows, key)):.0f}%" for key in ("trained_share", "forward_share")]
        cells += [_aus(values(rows, "aus")), sign, *spent, f"{_mean(values(rows, 'seconds')):.2g}"]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return lines


def _audit_table(place):
    keys = ["ulira", *(f"{kind}_{part}" for part in PARTS for kind in ("klom", "klom95"))]
    heads = ["", "U-LiRA", *(f"KLoM {part}{end}" for part in PARTS for end in ("", ", 95%")), "distance"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    lines.append("| " + " | ".join(["*oracles*", *(str(_floor(place, key)) for key in (*keys, "distance"))]) + " |")
    for arm in _arms_of(place):
        cells = [str(Interval.of(values(place["arms"][arm], key))) for key in (*keys, "distance")]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return lines


def _mean(some):
    return sum(some) / len(some)


def _points(some, *, sign=False):
    found = Interval.of([100 * one for one in some])
    return f"+{found}" if sign and found.mean > 0 and not str(found).startswith("0 ") else str(found)


def _aus(pairs):
    """Give the mean score, and its error from the networks of all seeds."""
    scores, errors = zip(*pairs, strict=True)
    return told(_mean(scores), 1.96 * sum(error**2 for error in errors) ** 0.5 / len(errors))


def _prepared(found):
    lines = ["", "## What is prepared once", ""]
    told_of = found.get("prepared", {})
    for problem, one in told_of.items():
        lines.append(
            f"- {NAMES[problem]}: the datamodel that DMM and the component sets rest on was made of {one['num_halves']} networks on "
            f"random halves, {one['retrainings']:.0f} retrainings' rows and {one['seconds']:.0f} s a seed (many networks trained as "
            "one). It serves every later request; DMM's cost above is that of one request and leaves it out."
        )
    lines += [
        "",
        "`OracleMatching` is told the held-out oracles' mean outputs: it shows what matching could reach, and no one can afford it.",
    ]
    return lines


def _settings(found, chosen):
    lines = [
        "",
        "## Settings",
        "",
        "Chosen among the trials in `benchmarks/results/published_settings.json`, which holds them all.",
        "",
    ]
    for problem in found["problems"]:
        kinds = chosen["chosen"][problem]
        for kind, recipes in kinds.items():
            lines += [f"{NAMES[problem]}, {KINDS[kind]}:", "", "| recipe | settings | trials that failed |", "|---|---|---:|"]
            for name, own in recipes.items():
                best = own["trials"][own["place"]]["settings"]
                words = ", ".join(f"{key} {_word(value)}" for key, value in best.items()) or "none"
                failed = sum("why" in row for row in own["trials"])
                lines.append(f"| {name} | {words} | {failed} of {len(own['trials'])} |")
            lines.append("")
    return lines[:-1]


KINDS = {
    "class": "a whole class",
    "random": "a random tenth",
    "two-class": "two classes",
    "component": "principal components",
}


def _word(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


__all__ = ["CONTROLS", "MASKS", "arms", "localization_words", "render"]
