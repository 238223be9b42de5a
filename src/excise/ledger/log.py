"""`Log`: the receipts of a model's life, each bound to the one before; it only grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from excise import errors, verify
from excise.store.logs import appending, read_lines


class Log:
    """An append-only file of receipts, one canonical line each, chained by their hashes.

    Args:
        path: of the file; made at the first receipt.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, build: Callable[[int, str], dict[str, Any]]) -> dict[str, Any]:
        """Add a receipt, and give it sealed once the disk has it. Who appends meanwhile, in any process, waits.

        Args:
            build: from the number of the entry (counted from 1) and the hash of the one before to the receipt, see
                `excise.ledger.receipt`; called once, while nobody else can append.

        Raises:
            errors.Refused: the receipt is not one that `excise verify` would take; nothing is written.
            errors.Corrupt: the last entry of the log was changed.
            errors.DiskError: the log could not be written; it is as it was before.
        """
        with appending(self.path, _is_whole) as appender:
            head = self._head(appender.last)
            built = build(head["seq"] + 1, head["hash"])
            try:
                sealed = verify.sealed(built)
                line = verify.canonical(sealed)
            except verify.Unreadable as error:
                raise errors.Refused(f"a receipt cannot enter {self.path}: {error}; nothing was written") from error
            _, found = verify.entry_faults(line)
            if (sealed.get("seq"), sealed.get("prev")) != (head["seq"] + 1, head["hash"]):
                found.append(f"it should be entry {head['seq'] + 1} after {head['hash']}")
            if found:
                raise errors.Refused(
                    f"a receipt that would not stand up cannot enter {self.path}: {'; '.join(found)}; nothing was written"
                )
            appender.append(line)
        return sealed

    def receipts(self) -> list[dict[str, Any]]:
        """Give all receipts in order, the whole log checked; none where there is no file yet.

        Raises:
            errors.Corrupt: an entry is not what it was, with its number.
        """
        content = self._content()
        read = [verify.entry_faults(line) for line in content.split(b"\n")[:-1]]
        found = [f"entry {seq}: {one}" for seq, (_, some) in enumerate(read, 1) for one in some]
        if found := verify.log_faults(content) or found:
            raise errors.Corrupt(f"{self.path}: {found[0]}; restore it from a copy")
        return [receipt for receipt, _ in read]

    def head(self) -> dict[str, Any]:
        """Give `{"seq", "hash"}` of the last receipt; number 0 before the first. To be kept where the log's owner cannot write.

        Raises:
            errors.Corrupt: the last entry was changed.
        """
        lines = self._content().split(b"\n")[:-1]
        return self._head(lines[-1] if lines else None)

    def _content(self) -> bytes:
        return read_lines(self.path) if self.path.exists() else b""

    def _head(self, last: bytes | None) -> dict[str, Any]:
        if last is None:
            return {"seq": 0, "hash": verify.GENESIS}
        receipt, found = verify.entry_faults(last)
        if receipt is None or found:
            raise errors.Corrupt(f"{self.path}: its last entry is not what it was: {found[0]}; restore it from a copy")
        return {"seq": receipt["seq"], "hash": receipt["hash"]}


def _is_whole(line: bytes) -> bool:
    return not verify.entry_faults(line)[1]
