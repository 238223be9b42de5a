"""The page of the audit of the audit, written from its numbers alone."""

from scipy import stats

from benchmarks.audit_budget import SECONDS
from benchmarks.audit_orders import ARMS
from benchmarks.audit_pools import PLAN

FAIL_BAR = 0.07
BAND = stats.binom.interval(0.95, 200, 0.05)
SETS = {
    "wrong": "all 128 wrong labels",
    "half": "64 wrong labels, 64 true ones",
    "fifth": "26 wrong labels, 102 true ones",
    "clean": "10 rows with true labels, drawn",
    "easy": "10 rows with true labels, the easiest",
}
TRACED = ("wrong", "half", "fifth")
PROMISED_SHARE = 0.8
MEMORY_BAR = 2 * 2**30


def percent(found):
    """Give a share with its interval."""
    rate = found["count"] / max(found["of"], 1)
    return f"{found['count']} of {found['of']} ({rate:.1%}; {found['low']:.1%} to {found['high']:.1%})"


def goals(found):
    """Give each goal: what, the figure, the bar, whether it is met, on how much."""
    yield from _nulls(found)
    yield from _caught(found)
    yield from _instruments(found)
    yield from _promise(found)
    yield from _cost(found)


def _nulls(found):
    for tier, name in (("T1", "one_network"), ("T2", "populations")):
        null = found[name]
        fails = null["verdicts"]["FAIL"]
        counts = f"{fails['of']} audits" + (f", {null['arm']} networks an arm" if tier == "T2" else ", 8 oracles each")
        yield (
            f"a retrained network is not failed, {tier}",
            f"FAIL {percent(fails)}",
            f"at most {FAIL_BAR:.0%}",
            fails["count"] <= FAIL_BAR * fails["of"],
            counts,
        )
        worst = max(null["measures"], key=lambda one: null["measures"][one]["alone"]["count"])
        alone = null["measures"][worst]["alone"]
        yield (
            f"nor by any deciding measure alone (p at most 0.05), {tier}",
            f"most often `{worst}`: {percent(alone)}",
            f"at most {FAIL_BAR:.0%}",
            alone["count"] <= FAIL_BAR * alone["of"],
            counts,
        )


def _caught(found):
    nothing = found["nothing"]
    fails = sum(nothing[name]["verdicts"]["FAIL"]["count"] for name in TRACED)
    trials = sum(nothing[name]["verdicts"]["FAIL"]["of"] for name in TRACED)
    least = min(nothing[name]["memorised"] for name in TRACED)
    yield (
        "doing nothing is caught where at least a fifth of the rows are memorised",
        f"FAIL {fails} of {trials}",
        "at least 99 of 100",
        fails >= 0.99 * trials,
        f"three forget sets, {least:.0%} to 100% of their rows memorised",
    )
    easy = nothing["easy"]["verdicts"]
    yield (
        "doing nothing never passes where the rows left no trace",
        "; ".join(f"{word} {one['count']}" for word, one in easy.items() if one["count"]),
        "no PASS",
        easy["PASS"]["count"] == 0,
        f"{easy['PASS']['of']} audits of ten easy rows",
    )
    rows = [*found["degenerate"], *found["degenerate_populations"]]
    ended = [one["verdict"] for one in rows]
    unfit = sum(one not in ("FAIL", "INVALID") for one in ended)
    yield (
        "a degenerate method never passes",
        f"PASS {ended.count('PASS')} of {len(rows)}",
        "0",
        "PASS" not in ended,
        "nine at T1, five at T2",
    )
    yield (
        "and ends as FAIL or INVALID",
        f"{len(rows) - unfit} of {len(rows)}" + (f"; refused {ended.count('refused')}" if unfit else ""),
        "all",
        unfit == 0,
        "the same",
    )
    broken = sum(one["not_finite"] for one in rows)
    yield (
        "and no number of its audit is NaN or infinite",
        f"{broken} in {sum(one['num_measures'] for one in rows)} measures",
        "0",
        broken == 0,
        "the same",
    )


