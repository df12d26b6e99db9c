"One prompt's strings by a measure, found among keys that are measured once, and rounded."
from types import SimpleNamespace
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shakespeare_ffn import learned_measure
from shakespeare_ffn.core import keep_tensors
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.learned_measure import Measure, MeasuredApproximation
from shakespeare_ffn.nearest_strings import NearestApproximation, Vote

@pytest.fixture(scope='module')
def index(corpus, model, cache): return corpus_index(corpus, model, 3, quiet=True)

def forget(): learned_measure._LAST.clear() # as a new process does not know what was measured

def straightforward(measure, index, query, k, exclude): # in float64
    def mapped(x):
        each = zip(measure.blocks, measure.mean, measure.matrix)
        return sum((x[b].double() - mean.double()) @ matrix.double() for b, mean, matrix in each)
    cosines = torch.cosine_similarity(mapped(index.keys), mapped(query[:, None]), eps=1e-200)
    if exclude >= 0: cosines[exclude] = -2
    return cosines.sort(descending=True, stable=True)

def a_measure(seed, blocks, size, spread):
    "Its columns are shorter and shorter, the last by so many powers of ten."
    random = torch.Generator().manual_seed(seed)
    matrix = torch.randn(len(blocks), 384, size, generator=random)*torch.logspace(0, -spread, size)
    return Measure(tuple(blocks), matrix, torch.randn(len(blocks), 384, generator=random)*.1)

@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), blocks=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
       size=st.integers(1, 500), spread=st.integers(0, 6), k=st.integers(1, 60) | st.integers(1, 20_000),
       leave=st.booleans(), row=st.integers(0, 3000))
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

@pytest.fixture(params=[0, 1])
def crowded(tmp_path, request):
    """Keys that float32 cannot tell apart: the measure shortens them to little; what is left is alike.

    In the second case there is one that float32 shortens to nothing."""
    random = torch.Generator().manual_seed(request.param)
    def draw(*shape): return torch.randn(*shape, generator=random)
    directions = torch.linalg.qr(draw(32, 32).double())[0]
    loud, kept = directions[:, :1], directions[:, 1:]
    detail = draw(1, 31) + 3e-3*draw(500, 31)
    keys = (10_000*loud.T + detail.double() @ kept.T).float()
    matrix = torch.cat([1e-4*loud, kept], 1).float()
    if request.param:
        matrix[:3, :], matrix[3:, :] = 0., matrix[3:, :]
        matrix[:3, 0] = 1.
        keys[7] = 0.
        keys[7, :3] = torch.tensor([2**-30, 1., -1.])
    measure = Measure((0,), matrix[None], torch.zeros(1, 32))
    return measure, SimpleNamespace(keys=keys[None], ids=range(500), path=tmp_path,
                                    manifest=dict(sha256='00'*32))

@pytest.mark.parametrize('k', [1, 7, 100, 499, 500])
def test_what_float32_cannot_tell_apart(crowded, k):
    measure, index = crowded
    for row in (7, *range(0, 500, 50)):
        found = measure.nearest(index, index.keys[:, row], k)
        expected = straightforward(measure, index, index.keys[:, row], k, -1)
        of_found = expected.values[expected.indices.argsort()][found.rows]
        torch.testing.assert_close(of_found, expected.values[:k], rtol=0, atol=1e-11)

def test_a_query_that_is_no_vector(crowded):
    measure, index = crowded
    for wrong in torch.nan, torch.inf:
        with pytest.raises(ValueError, match='finite'):
            measure.nearest(index, torch.full_like(index.keys[:, 0], wrong), 5)
    assert len(measure.nearest(index, torch.zeros_like(index.keys[:, 0]), 5).rows) == 5

def test_what_is_kept_is_of_these_keys(crowded):
    "nothing is kept for an index that is gone, or of other keys"
    measure, index = crowded
    def ask(): return measure.nearest(index, index.keys[:, 3], 5).rows
    ask()
    assert not [*index.path.iterdir()]
    (index.path/'manifest.json').write_text('{}', encoding='utf-8')
    forget()
    ask()
    assert {f.suffix for f in index.path.glob('measured*')} == {'.kept', '.bfloat16'}
    index.keys, index.manifest = index.keys.flip(1), dict(sha256='11'*32)
    expected = straightforward(measure, index, index.keys[:, 3], 5, -1)
    assert torch.equal(ask(), expected.indices[:5])

@pytest.mark.parametrize('manifest', [{}, dict(sha256='no checksum'), dict(sha256=None)])
def test_a_manifest_whose_checksum_is_damaged(crowded, manifest):
    measure, index = crowded
    index.manifest = manifest
    expected = straightforward(measure, index, index.keys[:, 3], 5, -1)
    assert torch.equal(measure.nearest(index, index.keys[:, 3], 5).rows, expected.indices[:5])

