from tests.ledger import samples, tampering


def test_every_random_edit_of_log_receipt_and_weights_is_found(tmp_path):
    count = 10_000 if samples.SOAK else 1_500
    found = tampering.soak(tmp_path, count)
    assert {name: told for name, told in found.items() if told[0] < told[1]} == {}
    assert sum(told for _, told in found.values()) == count