def _instruments(found):
    for partial in _partials(found):
        means = ", ".join(f"{one:.3f}" for one in partial["mean"])
        yield (
            "U-LiRA orders nothing > 10 epochs of finetuning > 30 > retraining",
            f"{partial['ordered']} of {len(partial['rows'])} seeds; means {means}",
            "at least 9 of 10",
            partial["ordered"] >= 0.9 * len(partial["rows"]),
            f"{partial['arm']} networks an arm, each seed with rows and networks of its own",
        )
    attack = found["population_attack"]
    no, yes = attack["nothing"]["verdicts"]["FAIL"], attack["retrained"]["verdicts"]["PASS"]
    yield (
        "a population attack decides nothing: half of the rows mislabelled",
        f"its AUC {attack['nothing']['auc']:.2f} for doing nothing (FAIL {no['count']} of {no['of']}), "
        f"{attack['retrained']['auc']:.2f} for retraining (PASS {yes['count']} of {yes['of']})",
        "FAIL all, PASS at least 90%",
        no["count"] == no["of"] and yes["count"] >= 0.9 * yes["of"],
        f"{no['of']} audits each",
    )
    rmia = found["membership"]
    apart = max(abs(rmia[name]["one"] - rmia[name]["sixteen"]) for name in ("nothing", "retrained"))
    yield (
        "RMIA with 1 reference gives what 16 give",
        f"mean AUC {rmia['nothing']['one']:.4f} and {rmia['nothing']['sixteen']:.4f} (nothing), "
        f"{rmia['retrained']['one']:.4f} and {rmia['retrained']['sixteen']:.4f} (retrained)",
        "0.02 apart",
        apart <= 0.02,
        f"{rmia['num_networks']} networks, 16 references",
    )
    yield (
        "and retraining lies within the band of chance",
        f"{rmia['inside']} of {rmia['num_networks']} within {rmia['band'][0]:.3f} to {rmia['band'][1]:.3f}",
        "at least 95%",
        rmia["inside"] >= 0.95 * rmia["num_networks"],
        f"128 rows against {rmia['non_members']}",
    )
    again = found["relearning"]
    low, high = min(again["indices"]), max(again["indices"])
    yield (
        "retrained networks relearn as fast as one another (Anamnesis index)",
        f"{low:.2f} to {high:.2f}",
        "0.8 to 1.25",
        low >= 0.8 and high <= 1.25,
        f"{len(again['indices'])} networks, {again['num_seeds']} seeds each",
    )


def _promise(found):
    for name in SETS:
        row = next(one for one in found["effects"] if one["set"] == name and one["effect"] == 0.5)
        told = row["promised"]
        if told is None:
            continue
        yield (
            f"half of the trace, where a PASS would promise to see it: {SETS[name]}",
            f"noticed {percent(told)}",
            f"at least {PROMISED_SHARE:.0%}",
            told["count"] >= PROMISED_SHARE * told["of"],
            f"{told['of']} of {row['fail']['of']} audits would promise it",
        )


def _cost(found):
    measured = {(row["threads"], row["tier"]): row for row in found.get("budget", [])}
    for threads in (1, 2):
        for tier, limit in SECONDS.items():
            row = measured.get((threads, tier))
            what = f"`excise audit --tier {tier}`, {threads} thread{'s' if threads > 1 else ''}"
            bar = f"{limit} s, 2 GiB"
            if row is None:
                yield what, "not measured to its end", bar, False, "stopped while other work held both cores"
                continue
            yield (
                what,
                f"{row['seconds']:.1f} s ({row['processor_seconds']:.1f} s of processor), {row['peak_bytes'] / 2**30:.2f} GiB",
                bar,
                row["verdict"] != "stopped" and row["seconds"] <= limit and row["peak_bytes"] <= MEMORY_BAR,
                f"one run, empty bank, load {row['load_before']:.1f} on 2 cores before it",
            )


