"Threshold attention is its specification, whatever it is given."
import os, subprocess, sys, time
from unittest import mock
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from shakespeare_ffn import cosine_sims, nearest_strings
from shakespeare_ffn.core import multiply
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import SparseCounts, Values, _Cascade, _Sieve, _balls_around, batches, cosine
from shakespeare_ffn.cosine_sims import count_one, error_bound
from shakespeare_ffn.cosine_sims import similar, threshold_attention, threshold_attention_loop, unit
from shakespeare_ffn.data import prompt_ids
from shakespeare_ffn.explain import explain, _run_counts
from shakespeare_ffn.nearest_strings import nearest_keys
from shakespeare_ffn.similar_space import Approximation, prompt_counts
from shakespeare_ffn.text_analysis import next_counts
from forked import ranks

@st.composite
def problems(draw):
    "Rows with repeats, zeros, opposites and near-repeats; thresholds that lie on similarities that occur"
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n_layer, n_queries, n_keys, n_embed, vocab = (draw(st.integers(1, n)) for n in (2, 5, 20, 12, 4))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
    keys = torch.randn(n_layer, n_keys, n_embed, generator=generator)*10**draw(st.floats(-3, 3))
    picked = torch.randint(n_keys, (n_queries,), generator=generator)
    queries = keys[:, picked].clone()
    for q in range(n_queries):
        kind = draw(st.sampled_from(['same', 'zero', 'opposite', 'longer', 'near', 'other']))
        if kind == 'zero': queries[:, q] = 0
        if kind == 'opposite': queries[:, q] *= -1
        if kind == 'longer': queries[:, q] *= 8
        if kind == 'near': queries[:, q] *= 1 + .01*torch.randn(n_embed, generator=generator)
        if kind == 'other': queries[:, q] = torch.randn(n_layer, n_embed, generator=generator)
    queries, keys = queries.to(dtype), keys.to(dtype)
    values = torch.randint(0, 3, (n_keys, vocab), generator=generator)
    occur = cosine(queries[:, :, None], keys[:, None]).flatten(1)
    chosen = draw(st.lists(st.integers(0, occur.shape[1]-1), min_size=1, max_size=4))
    thresholds = occur[:, chosen].clamp(-1, 1)
    exclude = draw(st.none() | st.lists(st.integers(-1, n_keys-1), min_size=n_queries, max_size=n_queries))
    return queries, keys, values, thresholds, exclude

@settings(max_examples=150, deadline=None)
@given(problem=problems())
def test_equals_the_loop(problem):
    queries, keys, values, thresholds, exclude = problem
    expected = threshold_attention_loop(queries, keys, values, thresholds, exclude)
    found = threshold_attention(queries, keys, values, thresholds, exclude)
    for a, b in zip(found, expected): assert torch.equal(a, b)
    counts, n_matches = threshold_attention(queries, keys, values, thresholds[:, 0], exclude)
    assert torch.equal(counts, expected[0][:, 0]) and torch.equal(n_matches, expected[1][:, 0])

@settings(max_examples=150, deadline=None)
@given(problem=problems(), k=st.integers(1, 25), arithmetic=st.sampled_from(['float32', 'bfloat16']),
       dtype=st.sampled_from([torch.float32, torch.float64]))
def test_nearest_keys_are_those_of_all_cosines(problem, k, arithmetic, dtype):
    "sorted, ties by row; whatever is fast here, and whatever the caller's default type"
    (queries, *_), (keys, *_), _, _, exclude = problem
    cosines = cosine(queries[:, None], keys)
    if exclude is not None:
        left_out = torch.arange(len(keys)) == torch.tensor(exclude)[:, None]
        cosines = cosines.masked_fill(left_out, -2)
        if len(keys) == 1 and left_out.any():
            with pytest.raises(ValueError, match='at least 1'): nearest_keys(queries, keys, k, exclude)
            return
    with mock.patch.dict(os.environ, SHAKESPEARE_FFN_ARITHMETIC=arithmetic):
        torch.set_default_dtype(dtype)
        try: found = nearest_keys(queries, keys, k, exclude)
        finally: torch.set_default_dtype(torch.float32)
    expected = cosines.sort(dim=1, descending=True, stable=True)
    n = found.rows.shape[1]
    assert n == min(k, len(keys) - (exclude is not None and max(exclude) >= 0))
    assert torch.equal(found.rows.sort(1).values, expected.indices[:, :n].sort(1).values)
    off = (found.cosines - cosines.gather(1, found.rows)).abs().max()
    assert found.cosines.dtype == torch.float32 and off <= error_bound(keys.shape[1])
    left_out = torch.tensor(exclude or [-1]*len(queries))
    def multiplied(*args): return nearest_strings._multiplied(*args[:3], n=2*len(keys)) # as on a GPU
    with mock.patch.multiple(nearest_strings, _sieved=multiplied, _kth_of_each=nearest_strings._kth_sorted):
        at_once = nearest_keys(queries, keys, n, left_out)
    assert torch.equal(at_once.rows.sort(1).values, found.rows.sort(1).values)