def test_keys_are_measured_once(index, monkeypatch):
    "those by the last measure are kept, and measured again if they are damaged or of another"
    calls = []
    way = Measure._measure_all
    def counted(self, *args):
        calls.append(self)
        return way(self, *args)
    monkeypatch.setattr(Measure, '_measure_all', counted)
    one, other = (a_measure(seed, [5], 8, 0) for seed in (1, 2))
    def ask(measure):
        forget()
        return measure.nearest(index, index.keys[:, 0], 5)
    for measure in one, one, other, one: ask(measure)
    assert calls == [one, other, one]
    [off] = index.path.glob('measured*.kept')
    [units] = index.path.glob('measured*.bfloat16')
    expected = ask(one).rows
    keep_tensors(off, dict(lengths=torch.ones(3))) # whole, but what another version kept
    assert torch.equal(ask(one).rows, expected) and calls.pop() is one
    whole = units.read_bytes()
    for damaged in whole[:-4096] + bytes(4096), whole[:1000] + b'\xff'*500 + whole[1500:]:
        units.write_bytes(damaged)
        assert torch.equal(ask(one).rows, expected) and calls.pop() is one
    for file in off, units:
        file.write_bytes(file.read_bytes()[:100])
        assert torch.equal(ask(one).rows, expected) and calls.pop() is one
        file.unlink()
        assert torch.equal(ask(one).rows, expected) and calls.pop() is one
    assert calls == [one, other, one] and len([*index.path.glob('measured*')]) == 2

def test_prepared_keys_are_not_measured_again(index, monkeypatch, capsys):
    rule = NearestApproximation(5, (Vote(0, False, 10., 1.),))
    rule = MeasuredApproximation(a_measure(4, [2, 5], 8, 0), rule)
    forget()
    rule.prepare(index, quiet=True)
    monkeypatch.setattr(Measure, '_measure_all', None)
    [e] = rule.evidence_in(index, index.keys[:, 0])
    assert e.blocks == (2, 5) and len(e.rows) == 5
    assert capsys.readouterr() == ('', '')

@pytest.mark.parametrize('ending', ['kept', 'bfloat16'])
def test_a_place_that_cannot_be_written(index, corpus, model, ending, monkeypatch, capsys):
    "what is measured is remembered all the same, and whoever looks on is told that it is not kept"
    measure = a_measure(3, [5], 8, 0)
    def ask(): return measure.nearest(index, index.keys[:, 0], 5).rows
    expected = ask()
    [file] = index.path.glob(f'measured*.{ending}')
    file.unlink()
    file.mkdir()
    try:
        for quiet in True, False:
            forget()
            measure._measured_in(index, quiet)
            assert torch.equal(ask(), expected)
            said = capsys.readouterr().err
            assert said.count('\n') == (not quiet) and ('anew: cannot write' in said) == (not quiet)
    finally: file.rmdir()
    monkeypatch.setattr(Measure, '_measure_all', None)
    assert torch.equal(ask(), expected)
    again = corpus_index(corpus, model, 3, quiet=True) # as each call of `explain` opens it
    assert torch.equal(measure.nearest(again, index.keys[:, 0], 5).rows, expected)

def test_rounding_is_allowed_for(tmp_path):
    "two keys that rounding exchanges: their numbers lie a little below and above the middle of two others"
    def unit(number):
        row = torch.full((64,), number, dtype=torch.float64)
        row[0] = (1 - 63*number**2)**.5
        return row.float()
    near, far = (unit((1 + 2**-8 + off)/8) for off in (-2**-14, 2**-14))
    keys = torch.stack([near, far])[None]
    index = SimpleNamespace(keys=keys, ids=range(2), path=tmp_path, manifest={})
    measure = Measure((0,), torch.eye(64)[None], torch.zeros(1, 64))
    rough = measure._measured_in(index).units.float() @ near
    assert rough[1] > rough[0] + 2**-9
    found = measure.nearest(index, keys[:, 0], 1)
    assert found.rows.tolist() == [0] and abs(found.cosines[0] - 1) < 1e-7

@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 200), spread=st.integers(0, 4), scale=st.integers(-3, 3))
def test_no_cosine_is_farther_off_than_said(seed, size, spread, scale):
    "for each key, the query to which its rounding matters most"
    random = torch.Generator().manual_seed(1000 + seed)
    measure = a_measure(seed, [0], size, spread)
    keys = torch.randn(1, 40, 384, generator=random)*10.**scale
    kept = measure._measure_all(keys, quiet=True)
    exact = (keys[0].double() - measure.mean.double()) @ measure.matrix[0].double()
    exact = exact/exact.norm(dim=1, keepdim=True)
    # the difference of two directions is what a unit vector along it would see
    assert ((kept.units.double() - exact).norm(dim=1) <= kept.off).all()
