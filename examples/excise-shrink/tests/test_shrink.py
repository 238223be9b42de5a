from excise_shrink import RowNorms, Shrink, ShrinkLargest

from excise.testing import check_localizer, check_method


def test_they_keep_what_excise_promises():
    assert check_method(Shrink) and check_method(ShrinkLargest) and check_localizer(RowNorms)
