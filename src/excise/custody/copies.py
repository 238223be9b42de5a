"""Every file that saw the rows of a removal: in its run directory, in a bank of networks, and in places that somebody names."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import torch

from excise import errors, store
from excise.custody.claims import claimed, is_paper
from excise.custody.contents import OPAQUE, contents, holds_bytes, readable
from excise.custody.datamodels import KIND as DATAMODEL
from excise.custody.datamodels import datamodel_reason
from excise.custody.finding import ORDER, Finding, Reason, weightiest
from excise.custody.moments import KIND as MOMENTS
from excise.custody.moments import moments_reason
from excise.custody.network import patch_reason
from excise.custody.places import MOST_FILES, files_in, lies_in
from excise.custody.traced import ROWS, Traced
from excise.oracles.bank import KINDS, TRAINING, UNFINISHED, Bank, Entry, entry_of
from excise.store.keys import keys_home

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp")
_LONGEST_WRITE_SECONDS = 3600.0
_LEAST_READ_BYTES = 2**28


def find_copies(
    traced: Traced,
    places: Collection[Path] = (),
    bank: Bank | None = None,
    *,
    apart: Collection[Path] = (),
    most_files: int = MOST_FILES,
) -> list[Finding]:
    """Give every file that saw the rows or may have, the surest first, then by path. Nothing is changed.

    Args:
        traced: the removal.
        places: folders and files to look into, besides the run directory and the bank.
        bank: of networks trained for audits.
        apart: what is not looked into.
        most_files: bound on the files in `places`.

    Raises:
        errors.BadRequest: a place is not there, or holds too many files; or a bank at a URL, which is not looked into.
        errors.DiskError: a folder cannot be looked into.
    """
    found = [*_original(traced, places), *_of_run(traced)]
    if bank is not None:
        bank.require_here("copies")
        found += _of_bank(bank, traced)
    known = [*(Path(one.path) for one in found), *traced.released, *apart, keys_home()]
    if bank is not None and bank.directory.is_dir():
        foreign = bank.foreign()
        known += [path for path in files_in([bank.directory]) if path not in foreign and not path.is_symlink()]
    files = [
        *files_in([traced.run], apart=known, unopened=True),
        *files_in(places, apart=[*known, traced.run], most_files=most_files, unopened=True),
    ]
    links, released = [], {traced.run: frozenset[Path]()}
    for path in files:
        if path.is_symlink():
            links.append(path)
            continue
        if path.parent not in released:
            released[path.parent] = traced.released_in(path.parent)
        innocent = path.resolve() in released[path.parent] or is_paper(path)
        finding = None if innocent else _finding(path, traced)
        if finding is not None:
            found.append(finding)
    found = claimed(found, traced, files)
    found += _links(links, found, traced, [traced.run, *places])
    return sorted(found, key=lambda one: (ORDER[one.certainty], one.path))


def _original(traced: Traced, places: Collection[Path]) -> Iterator[Finding]:
    """Give the weights that the run was made from, unless they are met in a place that is looked into."""
    path = Path(traced.asked.weights)
    if path.is_file() and not lies_in(path, [*places, traced.run]):
        finding = _finding(path, traced)
        if finding is not None:
            yield finding


def _of_run(traced: Traced) -> Iterator[Finding]:
    """Give what a run leaves besides what it releases, all of it excise's own."""
    for path in files_in([traced.run], apart=traced.released):
        first, name = path.relative_to(traced.run).parts[0], path.name
        if path.is_symlink():
            continue
        if first == store.CHECKPOINTS:
            told = (
                "a checkpoint of the run",
                f"in {store.CHECKPOINTS}: weights between the original's and the released ones",
            )
        elif path.parent == traced.run and name == store.LAST_FINITE:
            told = ("the last finite weights of a run that diverged", "made from the original")
        elif path.parent == traced.run and name == ROWS:
            told = ("results of single rows", "one line for each row, under random ids")
        elif _TEMPORARY.fullmatch(name):
            told = ("what a broken-off write has left", "a temporary name of excise's")
        else:
            continue
        yield _seen(path, Reason(what=told[0], why=told[1], certainty="sure", lists_rows=name == ROWS), own=True)