@pytest.mark.parametrize('whole', [True, False])
@pytest.mark.parametrize('which', [0, -1])
def test_nearest_keys_pass_the_sieve(which, whole, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, .1, 384) # so that few directions hold most
    keys = torch.randn(3000, 384, generator=generator)*spread
    keys[:1000] = keys[0].clone()
    queries = torch.cat([keys[:1], keys[-49:], torch.randn(50, 384, generator=generator)*spread])
    cosines = torch.stack([cosine(q.expand(len(keys), -1), keys) for q in queries])
    one_sieve = mock.Mock(side_effect=lambda some, sample, own, sieves, *_: [sieves[which]]) # else: timing
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', 'int8' if whole else 'no-int8')
    with mock.patch.object(cosine_sims, '_cheapest', one_sieve): found = nearest_keys(queries, keys, 100)
    expected = cosines.sort(dim=1, descending=True, stable=True).indices[:, :100]
    assert torch.equal(found.rows.sort(1).values, expected.sort(1).values)
    [call] = one_sieve.call_args_list
    sieve = call.args[3][which]
    assert sieve.depth == (15 if which == 0 else 383) and (sieve.dtype == torch.int8) == whole

@pytest.mark.parametrize('asked, name', [('int8', 'int8'), ('no-int8', 'float32')])
def test_sieves_are_made_as_they_were_chosen(asked, name, monkeypatch):
    def first_and_last(some, sample, own, sieves, *_): return sieves[::len(sieves)-1]
    monkeypatch.setattr(cosine_sims, '_cheapest', first_and_last)
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', asked)
    queries, keys = torch.randn(2, 200, 384, generator=torch.Generator().manual_seed(0))
    cascade = cosine_sims._choose_sieve(unit(queries), keys, .5)
    assert str(cascade) == f'Cones, then Sieve(15 dimensions, {name}), then Sieve(383 dimensions, {name})'

@given(n_embed=st.integers(1, 5000))
def test_depths_are_parts_of_the_width(n_embed):
    depths = cosine_sims._depths(n_embed)
    assert depths == sorted({*depths}) and len(depths) <= 7 and all((d+1) % 16 == 0 for d in depths[:-1])
    assert depths[-1:] == [n_embed-1]*(n_embed > 1)
    if n_embed >= 24*16: assert len(depths) == 7 and n_embed/24 <= depths[0]+1 < n_embed/24 + 16

@settings(max_examples=30, deadline=None)
@given(n_embed=st.integers(1, 110) | st.sampled_from([256, 500]), which=st.integers(0, 6),
       others=st.integers(0, 6), asked=st.sampled_from(['int8', 'no-int8']), seed=st.integers(0, 2**32),
       noise=st.sampled_from([.1, 1, 3]))
def test_rows_of_any_width_are_sieved_exactly(n_embed, which, others, asked, seed, noise):
    generator, seen = torch.Generator().manual_seed(seed), []
    spread = torch.linspace(2, .1, n_embed)
    keys = (torch.randn(1, n_embed, generator=generator)
            + noise*torch.randn(130, n_embed, generator=generator))*spread
    queries, values = torch.cat([keys[:40], -keys[40:50], keys.flip(0)[:30] + .1]), torch.ones(130, 1).long()
    threshold = cosine(queries[3], keys[90]).item()
    def some(units, sample, own, sieves, *_):
        seen.append([s.depth for s in sieves])
        return sorted({*sieves[which:which+1], *sieves[others:others+1]}, key=lambda s: s.depth)
    with mock.patch.dict(os.environ, SHAKESPEARE_FFN_ARITHMETIC=asked):
        with mock.patch.object(cosine_sims, '_cheapest', some):
            counts, n = threshold_attention(queries[None], keys[None], values, [threshold], device='cpu')
    assert seen == [cosine_sims._depths(n_embed)]
    few = slice(seed % 40, None, 40) # others in each example, pair by pair
    assert n[0, few].tolist() == [sum(cosine(q, k) > threshold for k in keys) for q in queries[few]]
    assert torch.equal(n[0], (cosine(queries[:, None], keys) > threshold).sum(1))
    assert torch.equal(counts[0, :, 0], n[0])

