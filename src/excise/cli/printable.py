"""Text that a terminal shows and does not obey: names of files, modules and recipes may have been chosen by anybody."""

from __future__ import annotations

import re
import unicodedata

# Control sequences (colours, cursor, titles, links, clipboard), begun by ESC and a letter, or by one character above 127.
_SEQUENCE = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # operating system commands, to their end
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x9c]*(?:\x1b\\|\x9c)?"  # device control strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)
_JOINERS = "\u200c\u200d"  # of scripts and of emoji


def printable(text: str) -> str:
    """Give text without control sequences; what else cannot be seen, or turns text around, as its escape.

    >>> printable("a\\x1b[2Jb \\u202ecod.exe")
    'ab \\\\u202ecod.exe'
    """
    return "".join(
        one
        if one in "\n\t" or one in _JOINERS or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else ascii(one)[1:-1]
        for one in _SEQUENCE.sub("", text)
    )