def _of_bank(bank: Bank, traced: Traced) -> Iterator[Finding]:
    """Give the networks of a bank that saw the rows or may have, and trainings that were broken off."""
    for entry in bank.entries():
        path = bank.directory / f"{entry.key}.safetensors"
        reason = None if entry.kind == UNFINISHED else network_reason(entry, traced)
        if reason is not None and path.is_file() and not path.is_symlink():
            yield _seen(path, reason, own=True)
    for path in store.left_over(bank.directory):
        young = time.time() - path.stat().st_mtime < _LONGEST_WRITE_SECONDS
        why = "less than an hour old: perhaps being written now" if young else "a temporary name of excise's"
        told = Reason(what="what a broken-off write has left", why=why, certainty="unknown" if young else "likely")
        yield _seen(path, told, own=True)
    for folder in sorted(bank.directory.glob(f"{TRAINING}*")):
        if not folder.is_dir() or folder.is_symlink():
            continue
        busy = store.holder(folder) is not None
        reason = Reason(
            what="a training under way" if busy else "a training that was broken off",
            why=f"in {folder.name}, which goes when the training is finished, or by `excise bank --prune --kind {UNFINISHED}`; "
            "on which data cannot be told",
            certainty="unknown",
        )
        for path in files_in([folder]):
            if not path.is_symlink():
                yield _seen(path, reason, own=True)


def network_reason(entry: Entry, traced: Traced) -> Reason | None:
    """Say what a bank's network saw, from the facts that were kept with it; None if it was trained without the rows.

    What decides is keyed: networks of other data have the same kinds and as many rows.
    """
    if entry.kind not in KINDS:
        return Reason(
            what="a network that cannot be read", why="damaged, or of another version's form", certainty="unknown"
        )
    if entry.kind == "oracle" and entry.rows and entry.rows == traced.retained:
        return None
    told = f"kind {entry.kind!r} in the bank, {entry.num_rows:,} rows"
    if entry.data not in traced.data:
        if entry.data and traced.data:
            why = f"{told}: not of the content that the run's data had, by its keyed digest"
            return Reason(what="a network trained on other data", why=why, certainty="unknown")
        why = f"{told}: on which data was not recorded, in the bank or in the run"
        return Reason(what="a network trained on unknown data", why=why, certainty="unknown")
    what = {"original": "a network trained on all rows", "half": "a network trained on half of the rows"}.get(
        entry.kind
    )
    if what is not None:
        every = bool(entry.rows) and entry.rows == store.commitment(torch.arange(traced.asked.num_rows))
        return Reason(what=what, why=f"{told} of the same data", certainty="sure" if every else "likely")
    if entry.num_rows > traced.num_retained:
        why = f"{told} of the same data, of which the request retained {traced.num_retained:,}"
        return Reason(what="a network trained on more rows than were retained", why=why, certainty="likely")
    if not entry.rows or not traced.retained:
        missing = "its rows were not recorded" if not entry.rows else "the ids of the request are not at hand"
        why = f"{told}: {missing}, so that it cannot be told which they were"
        return Reason(what="a network trained without some rows", why=why, certainty="unknown")
    why = f"{told} of the same data: not the ones that this request retained"
    return Reason(what="a network trained without other rows", why=why, certainty="likely")


