import errno
import os
import tempfile

import pytest
import torch

from excise import errors
from excise.store.scratch import free_bytes, scratch_tensor


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_is_written_is_read_back_and_begins_as_zeros():
    held = scratch_tensor((3, 5, 2), torch.float64)
    assert torch.equal(held, torch.zeros(3, 5, 2, dtype=torch.float64))
    wanted = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    held[1:].copy_(wanted)
    assert torch.equal(held.index_select(0, torch.tensor([2, 1])), wanted.flip(0))


def test_the_file_has_no_name_and_is_its_owners_alone_from_the_moment_it_holds_room(folder, monkeypatch):
    seen = []

    def claim(descriptor, start, length):
        found = os.fstat(descriptor)
        seen.append((found.st_nlink, found.st_mode & 0o777, start, length, os.listdir(folder)))  # noqa: PTH208
        os.truncate(descriptor, length)

    monkeypatch.setattr(os, "posix_fallocate", claim)
    held = scratch_tensor((4, 2), torch.float32)
    held.fill_(1)
    assert seen == [(0, 0o600, 0, 32, [])]
    assert list(folder.iterdir()) == []


def test_without_a_call_that_claims_room_zeros_are_written(monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    held = scratch_tensor((2**18 + 3, 2), torch.float64)  # more than are written at once
    held[-1] = 7
    assert held.sum() == 14


def test_a_full_disk_is_an_error_that_names_the_place(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(errors.DiskError, match=r"could not claim 32 bytes in .*: No space left on device; free some"):
        scratch_tensor((4, 2), torch.float32)
    assert list(folder.iterdir()) == []


def test_free_room_is_that_of_the_directory_for_temporary_files(folder):
    found = os.statvfs(folder)
    assert free_bytes() == pytest.approx(found.f_bavail * found.f_frsize, rel=0.5)
