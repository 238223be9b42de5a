"""The same commands in interpreters of their own, whose surroundings differ in what should not matter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.crash.pictures import picture
from tests.crash.project import AUDIT, UNLEARN, Stages
from tests.crash.server import Place

SURROUNDINGS: dict[str, dict[str, str]] = {
    "hash seed 0": {"PYTHONHASHSEED": "0"},
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "a random hash seed": {"PYTHONHASHSEED": "random"},
    "another time zone": {"TZ": "Asia/Kathmandu"},
    "another language": {"LANG": "tr_TR.UTF-8", "LC_ALL": "C"},
}


def repeated(stages: Stages, root: Path, surroundings: dict[str, str]) -> dict[str, object]:
    """Unlearn and look at the result in interpreters of their own; give what they leave."""
    place = stages.after(None).copied_to(root)
    for words in (UNLEARN, (*AUDIT, "--tier", "T0")):
        _shell(place, words, surroundings)
    return picture(place)


def _shell(place: Place, words: tuple[str, ...], surroundings: dict[str, str]) -> None:
    code = "import sys; from excise.cli.main import run; sys.argv[0] = 'excise'; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=place.work,
        env={**os.environ, **place.surroundings(), "PYTHONDONTWRITEBYTECODE": "1", **surroundings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
