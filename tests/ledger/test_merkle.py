import hashlib
import random

import pytest

from excise.ledger import merkle
from excise.verify import root_from


def sha(content):
    return hashlib.sha256(content).digest()


def naive(leaves):
    """RFC 6962, section 2.1, as it stands there."""
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return sha(b"\0" + leaves[0])
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha(b"\1" + naive(leaves[:k]) + naive(leaves[k:]))


def naive_path(leaves, m):
    """RFC 6962, section 2.1.1."""
    if len(leaves) <= 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*naive_path(leaves[:k], m), naive(leaves[k:])]
    return [*naive_path(leaves[k:], m - k), naive(leaves[:k])]


def leaves_of(count):
    return [bytes([number % 256, number // 256]) * 16 for number in range(count)]


@pytest.mark.parametrize("count", [*range(35), 64, 65, 127, 128, 129, 300])
def test_root_and_paths_are_those_of_the_rfc(count):
    leaves = leaves_of(count)
    assert merkle.root(iter(leaves)) == naive(leaves)
    for index in range(0, count, 1 + count // 12):
        path = merkle.path(leaves, index)
        assert [beside for _, beside in path] == naive_path(leaves, index)
        assert root_from(leaves[index], path) == f"sha256:{naive(leaves).hex()}"


def test_the_known_root_of_the_rfc_vectors():
    # The test vectors of the Certificate Transparency reference implementation (eight leaves).
    texts = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [bytes.fromhex(text) for text in texts]
    assert merkle.root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_repeated_leaves_do_not_make_two_lists_alike():
    a, b, c = leaves_of(3)
    lists = [
        [a],
        [a, a],
        [a, b],
        [a, b, c],
        [a, b, c, c],
        [a, b, c, c, c, c],
        [a, b, b, c],
        [a, a, b, c],
        [b, a, c],
        [],
    ]
    assert len({merkle.root(one) for one in lists}) == len(lists)


def test_an_inner_node_cannot_be_taken_for_a_leaf():
    a, b = leaves_of(2)
    inner = sha(b"\0" + a) + sha(b"\0" + b)
    assert merkle.root([inner]) != merkle.root([a, b])


def test_a_path_with_any_changed_bit_leads_elsewhere():
    leaves, dice = leaves_of(21), random.Random(0)
    root = f"sha256:{merkle.root(leaves).hex()}"
    for index in range(21):
        path = merkle.path(leaves, index)
        step = dice.randrange(len(path))
        side, beside = path[step]
        flipped = bytearray(beside)
        flipped[dice.randrange(32)] ^= 1 << dice.randrange(8)
        assert root_from(leaves[index], [*path[:step], (side, bytes(flipped)), *path[step + 1 :]]) != root
        assert root_from(leaves[index], path[:-1]) != root
        assert root_from(leaves[(index + 1) % 21], path) != root
