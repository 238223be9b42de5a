"""A fleet gives what the plain loop gives. Here it is the plain loop."""

import pytest

from excise.cluster import Fleet, Here


def test_here_is_the_plain_loop():
    items = [3, 1, 2]
    assert list(Here().run(pow, 2, items)) == [(place, 2**item) for place, item in enumerate(items)]
    assert list(Here().run(pow, 2, [])) == []


def test_each_item_is_made_and_done_when_its_result_is_asked_for():
    told = []

    def items():
        for number in range(3):
            told.append(("made", number))
            yield number

    def job(shared, item):
        shared.append(("done", item))
        return item

    running = Here().run(job, told, items())
    assert told == []
    assert next(running) == (0, 0)
    assert told == [("made", 0), ("done", 0)]
    running.close()
    assert told == [("made", 0), ("done", 0)]


def test_an_error_arrives_as_itself_and_what_follows_is_not_begun():
    begun = []

    def job(shared, item):
        begun.append(item)
        return 1 // item

    running = Here().run(job, None, [1, 0, 2])
    assert next(running) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(running)
    assert begun == [1, 0] and list(running) == []


def test_a_fleet_is_abstract_and_here_shares_the_objects_of_this_process():
    with pytest.raises(TypeError, match="abstract"):
        Fleet()
    assert Here.here
    mine = object()
    assert next(Here().run(lambda shared, item: shared, mine, [0]))[1] is mine
