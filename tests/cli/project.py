"""The words that the tests of the command line share."""

import json
from typing import NamedTuple

UNLEARN = {
    "--model": "mine:make",
    "--weights": "w.safetensors",
    "--data": "mine:train",
    "--forget": "ids.txt",
    "--out": "run",
}


def typed(options, **changes):
    """Give options as words; the keyword `data_root="x"` adds `--data-root x`."""
    own = {f"--{key.replace('_', '-')}": value for key, value in changes.items()}
    return [str(word) for pair in {**options, **own}.items() for word in pair]


class Done(NamedTuple):
    """What came back from a command."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one object on standard output."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out
        return json.loads(self.out)


def tree(directory):
    """Give every file below a directory with its bytes and the time it was written; folders too."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }
