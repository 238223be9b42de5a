import pytest

from excise import errors
from excise.cli.fleets import read_fleet
from excise.cluster import OnRay


def test_words_name_the_workers_and_none_this_process():
    fleet = read_fleet("10.0.0.1:6379", 4)
    assert isinstance(fleet, OnRay) and (fleet.address, fleet.at_once) == ("10.0.0.1:6379", 4)
    assert read_fleet("local", None).at_once is None
    assert read_fleet(None, None) is None


def test_a_number_of_jobs_without_a_cluster_is_refused():
    with pytest.raises(
        errors.BadRequest, match="--at-once: says how many jobs a cluster is given at a time; name one with"
    ):
        read_fleet(None, 3)