def render(found):
    """Give the page."""
    told = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    wrong = found["networks"]["wrong"]
    original, oracle = wrong["originals"], wrong["oracles"]
    lines = [
        "# The audit, audited",
        "",
        "Written by `python -m benchmarks.audits`; do not edit. Networks whose history is known are audited like any other:",
        "retrained ones must not fail, ones that nothing was done to must, and methods that cheat must not pass.",
        "",
        "All are MLPs (64-128-10) on scikit-learn's digits with a tenth of the labels planted wrong,",
        f"{wrong['num_retain']} rows to retain and {wrong['num_test']} to test on; {PLAN.optimizer} at {PLAN.lr:g} for "
        f"{PLAN.epochs} epochs, long enough to learn wrong labels by heart:",
        f"{original['count']} originals get {original['forget']:.1%} of them right as planted, {oracle['count']} networks "
        f"retrained without them {oracle['forget']:.1%}.",
        "One problem, seed 0, but for the ordering by U-LiRA (seeds 1 to 10). Audits draw their networks from pools, none",
        "twice in one audit; since audits share networks, the exact 95% intervals in brackets (Clopper-Pearson) are narrow.",
        f"Of 200 independent audits at the nominal 5%, {BAND[0]:.0f} to {BAND[1]:.0f} would fail in 95% of such runs.",
        "",
        f"Measured with {told}.",
        "",
        "| goal | figure | bar | met | on |",
        "|---|---|---|---|---|",
    ]
    for what, figure, bar, met, counts in goals(found):
        lines.append(f"| {what} | {figure} | {bar} | {'yes' if met else '**no**'} | {counts} |")
    lines += [*_null_tables(found), *_nothing_table(found), *_trace_tables(found), *_degenerate_table(found)]
    lines += [*_partial_table(found), *_rest(found)]
    return "\n".join(lines) + "\n"


def _null_tables(found):
    lines = [
        "",
        "## What a retrained network is told",
        "",
        "| | " + " | ".join(("PASS", "FAIL", "INCONCLUSIVE", "INVALID")) + " |",
        "|---|---:|---:|---:|---:|",
    ]
    for tier, name in (("T1", "one_network"), ("T2", "populations")):
        cells = [f"{one['count'] / one['of']:.1%}" for one in found[name]["verdicts"].values()]
        lines.append(f"| {tier} | {' | '.join(cells)} |")
    lines += ["", "| deciding measure | tier | p at most 0.05 | rejected after Holm |", "|---|---|---:|---:|"]
    for tier, name in (("T1", "one_network"), ("T2", "populations")):
        for measure, row in found[name]["measures"].items():
            lines.append(f"| `{measure}` | {tier} | {percent(row['alone'])} | {percent(row['after_holm'])} |")
    told = []
    for tier, name in (("T1", "one_network"), ("T2", "populations")):
        wrong = [f"`{key}` {one['count']} of {one['of']}" for key, one in found[name]["controls"].items()]
        told.append(f"{tier} {', '.join(wrong)}")
    return [*lines, "", f"Controls that came out wrong: {'; '.join(told)}."]


