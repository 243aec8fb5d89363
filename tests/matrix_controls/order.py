"""Deliberately wrong: a test needs those before it. `make test-matrix` must see it fail in random order."""

import pytest

SEEN: list[int] = []


@pytest.mark.parametrize("i", range(12))
def test_all_before_this_one_have_run(i):
    assert [*range(i)] == SEEN
    SEEN.append(i)
