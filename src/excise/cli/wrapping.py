"""Lines for a terminal: broken between words, never inside one, so that a path can be copied."""

from __future__ import annotations

import textwrap


def wrapped(text: str, width: int) -> str:
    """Break each line of `text` that is longer than `width`; what continues a line is indented as it is.

    >>> print(wrapped("  a path that is long enough to be broken", 24))
      a path that is long
      enough to be broken
    """
    return "\n".join(_broken(line, width) for line in text.splitlines())


def _broken(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(line, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
