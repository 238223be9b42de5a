"""Run the demo, keep its numbers in benchmarks/results/demo.json, and write its table into README.md.

`python -m benchmarks.story`; with `--render`, only write the table again from the kept numbers.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "results" / "demo.json"
BEGIN, END = "<!-- demo:begin -->\n", "<!-- demo:end -->"
TITLES = {"mislabelled": "wrong labels", "iid": "a random tenth", "non-iid": "two classes"}
PARTS = ("forget", "retain", "test")


def table(splits: dict) -> str:
    """Give the demo's splits as one Markdown table."""
    lines = ["| forget set | | forget | retain | test | seconds | cost |", "|---|---|---:|---:|---:|---:|---:|"]
    for name, split in splits.items():
        first = split["rows"][0]
        bands = [
            f"{100 * first['oracle_mean'][part]:.1f} ± {100 * (first['band'][part][1] - first['oracle_mean'][part]):.1f}"
            for part in PARTS
        ]
        lines.append(
            f"| {TITLES[name]} ({split['num_forget']} rows) | *{split['num_oracles']} oracles* | "
            f"{' | '.join(bands)} | {split['oracle_seconds']:.2f} | 100% |"
        )
        for row in split["rows"]:
            cells = " | ".join(cell(row, part) for part in PARTS)
            lines.append(f"| | {row['recipe']} | {cells} | {row['seconds']:.2f} | {row['retraining_share']:.0%} |")
    return "\n".join(lines) + "\n"


def cell(row: dict, part: str) -> str:
    """Give one accuracy with its gap, bold inside the oracles' band."""
    low, high = row["band"][part]
    text = f"{100 * row[f'{part}_accuracy']:.1f} ({100 * row['gap'][part]:+.1f})"
    return f"**{text}**" if low <= row[f"{part}_accuracy"] <= high else text


def with_table(readme: str, splits: dict) -> str:
    """Give the README with the table between its markers."""
    head, rest = readme.split(BEGIN)
    return head + BEGIN + table(splits) + END + rest.split(END)[1]


def main() -> None:
    """Run, keep, write."""
    if "--render" not in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                str(Path(sys.executable).with_name("excise")),
                "demo",
                "--json",
                "--quiet",
                "--out",
                f"{folder}/demo",
            ]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            record = json.loads((Path(folder) / "demo" / "run.json").read_text())
        kept = {"environment": record["request"]["environment"], "seconds": found["seconds"], "splits": found["splits"]}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(), json.loads(KEPT.read_text())["splits"]))


if __name__ == "__main__":
    main()