@settings(max_examples=60, deadline=None)
@given(problem=problems(), large=st.booleans())
def test_sparse_values_equal_the_loop(problem, large):
    "A large vocabulary is counted pair by pair, a small one as a matrix, so many rows at a time as fit"
    queries, keys, values, thresholds, exclude = problem
    expected = threshold_attention_loop(queries, keys, values, thresholds, exclude)
    sparse = SparseCounts.of(values)
    with mock.patch.multiple(cosine_sims, LARGE=0 if large else 512, _DENSE=7*values.shape[1]):
        found = threshold_attention(queries, keys, sparse, thresholds, exclude)
        for a, b in zip(found, expected): assert torch.equal(a, b)
        counts, n_matches = threshold_attention(queries, keys, sparse, thresholds[:, 0], exclude)
        kept = Values(sparse)
    assert torch.equal(counts, expected[0][:, 0]) and torch.equal(n_matches, expected[1][:, 0])
    whole = torch.cat([F.pad(values, (0, 1), value=1), torch.zeros(99, values.shape[1]+1, dtype=torch.long)])
    for k in range(len(values)): assert torch.equal(kept.dense(k, 64).long(), whole[k:k+64])

@st.composite
def alike(draw):
    "Rows that are more or less alike, so that many pairs pass; thresholds that are cosines which occur"
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n_queries, n_keys, n_embed, vocab = (draw(st.integers(1, n)) for n in (150, 150, 12, 5))
    def rows(n): return torch.randn(1, n, n_embed, generator=generator) + draw(st.sampled_from([0, 1, 5]))
    queries, keys = rows(n_queries).bfloat16(), rows(n_keys).bfloat16()
    values = torch.randint(0, 3, (n_keys, vocab), generator=generator) * 10**draw(st.integers(0, 12))
    occur = cosine(queries[0, :, None], keys[0]).flatten().sort()[0]
    places = draw(st.lists(st.floats(0, 1), min_size=2, max_size=5))
    thresholds = occur[[int(p*(len(occur)-1)) for p in places]].clamp(-1, 1)
    exclude = torch.randint(-1, n_keys, (n_queries,), generator=generator)
    return queries, keys, values, thresholds[None], exclude

@settings(max_examples=80, deadline=None)
@given(problem=alike(), sparse=st.booleans(), tallied=st.booleans(), tile=st.integers(5, 100),
       places=st.integers(1, 5000), dims=st.sampled_from([(), (1,)]))
def test_many_pairs_that_pass(problem, sparse, tallied, tile, places, dims):
    "They may be tallied, in parts of any size, or added one by one"
    queries, keys, values, thresholds, exclude = problem
    passes = cosine(queries[0, :, None], keys[0]) > thresholds[0, :, None, None]
    passes &= torch.arange(len(values)) != exclude[:, None]
    given = SparseCounts.of(values) if sparse else values
    def many_pass(batch, *_): return tallied and len(batch.sizes) == 1
    with mock.patch.multiple(cosine_sims, TILE=tile, _PLACES=places, _many_pass=many_pass):
        counts, n_matches = threshold_attention(queries, keys, given, thresholds, exclude,
                                                device='cpu', dims=dims)
    assert torch.equal(n_matches[0], passes.sum(-1)) and torch.equal(counts[0], passes.long() @ values)

@pytest.mark.parametrize('lowest', [-.5, .8])
def test_most_pairs_are_tallied_and_few_are_not(lowest):
    queries, keys = torch.randn(2, 1, 300, 50, generator=torch.Generator().manual_seed(0))
    tally, one_by_one = mock.Mock(wraps=cosine_sims._tally), mock.Mock(wraps=cosine_sims.matches)
    with mock.patch.multiple(cosine_sims, _tally=tally, matches=one_by_one):
        threshold_attention(queries, keys, torch.ones(300, 3).long(), [[lowest, .9]], device='cpu', dims=())
    assert (tally.called, one_by_one.called) == ((True, False) if lowest < 0 else (False, True))

@settings(max_examples=100, deadline=None)
@given(problem=problems(), dtype=st.sampled_from([torch.int8, torch.float32]), end=st.integers(1, 200),
       seed=st.integers(0, 2**32), depths=st.lists(st.integers(0, 12), max_size=3), spread=st.booleans(),
       whole=st.booleans(), tile=st.sampled_from([64, 100, 4096]), n_tiles=st.integers(1, 3),
       most=st.sampled_from([1, 2, 79]), times=st.sampled_from([1, 10**9]), lower=st.sampled_from([0, .5, 1]))
