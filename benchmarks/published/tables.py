"""The tables of the page of the published systems."""

from benchmarks.published.arms import EVERY
from benchmarks.published.numbers import SAME_COST, Interval, against, distance, told, values
from benchmarks.published.problems import PARTS, title_of

NAMES = {"digits": "Digits", "fashion-mnist": "Fashion-MNIST"}
SIGNS = {-1: "nearer", 0: "open", 1: "**loses**"}


def overview(found):
    """Give the distances of every recipe on every forget set."""
    lines = ["", "## Distance to the oracles", ""]
    for problem, sets in found["problems"].items():
        lines += [
            f"{NAMES[problem]}; bold where it loses to retraining at DEL's cost, * where it is nearer.",
            "",
            "| | " + " | ".join(title_of(name) for name in sets) + " | cost |",
            "|---|" + "---:|" * (len(sets) + 1),
            "| *oracles* | " + " | ".join(str(floor(place, "distance")) for place in sets.values()) + " | 100% |",
        ]
        for arm in EVERY:
            if any(arm in place["arms"] for place in sets.values()):
                cells = " | ".join(_distance_cell(place, arm) for place in sets.values())
                lines.append(f"| {arm} | {cells} | {_span(sets, arm)} |")
        lines.append("")
    return lines[:-1]


def floor(place, key):
    """Give what two arms of oracles give."""
    return Interval.of([one["floor"][key] for one in place["scene"]])


def failed(place, arm):
    """Say whether an arm gave no finite network for some original."""
    return any(row.get("failed") for row in place["arms"][arm])


def _distance_cell(place, arm):
    if arm not in place["arms"]:
        return ""
    sign = 0 if arm == SAME_COST else against(distance(place, arm), distance(place, SAME_COST))
    text = "failed" if failed(place, arm) else str(Interval.of(distance(place, arm)))
    return f"**{text}**" if sign > 0 else f"{text} *" if sign < 0 else text


def _span(sets, arm):
    """Give the lowest and highest cost over the forget sets."""
    shares = [
        share
        for place in sets.values()
        if arm in place["arms"] and not failed(place, arm)
        for share in values(place["arms"][arm], "trained_share")
    ]
    if not shares:
        return "-"
    low, high = (f"{100 * end:.0f}" for end in (min(shares), max(shares)))
    return f"{low}%" if low == high else f"{low} to {high}%"


def of_problem(found, problem):
    """Give a problem's tables: for each forget set one of accuracies and costs, one of audits."""
    lines = ["", f"## {NAMES[problem]}"]
    for name, place in found["problems"][problem].items():
        lines += [
            "",
            f"### {title_of(name)} ({_rows(place)} rows)",
            "",
            *_accuracy_table(place),
            "",
            *_audit_table(place),
        ]
        for arm in (one for one in place["arms"] if failed(place, one)):
            why = next(row["why"] for row in place["arms"][arm] if row.get("why"))
            lines += ["", f"{arm} failed: {why}"]
    return lines


def _rows(place):
    counts = sorted({one["num_forget"] for one in place["scene"]})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _arms_of(place):
    return [arm for arm in EVERY if arm in place["arms"] and not failed(place, arm)]


def _accuracy_table(place):
    removed = "removed" in place["scene"][0]["oracles"]
    more = ["removed class, test", "other classes, test"] if removed else []
    heads = ["", "forget", "retain", "test", *more, "AUS", "beside same cost", "cost", "forward", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, key in (("oracles", "oracles"), ("originals", "originals")):
        rows = place["scene"]
        cells = [
            _points([one[key][part] for one in rows]) for part in (*PARTS, *(("removed", "others") if removed else ()))
        ]
        aus = _aus([one["aus"] for one in rows]) if key == "oracles" else ""
        cost = "100%" if key == "oracles" else ""
        seconds = f"{mean([one['retraining_seconds'] for one in rows]):.2g}" if key == "oracles" else ""
        lines.append("| " + " | ".join([f"*{name}: accuracy*", *cells, aus, "", cost, "", seconds]) + " |")
    for arm in _arms_of(place):
        rows = place["arms"][arm]
        cells = [_points(values(rows, "gap", part), sign=True) for part in PARTS]
        if removed:
            cells += [_points(values(rows, "accuracy", part)) for part in ("removed", "others")]
        sign = "" if arm == SAME_COST else SIGNS[against(distance(place, arm), distance(place, SAME_COST))]
        spent = [f"{100 * mean(values(rows, key)):.0f}%" for key in ("trained_share", "forward_share")]
        cells += [_aus(values(rows, "aus")), sign, *spent, f"{mean(values(rows, 'seconds')):.2g}"]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return lines


def _audit_table(place):
    keys = ["ulira", *(f"{kind}_{part}" for part in PARTS for kind in ("klom", "klom95"))]
    heads = ["", "U-LiRA", *(f"KLoM {part}{end}" for part in PARTS for end in ("", ", 95%")), "distance"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    lines.append("| " + " | ".join(["*oracles*", *(str(floor(place, key)) for key in (*keys, "distance"))]) + " |")
    for arm in _arms_of(place):
        cells = [str(Interval.of(values(place["arms"][arm], key))) for key in (*keys, "distance")]
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    return lines


def mean(some):
    return sum(some) / len(some)


def _points(some, *, sign=False):
    found = Interval.of([100 * one for one in some])
    return f"+{found}" if sign and found.mean > 0 and not str(found).startswith("0 ") else str(found)


def _aus(pairs):
    """Give the mean score, and its error from the networks of all seeds."""
    scores, errors = zip(*pairs, strict=True)
    return told(mean(scores), 1.96 * sum(error**2 for error in errors) ** 0.5 / len(errors))