def _nothing_table(found):
    lines = [
        "",
        "## What doing nothing is told",
        "",
        "The fault *bit for bit the original* is left out here, so that the measures have to find it. A row counts as",
        "memorised if 50 points more of the originals get it right than of the oracles. Trace: mean log-odds of originals",
        "minus oracles'.",
        "",
        "| forget set | memorised | trace | PASS | FAIL | INCONCLUSIVE | INVALID |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in SETS:
        row = found["nothing"][name]
        cells = [str(one["count"]) for one in row["verdicts"].values()]
        lines.append(f"| {SETS[name]} | {row['memorised']:.0%} | {row['trace']:.2f} | {' | '.join(cells)} |")
    return lines


def _trace_tables(found):
    lines = [
        "",
        "## What is noticed of a trace",
        "",
        "Networks trained with a share of the wrong labels left in, audited for all of them:",
        "",
        "| rows left in | share of the trace left | forget accuracy | FAIL | networks |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['rows_left']:.1%} | {row['trace_left']:.0%} | {row['forget_accuracy']:.1%} | {percent(row['fail'])} | "
        f"{row['num_networks']} |"
        for row in found["left_behind"]
    ]
    lines += [
        "",
        "Oracles whose log-odds of the forget rows alone were moved a share of the way to an original's. *Promised* counts the",
        "audits that say they would notice this share; *its own* moves each by just what its audit says it would notice with",
        "probability 0.8.",
        "",
        "| forget set | share | FAIL | FAIL where promised |",
        "|---|---:|---:|---:|",
    ]
    for row in found["effects"]:
        how = f"its own ({row['mean']:.0%} on average)" if row["effect"] is None else f"{row['effect']:.1%}"
        promised = "no audit promises it" if row["promised"] is None else percent(row["promised"])
        lines.append(f"| {SETS[row['set']]} | {how} | {percent(row['fail'])} | {promised} |")
    return lines


def _degenerate_table(found):
    lines = ["", "## Degenerate methods", "", "| method | tier | verdict | first reason |", "|---|---|---|---|"]
    rows = [*found["degenerate"], *found["degenerate_populations"]]
    return [*lines, *(f"| {row['method']} | {row['tier']} | {row['verdict']} | {row['reason']} |" for row in rows)]


def _partials(found):
    return [found[name] for name in ("partial", "partial_wide") if name in found]


def _partial_table(found):
    lines = [
        "",
        "## Finetuning, by U-LiRA",
        "",
        f"64 wrong and 64 true labels to forget; SGD at {found['partial']['lr']:g} on the retain rows, chosen on seed 0.",
        "",
        "| networks an arm | seed | " + " | ".join(ARMS) + " | ordered |",
        "|---:|---:|" + "---:|" * len(ARMS) + "---|",
    ]
    for partial in _partials(found):
        for row in partial["rows"]:
            cells = " | ".join(f"{one:.4f}" for one in row["accuracy"])
            ordered = "yes" if row["ordered"] else "no"
            lines.append(f"| {partial['arm']} | {row['seed']} | {cells} | {ordered} |")
    return [
        *lines,
        "",
        "The wrong labels are told apart in every arm but the last, so the order rests on the true ones,",
        "by less than a point: about what two draws of so few networks differ by.",
    ]


def _runs(again):
    return len(again["indices"]) * again["num_seeds"]


def _rest(found):
    again, rmia = found["relearning"], found["membership"]
    seconds = found["seconds"]
    processor = sum(one["processor"] for one in seconds.values())
    wall = sum(one["wall"] for one in seconds.values())
    return [
        "",
        "## Remarks",
        "",
        f"- Relearning: oracles need {again['oracle_steps']:.0f} steps; the original's index is {again['index_original']:.3f}, "
        f"an untrained network's {again['index_untrained']:.2f}. Of {_runs(again)} runs, given {again['longer']} times as many "
        f"epochs as an audit gives, {again['num_censored']} do not reach the level. By the epochs that an audit gives, "
        f"{again['censored_by_audit']} do not: its `relearning` says little of networks like these.",
        f"- RMIA: one network's AUC with one reference lies {rmia['nothing']['apart']:.5f} (nothing) and "
        f"{rmia['retrained']['apart']:.5f} (retrained) from that with sixteen on average, "
        f"{rmia['nothing']['furthest']:.4f} and {rmia['retrained']['furthest']:.4f} at most. The rows beside the forget rows "
        "have planted wrong labels as well.",
        f"- All but the cost of audits took {processor:.0f} s of one core ({wall:.0f} s on a machine with other work), beside "
        "the training of networks that a bank held.",
        "- Half of the trace of ten drawn rows: so few audits promise to see it, each from a low draw of the spread, that the "
        "interval decides nothing.",
    ]