def test_sieves_lose_nothing(problem, dtype, end, seed, depths, spread, whole, tile, n_tiles, most, times,
                             lower):
    "However few dimensions, in any basis, and coarse numbers; the last group of keys need not be full"
    queries, keys, values, thresholds, _ = problem
    queries, keys, threshold = queries[0], keys[0].repeat(10, 1)[:end], thresholds[0].min().item() - lower
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(queries.shape[1], 12, generator=generator))[0]
    with mock.patch.object(cosine_sims, 'INT8_MOST', most):
        sieves = [_Sieve(unit(queries), basis[:, :d], dtype) for d in depths]
    own = torch.full((len(queries),), threshold, dtype=torch.float64)
    # a lower threshold lets more through, and nobody can say what passes as a whole
    if spread and not whole: own[1:] -= torch.rand(len(own)-1, generator=generator)
    cascade = _Cascade(unit(queries), own, *sieves)
    def found():
        for start in range(0, len(keys), tile):
            yield from cascade.candidate_batches(unit(keys[start:start+tile]), start, whole)
    with mock.patch.multiple(cosine_sims, TILE=tile, INT8_MOST=most):
        values = Values(values.repeat(10, 1)[:len(keys)]*times)
        values.n_tiles = min(n_tiles, values.n_tiles)
        counts = count_one(found(), queries, keys, values, threshold)
    expected = threshold_attention_loop(queries[None], keys[None], values.counts.to_dense(), [threshold])
    assert torch.equal(counts, expected[0][0])

@pytest.mark.parametrize('dtype', [torch.float32, torch.int8])
def test_groups_that_pass_as_a_whole_are_counted_as_such(dtype):
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(3, 1, 384, generator=generator)
    keys = (middle + .1*torch.randn(3, 64, 384, generator=generator)).flatten(0, 1)
    queries, values = middle[:, 0], Values(torch.arange(192)[:, None])
    # the first sieve knows too little
    sieves = (_Sieve(unit(queries), torch.eye(384)[:, :d], dtype) for d in (3, 383))
    cascade = _Cascade(unit(queries), torch.full((3,), .9), *sieves)
    [whole] = cascade.candidate_batches(unit(keys), 0, whole=True)
    assert torch.equal(whole.q, torch.arange(3)) and torch.equal(whole.k, 64*torch.arange(3))
    counts = count_one([whole], queries, keys, values, .9)
    assert counts[0, :, 0].tolist() == [sum(range(64*i, 64*(i+1))) for i in range(3)]
    assert counts[0, :, 1].tolist() == [64]*3
    with mock.patch.object(cosine_sims, '_add_batch', None): # no cosine is computed
        _, n = threshold_attention(queries[None], keys[None], torch.ones(192, 1).long(), [-.9],
                                   device='cpu', dtype=dtype, dims=(383,))
    assert n.tolist() == [[192]*3]
    with mock.patch.object(cosine_sims, 'LARGE', 0), mock.patch.object(Values, 'dense', None):
        _, n = threshold_attention(queries[None], keys[None], torch.ones(192, 1).long(), [-.9],
                                   device='cpu', dtype=dtype, dims=(383,))
    assert n.tolist() == [[192]*3]

@pytest.mark.parametrize('dtype', [torch.float32, torch.int8])
def test_a_group_does_not_pass_if_one_key_does_not(dtype):
    "wherever it stands, even where the file of keys ends"
    rows = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    for other in range(64):
        keys = rows.repeat(64, 1)
        keys[other] *= -1
        for n in 64, 63: # the last group is filled up with zeros
            _, found = threshold_attention(rows[None], keys[None, :n], torch.ones(n, 1).long(), [.5],
                                           device='cpu', dtype=dtype, dims=(11,))
            assert found.item() == n - (other < n)

def test_sieves_do_not_heed_the_precision_that_the_caller_allows():
    "which rounds products to bfloat16 where a processor has that"
    seen = []
    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, f, types, args=(), kwargs=None):
            if f in (torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm):
                if args[0].dtype == torch.float32: seen.append(torch.get_float32_matmul_precision())
            return f(*args, **kwargs or {})
    rows = unit(torch.randn(64, 12, generator=torch.Generator().manual_seed(0)))
    balls = _balls_around(rows)
    torch.set_float32_matmul_precision('medium')
    try:
        with Watched():
            sieve = _Sieve(rows, torch.eye(12)[:, :7])
            cascade = _Cascade(rows, torch.zeros(64), sieve)
            sieve.refine(balls, cascade.above(balls), [torch.arange(64)])
    finally: torch.set_float32_matmul_precision('highest')
    assert seen == ['highest']*4 # queries, centres, offsets, and both together