def _finding(path: Path, traced: Traced) -> Finding | None:
    """Look at one file; None if it tells nothing that the released network does not, or was removed meanwhile."""
    if path.exists() and not path.is_file():
        told = Reason(what="a pipe, a device or a socket", why="never opened; look yourself", certainty="unknown")
        return Finding.of(path, told, "", 0)
    trouble = readable(path)
    if trouble:
        told = Reason(what="a file that cannot be read", why=trouble, certainty="unknown")
        return Finding.of(path, told, "", path.lstat().st_size) if path.exists() else None
    if path.stat().st_size == 0:
        return None
    if store.file_digest(path) == traced.asked.weights_sha256:
        told = Reason(what="the original network", why="the very file that the run was made from", certainty="sure")
        return _seen(path, told)
    reason = weightiest(list(_reasons(path, traced)))
    return None if reason is None else _seen(path, reason)


def _reasons(path: Path, traced: Traced) -> Iterator[Reason]:
    network, head = traced.network, _head(path)
    if head.get("kind", "").startswith(DATAMODEL):
        yield datamodel_reason(head, traced.data)
        return
    if head.get("kind") == MOMENTS:
        reason = moments_reason(path, head, network, traced.num_retained)
        yield from () if reason is None else (reason,)
        return
    size = sum(value.numel() * value.element_size() for value in network.after.values())
    held = contents(path, max(_LEAST_READ_BYTES, 8 * size))
    kind = held.metadata.get("kind", "")
    if kind == "excise-mask-1":
        return
    if kind == "excise-patch-1":
        reason = patch_reason(held.arrays, held.metadata.get("base_digest", ""), network)
        yield from () if reason is None else (reason,)
        return
    if kind in KINDS and "seal" in held.metadata:
        yield from _from_another_bank(held.metadata, traced)
        return
    if not held.arrays and not held.tables and holds_bytes(path, network.needles):
        yield Reason(
            what="weights of the original network",
            why=f"its bytes hold a run of the original's numbers{', ' + held.opaque if held.opaque else ''}",
            certainty="sure",
        )
        return
    if held.opaque:
        yield Reason(
            what="a file that could not be looked into", why=f"{held.opaque}; look yourself", certainty="unknown"
        )
        return
    if traced.originals is not None:
        yield from traced.originals.reasons(held.arrays)
    of_network = list(network.reasons(held.arrays))
    yield from of_network
    shapes = {tuple(value.shape) for value in network.after.values()} if of_network else set()
    left = {name: value for name, value in held.arrays.items() if tuple(value.shape) not in shapes}
    yield from traced.rows.reasons(left, {tuple(value.shape) for value in network.matrices.values() if value.ndim == 2})
    yield from traced.rows.lengths(held.tables)


def _head(path: Path) -> Mapping[str, str]:
    """Give the metadata of a safetensors file, however large; nothing of any other."""
    try:
        return store.read_metadata(path)
    except errors.BadData:
        return {}


def _from_another_bank(told: Mapping[str, str], traced: Traced) -> Iterator[Reason]:
    entry = entry_of(told, "", 0)
    reason = None if entry is None else network_reason(entry, traced)
    if reason is not None:
        yield reason


def _links(
    links: Collection[Path], found: Collection[Finding], traced: Traced, places: Collection[Path]
) -> Iterator[Finding]:
    known = {Path(one.path).resolve(): one for one in found}
    for path in links:
        target = path.resolve()
        copy = known.get(target)
        if copy is not None:
            told = Reason(what=copy.what, why=f"a link to {target}", certainty=copy.certainty)
        elif not target.exists() or lies_in(target, places):
            continue
        elif target.is_dir() or {path.suffix.lower(), target.suffix.lower()} & OPAQUE:
            why = f"a link to {target}, outside of the places looked into; name that place too"
            told = Reason(what="a link that was not followed", why=why, certainty="unknown")
        else:
            continue
        finding = Finding.of(path, told, "", 0, link=True)
        yield finding if copy is None else msgspec.structs.replace(finding, released_by=copy.released_by)


def _seen(path: Path, reason: Reason, *, own: bool = False) -> Finding:
    try:
        return Finding.of(path, reason, store.file_digest(path), path.stat().st_size, own=own)
    except OSError as error:
        raise errors.DiskError(f"could not read {path}: {error.strerror or error}; see who may read it") from error
