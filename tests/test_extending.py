"""The page on extending does what it says: its Python runs as it stands, and its table is the checks."""

from pathlib import Path

import excise
from excise.testing import check_method
from excise.testing.checking import table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"


def test_the_table_of_checks_is_that_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition("compares -->\n\n")[2] == table()


def test_the_snippets_run_as_they_stand():
    blocks = [part.split("```")[0] for part in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]]
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "extending.md", "exec"), names)
    assert issubclass(names["Shrink"], excise.methods.Method)
    assert len(blocks[0].strip().splitlines()) <= 15
    assert all(check.outcome != "failed" for check in check_method(names["Margin"]))
    assert names["test_shrink"].pytestmark[0].name == "parametrize"


def test_the_entry_points_shown_are_those_of_the_example():
    def points(text):
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return {line for line in lines if "excise_shrink:" in line}

    shown = PAGE.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert points(shown) == points((ROOT / "examples" / "excise-shrink" / "pyproject.toml").read_text(encoding="utf-8"))