@pytest.mark.parametrize('dtype', [torch.float32, torch.int8])
def test_some_queries_at_a_time_make_no_difference(dtype):
    generator = torch.Generator().manual_seed(0)
    rows = unit(torch.randn(300, 12, generator=generator))
    queries, own = torch.cat([rows, rows]), torch.linspace(-1, 1, 600)
    cascade = _Cascade(queries, own, _Sieve(queries, torch.eye(12)[:, :7], dtype))
    def found(): return [(*x,) for x in cascade.candidate_batches(rows, 5, whole=True)]
    at_once = found()
    with mock.patch.object(cosine_sims, '_CACHED', 7): in_parts = found()
    assert len(at_once) == len(in_parts) == 2 # groups that pass as a whole, and the others
    for some, others in zip(at_once, in_parts):
        for x, y in zip(some, others):
            if isinstance(x, list): assert x == y
            else: torch.testing.assert_close(x, y, equal_nan=True)

@pytest.mark.parametrize('most', [2**9, 2**14, 2**17, 2**18])
@pytest.mark.parametrize('dims', [(), (2,)])
def test_sums_over_tiles_are_exact(dims, most):
    "as many tiles as float32 holds are added up in it"
    less = torch.randint(2, (6400, 1), generator=torch.Generator().manual_seed(0))
    rows, values = torch.ones(1, 6400, 3), most - less
    with mock.patch.object(cosine_sims, 'TILE', 64):
        counts, _ = threshold_attention(rows[:, :2], rows, values, [.5], device='cpu', dims=dims)
    assert counts.flatten().tolist() == [values.sum().item()]*2

def test_cones_lose_nothing_to_rounding():
    "Keys are all the same, and their cosine is the next number above the threshold"
    queries = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    keys = queries + .1*queries.roll(1, 0)
    below = torch.nextafter(cosine(queries, keys), torch.tensor(-1.).double())
    found = _Cascade(unit(queries), below).candidates(unit(keys).repeat_interleave(64, 0))
    assert all(i in q for i, q in enumerate(found))

@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), n_embed=st.integers(1, 40),
       noise=st.sampled_from([0, 1e-6, 1e-3, .1, 1, 10]), n_zeros=st.sampled_from([0, 1, 64]))
def test_cones_keep_whoever_just_exceeds_the_threshold(seed, n_embed, noise, n_zeros):
    "each query's is the next number below its largest cosine; its own, or one for all"
    generator = torch.Generator().manual_seed(seed)
    def rows(n): return torch.randn(n, n_embed, generator=generator)
    keys, queries = rows(1) + noise*rows(64), rows(20)
    keys[:n_zeros], queries[0] = 0, 0
    queries[1:3] = torch.stack([keys[-1], -keys[-1]])
    keys, queries = unit(keys), unit(queries)
    most = cosine(queries[:, None], keys).amax(1)
    below = torch.nextafter(most, torch.tensor(-2.).double())
    [kept] = _Cascade(queries, below).candidates(keys)
    assert len(kept) == 20
    for q, threshold in enumerate(below):
        [kept] = _Cascade(queries, threshold.expand(20)).candidates(keys)
        assert {*(most > threshold).nonzero().flatten().tolist()} <= {*kept.tolist()} and q in kept

def test_rounding_says_what_it_takes_away():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 8, 40, generator=generator)*10**torch.linspace(-15, 15, 200)[:, None, None]
    numbers, scale, error = cosine_sims._rounded(rows, torch.int8)
    taken = (rows - scale[:, None, None].double()*numbers).norm(dim=2).amax(1)
    assert (numbers.abs().amax((1, 2)) == 79).all()
    assert (error >= taken).all() and (error < 1.02*taken).all()

@pytest.mark.parametrize('n_embed, depth', [(2, 1), (12, 1), (12, 8), (384, 15), (384, 383)])
def test_rests_are_no_longer_than_is_said(n_embed, depth):
    "What leading directions leave of rows, in float64; they are nearly, or wholly, in their span"
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n_embed, n_embed, generator=generator, dtype=torch.float64))[0]
    p, off = torch.randn(2000, n_embed, generator=generator, dtype=torch.float64).split(
        [depth, n_embed-depth], 1)
    rows = p @ basis[:, :depth].T + 10**torch.linspace(-7, 0, 2000)[:, None]*(off @ basis[:, depth:].T)
    rows = unit(rows)
    left = (rows.double() @ basis[:, depth:]).norm(dim=1)
    sieve = _Sieve(rows, basis[:, :depth].float())
    slack = 8*(n_embed+4)*(depth+1)**.5*2**-24
    for times in 1, 1e-3: # as a query, and as an offset
        rest = sieve.shorten(times*rows, (times*rows).norm(dim=1))[1]
        assert (rest >= times*left).all() and (rest <= times*(left**2 + 2*slack).sqrt()).all()

