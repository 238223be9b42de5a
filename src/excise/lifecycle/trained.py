"""The rows that a network was trained on, found again by content: in the ledger they are keyed digests and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from excise import errors
from excise.data import Rows, Rule, Split
from excise.ledger import merkle
from excise.ledger.commitments import Key, record_digests
from excise.ledger.manifest import Manifest


class _First(Rule):
    """Some row, to have a split checked before anything is to be forgotten."""

    def ids(self, train: Rows) -> Tensor:
        return train.ids[:1]


class Trained:
    """Training, test and holdout rows of a network, and the digest of each training row under one key.

    Args:
        train: as for `Split`.
        test: as for `Split`; needed, since every run is audited.
        holdout: as for `Split`.

    Attributes:
        rows: the network was trained on.
        test: never trained on.
        holdout: neither, or None.

    Raises:
        errors.BadSplit: as for `Split`, or no test rows.
    """

    def __init__(self, train: object, *, test: object, holdout: object = None) -> None:
        self._given = train, test, holdout
        split = Split(train, forget=_First(), test=test, holdout=holdout)
        if split.test is None:
            raise errors.BadSplit(
                "test: every run of a ledger is audited, on rows the network never saw; give test rows"
            )
        self.rows: Rows = split.train
        self.test: Rows = split.test
        self.holdout: Rows | None = split.holdout
        self._digests: tuple[str, list[bytes]] | None = None
        self._roots: tuple[str, tuple[str, str]] | None = None
        self._manifest: Manifest | None = None

    def digests(self, key: Key) -> list[bytes]:
        """Give the digest of each training row, in order; reads every row, the first time.

        Raises:
            errors.BadData: rows that differ from one reading to the next.
        """
        if self._digests is None or self._digests[0] != key.id:
            self._digests = key.id, record_digests(self.rows, key)
        return self._digests[1]

    def roots(self, key: Key) -> tuple[str, str]:
        """Give the Merkle roots over the digests of test and of holdout rows, ascending; empty where there is no holdout.

        Reads them the first time.

        Raises:
            errors.BadSplit: test rows that are exact copies of training rows.
        """
        if self._roots is None or self._roots[0] != key.id:
            self._roots = key.id, self._unseen(key)
        return self._roots[1]

    def _unseen(self, key: Key) -> tuple[str, str]:
        tested = sorted(record_digests(self.test, key))
        held = [] if self.holdout is None else sorted(record_digests(self.holdout, key))
        copies = len(set(tested).intersection(self.digests(key)))
        if copies:
            raise errors.BadSplit(
                f"test: {copies} of its {len(tested)} rows are exact copies of training rows, and do not show what the "
                "network does with rows it never saw; take them out"
            )
        return merkle.root(tested).hex(), merkle.root(held).hex() if held else ""

    def ids_of(self, digests: Collection[bytes], key: Key) -> Tensor:
        """Give the ids of every row with one of these digests: exact copies all have the same. Absent ones are left out."""
        wanted = set(digests)
        found = [place for place, one in enumerate(self.digests(key)) if one in wanted]
        return self.rows.ids[torch.tensor(found, dtype=torch.int64)]

    def split(self, forget: Tensor, gone: Tensor) -> Split:
        """Give the split of one run.

        Args:
            forget: ids of the rows to forget now.
            gone: ids of those that were forgotten before, which are no training rows any more.
        """
        train, test, holdout = self._given
        whole = Split(train, forget=torch.cat([forget, gone]), test=test, holdout=holdout)
        return whole.narrowed(forget, gone=gone)

    def manifest(self, path: Path) -> Manifest:
        """Give the manifest in a file, which is read and checked each time; one that is as it was then keeps its root.

        Raises:
            errors.BadData: there is none.
            errors.Corrupt: it was changed.
        """
        found = Manifest.load(path)
        if self._manifest is None or self._manifest.seal != found.seal:
            self._manifest = found
        return self._manifest

    def require_life(self, manifest: Manifest, forgotten: Collection[bytes], key: Key) -> None:
        """Refuse training data that are not those of the manifest, in its order; rows that were forgotten may be gone.

        Args:
            manifest: of the beginning.
            forgotten: digests of rows that an answered request named.
            key: of the digests.

        Raises:
            errors.Corrupt: rows are missing, new, changed, or in another order.
        """
        if manifest.holds_exactly(self.digests(key)):
            return
        told = [row.tobytes() for row in manifest.digests]
        own = self.digests(key)
        place, missing = 0, []
        for one in told:
            if place < len(own) and own[place] == one:
                place += 1
            else:
                missing.append(one)
        lost = [one for one in missing if one not in forgotten]
        if place < len(own) or lost:
            known = set(told)
            strange = sum(one not in known for one in own)
            raise errors.Corrupt(
                f"the training data are not those of the ledger's manifest: {len(own)} rows here, {len(told)} there; "
                f"{strange} of these were not there, and others changed their place or are gone without having been "
                "forgotten; give the data that the network was trained on"
            )
