"One prompt's strings by a measure, found without measuring all keys."
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.learned_measure import Measure

@pytest.fixture(scope='module')
def index(corpus, model, cache): return corpus_index(corpus, model, 3, quiet=True)

def straightforward(measure, index, query, k, exclude): # in float64
    def mapped(x):
        each = zip(measure.blocks, measure.mean, measure.matrix)
        return sum((x[b].double() - mean.double()) @ matrix.double() for b, mean, matrix in each)
    cosines = torch.cosine_similarity(mapped(index.keys), mapped(query[:, None]))
    if exclude >= 0: cosines[exclude] = -2
    return cosines.sort(descending=True, stable=True)

def a_measure(seed, blocks, size, spread):
    "Its columns are shorter and shorter, the last by so many powers of ten."
    random = torch.Generator().manual_seed(seed)
    matrix = torch.randn(len(blocks), 384, size, generator=random)*torch.logspace(0, -spread, size)
    return Measure(tuple(blocks), matrix, torch.randn(len(blocks), 384, generator=random)*.1)

@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), blocks=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
       size=st.integers(1, 500), spread=st.integers(0, 6), k=st.integers(1, 20_000), leave=st.booleans(),
       row=st.integers(0, 6000))
def test_the_same_as_measuring_all(index, seed, blocks, size, spread, k, leave, row):
    measure, query = a_measure(seed, blocks, size, spread), index.keys[:, row]
    exclude = row if leave else -1
    found = measure.nearest(index, query, k, exclude)
    expected = straightforward(measure, index, query, k, exclude)
    nearest = expected.values[:len(found.rows)]
    torch.testing.assert_close(found.cosines, nearest, rtol=0, atol=1e-12)
    clear = nearest > nearest[-1] + 1e-12 # what is as near as the last may be another
    assert torch.isin(expected.indices[:len(clear)][clear], found.rows).all()
    assert len(found.rows) == min(k, len(index) - leave) and not (leave and row in found.rows)

def test_lengths_are_kept_once(index, monkeypatch):
    "those by the last measure, and computed again if they are damaged or of another"
    calls = []
    way = Measure._measure_lengths
    def counted(self, keys):
        calls.append(self)
        return way(self, keys)
    monkeypatch.setattr(Measure, '_measure_lengths', counted)
    one, other = (a_measure(seed, [5], 8, 0) for seed in (1, 2))
    def ask(measure): return measure.nearest(index, index.keys[:, 0], 5)
    for measure in one, one, other, one: ask(measure)
    assert calls == [one, other, one]
    file = index.path/'measured.kept'
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(ask(one).rows, ask(one).rows)
    assert calls == [one, other, one, one]

def test_a_place_that_cannot_be_written(index):
    file = index.path/'measured.kept'
    file.unlink(missing_ok=True)
    file.mkdir()
    try: assert len(a_measure(3, [5], 8, 0).nearest(index, index.keys[:, 0], 5).rows) == 5
    finally: file.rmdir()