def bounds(sieve, balls, above):
    "Of the cosines less the thresholds, (n_queries, n_groups, 64) both: the least and the most they can be."
    q, both = torch.arange(above.shape[1]), []
    for group, some in zip(sieve.groups(balls), above):
        said = some[:, None] + (sieve.scale*group.scale)[:, None]*multiply(sieve.numbers[q], group.numbers.T)
        lowest = said - 2*group.rest*sieve.rest[:, None] - group.margin
        both.append(torch.stack([lowest, said + group.margin]))
    return torch.stack(both, 2)

@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), n_embed=st.integers(1, 12), depth=st.integers(0, 12),
       most=st.sampled_from([1, 2, 79]), dtype=st.sampled_from([torch.int8, torch.float32]),
       noise=st.sampled_from([0, 1e-4, .1, 1, 10]), threshold=st.floats(-1, 1))
def test_bounds_hold_however_coarse_the_numbers(seed, n_embed, depth, most, dtype, noise, threshold):
    "and say whom a sieve keeps"
    generator = torch.Generator().manual_seed(seed)
    def rows(n): return torch.randn(n, n_embed, generator=generator)
    keys, queries = unit(rows(1) + noise*rows(128)), unit(rows(40))
    basis = torch.linalg.qr(rows(n_embed))[0][:, :depth]
    with mock.patch.object(cosine_sims, 'INT8_MOST', most):
        balls, sieve = _balls_around(keys), _Sieve(queries, basis, dtype)
        above = _Cascade(queries, torch.full((40,), threshold)).above(balls)
        lowest, highest = bounds(sieve, balls, above)
        kept = [sieve.keep(*group, torch.arange(40), True) for group in zip(sieve.groups(balls), above)]
    reached = cosine(queries[:, None], keys).view(lowest.shape) - threshold
    assert (lowest <= reached).all() and (reached <= highest).all()
    for (may, surely), least, most in zip(kept, lowest.amin(2).T, highest.amax(2).T):
        near = torch.minimum(least.abs(), most.abs()) < 1e-5
        expected = (most > 0) & ~(least > 0), least > 0
        for q, those in zip((may, surely), expected):
            assert torch.equal(torch.arange(40)[those & ~near], q[~near[q]])

def test_bounds_are_nearly_reached():
    "Where rounding, here to -1, 0 and 1, makes all rows longer, in their own direction"
    basis = torch.linalg.qr(torch.randn(66, 66, generator=torch.Generator().manual_seed(0)))[0]
    rotation = cosine_sims._rotation(65).float()
    z = torch.full((65,), .53).index_fill_(0, torch.tensor(0), 1)
    query = unit((basis[:, :64] @ (rotation @ z)[:64])[None])
    keys = unit(basis[:, 65] + torch.tensor([.5, -.5, .1, -.1]*16)[:, None]*query)
    with mock.patch.object(cosine_sims, 'INT8_MOST', 1):
        balls, sieve = _balls_around(keys), _Sieve(query, basis[:, :64], torch.int8)
        lowest, highest = bounds(sieve, balls, _Cascade(query, torch.zeros(1)).above(balls))[:, 0, 0]
    reached = cosine(query, keys)
    assert (lowest <= reached).all() and (reached <= highest).all() and (highest - lowest).min() > 1
    assert (reached - lowest).min() < .06

@pytest.mark.parametrize('dtype', [torch.float32, torch.int8])
@pytest.mark.parametrize('noise', [0, 1e-6, 1e-3, .1, 3])
@pytest.mark.parametrize('depth', [60, 383])
def test_bounds_hold_within_what_is_paid_for(depth, noise, dtype):
    "What a sieve says of a pair is no less than its cosine less the threshold, nor the lower bound more"
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(4, 1, 384, generator=generator)
    keys = unit((middle + noise*torch.randn(4, 64, 384, generator=generator)).flatten(0, 1))
    queries = unit(torch.cat([middle[:, 0], -middle[:, 0], torch.randn(50, 384, generator=generator)]))
    balls, own = _balls_around(keys), torch.full((len(queries),), .3)
    reached = (queries.double() @ keys.double().T).view(len(queries), 4, 64) - .3
    directions = torch.linalg.qr(torch.randn(384, depth, generator=generator))[0]
    sieve, above = _Sieve(queries, directions, dtype), _Cascade(queries, own).above(balls)
    by_cones = above + _Cascade(queries, own).reach(balls)
    assert (by_cones.T > 0)[(reached > 0).any(2)].all()
    lowest, highest = bounds(sieve, balls, above)
    assert (lowest <= reached).all() and (reached <= highest).all()
    # where keys are alike, and of nearly all dimensions, little is left but rounding
    if noise < 1 and (noise < 1e-3 or depth == 383): assert (highest - lowest).max() < .06

