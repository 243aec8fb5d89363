"""The table of `make test-matrix` holds what it says; its controls are run by it alone."""

from dataclasses import astuple
from itertools import combinations, product

import pytest

from combinations import CAPABILITIES, LAST, TABLE, VARIANTS, Combination, clamped

VALUES = [VARIANTS, CAPABILITIES, (1, 2, 4), ("file", "random")]


def lacking(rows):
    """Pairs of values of two factors that no row has."""
    rows = [astuple(row) for row in rows]
    return [
        (first, second)
        for a, b in combinations(range(len(VALUES)), 2)
        for first, second in product(VALUES[a], VALUES[b])
        if not any((row[a], row[b]) == (first, second) for row in rows)
    ]


def test_every_pair_of_values_is_there_with_what_make_test_is():
    assert len(TABLE) == 8
    assert lacking([*TABLE, LAST]) == []


@pytest.mark.parametrize("row", range(8))
def test_no_row_can_be_spared(row):
    assert lacking([*TABLE[:row], *TABLE[row + 1 :], LAST])


def test_each_control_is_red_somewhere_and_green_somewhere():
    for control in ("order", "threads"):
        assert {control in row.red for row in TABLE} == {True, False}


def test_a_lesser_cpu_is_asked_for_what_it_has():
    wide, narrow = (Combination(name, name, 2, "file") for name in ("avx512", "avx2"))
    assert clamped(wide, "avx2", "avx2") == narrow
    assert clamped(narrow, "avx512", "avx512") == narrow
    assert clamped(wide, "baseline", "default") == Combination("baseline", "default", 2, "file")
