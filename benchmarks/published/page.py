"""The page of the published systems, written from numbers alone: words that depend on numbers are made of them."""

import textwrap

from benchmarks.published.arms import BASELINES, MASKED, PUBLISHED
from benchmarks.published.claims import FORGOTTEN, KEPT_POINTS, NEAR_POINTS, verdicts
from benchmarks.published.numbers import NOTHING, SAME_COST, Counts, against, arms, beside, distance, masked
from benchmarks.published.scenes import DEALS
from benchmarks.published.tables import NAMES, mean, of_problem, overview


def render(found, chosen):
    """Give the page."""
    parts = [
        _head(found, chosen),
        _answers(found),
        _claims(found),
        overview(found),
        _localization(found),
        *(of_problem(found, problem) for problem in found["problems"]),
        _prepared(found),
        _settings(found, chosen),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def paragraph(*sentences):
    """Give sentences as lines."""
    return textwrap.wrap(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)


def _head(found, chosen):
    what = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    count = len(found["seeds"])
    return [
        "# Four published systems, beside oracles",
        "",
        *_trial(found),
        *paragraph(
            "Written by `python -m benchmarks.published`; do not edit.",
            "DMM, PGU, DUCK and JiT (what they do: [published systems](../published.md)) beside DEL, baselines, retraining",
            "that costs what DEL costs, doing nothing, and oracles: networks trained from scratch without the forget rows.",
        ),
        "",
        *(_of_problem(found, name) for name in found["problems"]),
        *(f"- {NAMES[name]} is left out: {why}" for name, why in found["absent"].items()),
        "",
        *paragraph(
            f"Every number is a mean over {count} training seeds, each with rows, forget sets, originals and oracles of its",
            f"own; ± is half of a 95% t-interval over these {count}. A recipe is put to every original of a seed.",
            "*Gaps* are accuracies less the oracles', in points.",
            "*U-LiRA* is the share of (network, forget row) pairs that an attacker with shadow networks calls rightly;",
            "*KLoM* is KL(unlearned || oracle) of a row's margins in nats, on average over rows and at their 95th percentile.",
            "With so few networks neither is near 0.5 or 0 even for retraining: the row *oracles* says what two arms of",
            f"oracles give, dealt anew {DEALS} times.",
            "*AUS* is DUCK's score; its ± is its error propagated over the networks of all seeds, times 1.96.",
            "*Distance* is the root mean square over rows of a network's margin less the oracles' mean, in units of the",
            "oracles' spread, averaged over forget, retain and test rows; two arms of oracles give about 1.",
            "*Cost* counts rows passed forward and backward as a share of one retraining's, *forward* those passed forward",
            "alone; seconds are the median of one request while all processes are at work.",
        ),
        "",
        *paragraph(
            f"Settings were chosen from {chosen['trials']} trials for every recipe, problem and kind of forget set, on",
            f"another seed ({chosen['seed']}; other networks, rows and forget sets, of the same data), by the mean distance of",
            f"{chosen['num_models']} networks: with oracles, which nobody has in practice, and the same for all.",
            "Half of the rows that no network was trained on are the holdout by which PGU and DUCK stop, the other half the",
            "test. *Nearer*, *open* and *loses* compare distances with those of `SameCostRetrain`, paired by seed, by a 95%",
            "t-interval of the logarithm of their ratio.",
        ),
        "",
        *paragraph(
            _took(found),
            f"Measured with {what}. `--large --device NAME` puts the same to all of Fashion-MNIST and a ResNet-18, on an",
            "accelerator; what that gives is no part of this page.",
        ),
    ]


def _trial(found):
    """Say of a run at tiny sizes that it is one."""
    if found["size"] in ("usual", "large"):
        return []
    return ["**A trial at sizes that say nothing, to see that all of it runs; no number here is to be quoted.**", ""]


def _of_problem(found, name):
    size = found["sizes"][name]
    models = next(iter(found["problems"][name].values()))["scene"][0]["num_models"]
    return (
        f"- {NAMES[name]}: {size['num_train']:,} rows to train on, {size['num_other'] // 2:,} to test; {models} originals at "
        f"each seed and, for each forget set, {models} oracles and {models} held-out oracles. {found['networks'][name]}"
    )


def _took(found):
    before = found["cells_found"]
    some = f", {before} of whose {found['cells']} cells had been done before" if before else ""
    return f"The run took {found['seconds'] / 60:.0f} minutes in {found['workers']} processes{some}."


def _answers(found):
    """Say first who does what, in counts."""
    lines = [
        "",
        "## In short",
        "",
        *paragraph(
            "In how many cases, a problem and a forget set each, a method ends nearer to the oracles than retraining that",
            "costs what DEL costs, and than doing nothing; only *both* makes it worth its while. A method that is further than",
            "that retraining in more cases than it is nearer loses.",
        ),
        "",
        "| | nearer than retraining | further | nearer than nothing | further | nearer than both | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for arm in (*PUBLISHED, *BASELINES, SAME_COST, NOTHING, "OracleMatching"):
        counts, idle = beside(found, arm, SAME_COST), beside(found, arm, NOTHING)
        if counts.cases:
            cells = [
                _of(counts.nearer, counts),
                _of(counts.further, counts),
                _of(idle.nearer, idle),
                _of(idle.further, idle),
            ]
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
        *paragraph(
            "Claims as abstracts and summaries put them, of networks a thousand times larger: what does not appear here may",
            f"well appear there. *Within {NEAR_POINTS:g} points* is of the mean over seeds. A class counts as removed with",
            f"at most {FORGOTTEN:.0%} left on its test rows and {KEPT_POINTS:g} points lost on the others', at every seed.",
            "*In part* is in half of the cases or more.",
        ),
        "",
        "| system | claim | here | verdict |",
        "|---|---|---|---|",
    ]
    every = verdicts(found)
    counts = {
        word: sum(one.appears == word for one in every) for word in ("appears", "in part", "does not appear", "not run")
    }
    missing = [f"{one.system}, {one.claim}" for one in every if one.appears == "does not appear"]
    return [
        *lines,
        *(f"| {one.system} | {one.claim} | {one.here} | **{one.appears}** |" for one in every),
        "",
        *paragraph(
            f"Of {len(every)} claims {counts['appears']} appear here, {counts['in part']} in part,",
            f"{counts['does not appear']} do not"
            + (f", and {counts['not run']} were not looked at." if counts["not run"] else "."),
            *([f"What does not: {'; '.join(missing)}."] if missing else []),
        ),
    ]


def localization_words(found):
    """Answer in words whether localization helps, from the numbers."""
    alone, chance = Counts(), Counts()
    for arm in MASKED:
        alone, chance = alone + masked(found, arm, "del", "none"), chance + masked(found, arm, "del", "random")
    if not alone.cases:
        return ["Not measured."]
    return [
        f"Under DEL's mask a method ends nearer to the oracles than without a mask in {alone.nearer} of {alone.cases} cases",
        f"beyond the interval, further in {alone.further}; in {alone.even} it is open.",
        f"Against as many weights of each layer at random DEL's are nearer in {chance.nearer} of {chance.cases} cases,",
        f"further in {chance.further}, open in {chance.even}.",
        f"(By chance alone about {SIDE * alone.cases:.1f} of {alone.cases} would fall on either side.)",
        f"**{_conclusion(alone, chance)}**",
    ]


SIDE = 0.025
"""Share of comparisons of equals that a 95% interval puts on one side."""


def _conclusion(alone, chance):
    """Give the one sentence: does it help, and is it the choice of channels that does?"""
    luck = 2 * SIDE * alone.cases
    helps, hurts = alone.nearer > max(alone.further, luck), alone.further > max(alone.nearer, luck)
    chosen, worse = chance.nearer > max(chance.further, luck), chance.further > max(chance.nearer, luck)
    end = (
        "and DEL's choice of channels is better than chance"
        if chosen
        else "and DEL's choice of channels is worse than chance"
        if worse
        else "and DEL's choice of channels is no better than chance"
    )
    if helps:
        return f"So here a mask helps more often than it hurts, {end}."
    if hurts:
        return f"So the answer here is no: localization hurts more often than it helps, {end}."
    return f"So the answer here is that these numbers show neither help nor harm, {end}."


def _localization(found):
    lines = [
        "",
        "## Does localization help?",
        "",
        *paragraph(
            "Each method alone, under the 30% of the weights that DEL would choose (weight times gradient, whole channels;",
            "without the head that DEL trains besides), and under as many of each layer drawn at random. The settings are",
            "those chosen without a mask, which does masks no favour.",
        ),
        "",
        *paragraph(*localization_words(found)),
        "",
    ]
    lines += [
        f"![{NAMES[problem]}: distance to the oracles under masks](../images/published-masks-{problem}.svg)"
        for problem in found["problems"]
    ]
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


def _prepared(found):
    lines = ["", "## What is prepared once", ""]
    for problem, seeds in found["prepared"].items():
        each = {key: mean([one[key] for one in seeds]) for key in ("num_halves", "retrainings", "seconds")}
        lines.append(
            f"- {NAMES[problem]}: the datamodel that DMM and the component sets rest on was made of {each['num_halves']:.0f} "
            f"networks on random halves, the rows of {each['retrainings']:.0f} retrainings and {each['seconds']:.0f} s at each "
            "seed (many networks trained as one). It serves every later request; DMM's cost above is that of one request and "
            "leaves it out."
        )
    lines += [
        "",
        *paragraph(
            "PGU is given second moments of the training rows, a forward pass over them once. `OracleMatching` is told the",
            "held-out oracles' mean outputs: it shows what matching could reach, and costs those oracles besides.",
        ),
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
            lines += [
                f"{NAMES[problem]}, {KINDS[kind]}:",
                "",
                "| recipe | settings | trials that failed |",
                "|---|---|---:|",
            ]
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