def test_counts_are_added_up_in_float32_whatever_the_caller_allows():
    seen, rows = [], torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    class Watched(Values):
        def dense(self, k, n):
            seen.append(torch.get_float32_matmul_precision())
            return super().dense(k, n)
    torch.set_float32_matmul_precision('medium')
    try: count_one(batches(rows, rows, .5), rows, rows, Watched(torch.full((50, 2), 257)), .5)
    finally: torch.set_float32_matmul_precision('highest')
    assert set(seen) == {'highest'}

def test_one_query_does_not_ask_what_is_fast():
    "nor needs a folder to keep the answer in"
    rows = torch.eye(5)
    with mock.patch.object(cosine_sims, 'fast_integers', side_effect=AssertionError):
        assert similar(rows[2], rows, .5).rows.tolist() == [2]

@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_similar_is_sorted_and_complete(problem):
    queries, keys, _, thresholds, exclude = problem
    threshold, left_out = thresholds[0, 0].item(), -1 if exclude is None else exclude[0]
    rows, cosines = similar(queries[0, 0], keys[0], threshold, left_out)
    true = cosine(queries[0, 0], keys[0])
    assert set(rows.tolist()) == {k for k, c in enumerate(true.tolist()) if c > threshold and k != left_out}
    assert torch.equal(cosines, true[rows]) and (cosines[:-1] >= cosines[1:]).all()

def edge(queries, keys, similarity): # of one block; similarity: nearly the cosines
    "The greatest number below a cosine that occurs, of which float32 makes that cosine or more; and the key."
    for q, k in ((similarity > .7) & (similarity < .99)).nonzero().flip(0).tolist():
        exactly = cosine(queries[q], keys[k])
        below = torch.nextafter(exactly, torch.tensor(-1.).double())
        if below.float().double() >= exactly: break
    assert exactly > below and not exactly > below.float().double()
    return below, k

def passing(queries, keys, similarity, threshold):
    "Which pairs pass; those that are near the threshold by the definition."
    passes = similarity > threshold
    near = ((similarity - threshold).abs() < 1e-12).nonzero().unbind(1)
    passes[near] = cosine(queries[near[0]], keys[near[1]]) > threshold
    return passes

def test_thresholds_that_do_not_fit_float32(corpus, model):
    "The greatest number below a cosine that occurs lets its pair pass; what float32 makes of it would not"
    index, generator = corpus_index(corpus, model, length=2, quiet=True), torch.Generator().manual_seed(0)
    prompts = [index.strings[i] for i in prompt_ids(index.strings, 3)]
    queries, keys = index.queries(prompts), index.keys
    values = next_counts(index.strings, len(corpus.tokenizer))[index.ids]
    dense = values.to_dense()
    q, k = (F.normalize(rows.double(), dim=-1) for rows in (queries, keys))
    true = q @ k.mT # (6, 3, n_keys), nearly
    blocks = list(zip(queries, keys, true))
    edges = [edge(*block) for block in blocks]
    thresholds, pairs = [below.item() for below, _ in edges], torch.tensor([k for _, k in edges])
    passes = torch.stack([passing(*block, below) for block, (below, _) in zip(blocks, edges)])
    n_similar, counts = passes.sum(-1), (passes.double() @ dense.double()).long()
    kept = prompt_counts(corpus, model, thresholds, 3, index)
    for way in kept, threshold_attention(queries, keys, values, thresholds):
        assert torch.equal(way[0].long(), counts) and torch.equal(way[1].long(), n_similar)
    for b, t in enumerate(thresholds):
        assert [len(similar(q, keys[b], t)[0]) for q in queries[b]] == n_similar[b].tolist()
    for q, prompt in enumerate(prompts):
        e = explain(prompt, corpus, model, Approximation(tuple(thresholds), (1,)*6), quiet=True)
        assert [block.n_similar for block in e.blocks] == n_similar[:, q].tolist()
    some = torch.cat([pairs, torch.randint(len(index), (40,), generator=generator)])
    looped = threshold_attention_loop(queries, keys[:, some], dense[some], thresholds)
    assert torch.equal(looped[1][:, 0], passes[:, :, some].sum(-1))

