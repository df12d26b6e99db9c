"A figure near an edge may be rounded either way, any other in one way."
import pytest
from hypothesis import given, strategies as st
from shakespeare_ffn import core # by itself, or pytest would take `test_rounded` for one of these tests

digits = st.integers(-3, 4)
figures = st.floats(-1000, 1000)

@given(figures, digits)
def test_a_rounded_figure_is_right(x, n): core.test_rounded(x, round(x, n), n)

@given(st.integers(-1000, 1000), digits, st.floats(-.09, .09), st.sampled_from([0, 1]))
def test_either_side_of_an_edge_is_right(i, n, off, side):
    unit = 10.**-n
    core.test_rounded((i + .5 + off)*unit, round((i + side)*unit, n), n)

@given(st.integers(-1000, 1000), digits, st.floats(.61, 3) | st.floats(-3, -.61))
def test_what_is_farther_off_is_wrong(i, n, off):
    unit = 10.**-n
    with pytest.raises(AssertionError, match='is not'): core.test_rounded((i + off)*unit, round(i*unit, n), n)