SHARE = """
import os, sys, time, torch, torch.distributed as dist
from shakespeare_ffn import cosine_sims, nearest_strings
torch.set_num_threads(1)
dist.init_process_group('gloo')
queries, keys, values, thresholds, exclude, expected = torch.load(sys.argv[1])
def die(*args, **kwargs): os._exit(9)
def linger(*args, progress, **kwargs): # never done
    while True:
        time.sleep(.1)
        progress(0)
if sys.argv[2] >= '0':
    cosine_sims.batches = nearest_strings.batches = die if os.environ['RANK'] == sys.argv[2] else linger
def ask():
    if sys.argv[3] == 'nearest': return nearest_strings.shared_nearest_keys(queries[0], keys[0], 30, exclude)
    return cosine_sims.shared_threshold_attention(queries, keys, values, thresholds, exclude, device='cpu')
try: found = ask()
except cosine_sims.UserError as e:
    print(e, flush=True)
    os._exit(2)
if sys.argv[3] == 'nearest':
    for k in 30, 70, 200: # more than a share has, more than there are
        found = nearest_strings.shared_nearest_keys(queries[0], keys[0], k, exclude)
        expected = nearest_strings.nearest_keys(queries[0], keys[0], k, exclude)
        assert torch.equal(found.rows.sort(1)[0], expected.rows.sort(1)[0]), k
        assert torch.allclose(found.cosines, expected.cosines, atol=1e-6)
else: assert all(map(torch.equal, found, expected))
dist.destroy_process_group()
"""

def start_shares(start, world, *args):
    return [start(SHARE, *args, env=rank) for rank in ranks(world)]

@pytest.fixture
def shared_case(tmp_path):
    generator = torch.Generator().manual_seed(5)
    keys = torch.randn(2, 101, 16, generator=generator).bfloat16() # 101 does not divide by 2 or 3
    queries, values = keys[:, :9], torch.randint(0, 5, (101, 7), generator=generator)
    case = queries, keys, values, [[.3, .5], [.2, -1.]], torch.tensor([0, 1, 60, 100, -1, -1, 5, 6, 7])
    torch.save((*case, tuple(threshold_attention(*case))), tmp_path/'case.pt')
    return tmp_path/'case.pt'

@pytest.mark.parametrize('what', ['counts', 'nearest'])
@pytest.mark.parametrize('world', [2, 3])
def test_shares_add_up_to_the_whole(shared_case, start, world, what):
    for p in start_shares(start, world, shared_case, -1, what): assert p.wait(200) == 0, p.communicate()

@pytest.mark.parametrize('dies, what', [(0, 'counts'), (1, 'nearest')])
def test_when_one_dies_the_others_say_so(shared_case, start, dies, what):
    processes = start_shares(start, 3, shared_case, dies, what)
    assert processes[dies].wait(200) == 9
    died = time.monotonic()
    for rank, p in enumerate(processes):
        if rank == dies: continue
        out, err = p.communicate(timeout=200)
        message = f'process {dies} of 3 ended before its share was done'
        assert p.returncode == 2 and out.startswith(message), (out, err)
    assert time.monotonic() - died < 15

COUNTS = 'from shakespeare_ffn.explain import counts_main; counts_main()'

def by_torchrun(start, *args):
    torchrun = sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'
    done = subprocess.run([*torchrun, '--no-python', sys.executable, '-c', COUNTS, *args],
                          capture_output=True, text=True, encoding='utf-8', timeout=200)
    return done.returncode, done.stdout, done.stderr

def as_by_torchrun(start, *args):
    both = [start(COUNTS, *args, env=rank) for rank in ranks(2)]
    (output, error), (other, _) = [p.communicate(timeout=200) for p in both]
    return max(p.returncode for p in both), output + other, error

torchrun_itself = pytest.param(by_torchrun, marks=pytest.mark.slow('half a minute; as_by_torchrun is quick'))

@pytest.mark.parametrize('together', [as_by_torchrun, torchrun_itself])
def test_the_command_for_several_processes(monkeypatch, start, together):
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    alone = _run_counts(['--prompts', '40']) # first, so that there is an index
    code, output, error = together(start, '--prompts', '40')
    assert code == 0 and 'by 2 processes' in output, error
    assert 'by 1 process:' in alone and alone.split()[-1] == output.split()[-1] # the same distance
