"Threshold attention is its specification, whatever it is given."
import torch
from hypothesis import given, settings, strategies as st
from shakespeare_ffn.cosine_sims import cosine, similar, threshold_attention, threshold_attention_loop

@st.composite
def problems(draw):
    "Rows with repeats, zeros, opposites and near-repeats; thresholds that lie on similarities that occur"
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n_layer, n_queries, n_keys, n_embed, vocab = (draw(st.integers(1, n)) for n in (2, 5, 20, 12, 4))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.float32]))
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
@given(problem=problems(), query_tile=st.integers(1, 6), key_tile=st.integers(1, 21), bfloat16=st.booleans())
def test_equals_the_loop(problem, query_tile, key_tile, bfloat16):
    queries, keys, values, thresholds, exclude = problem
    first_pass = torch.bfloat16 if bfloat16 and keys.dtype == torch.bfloat16 else torch.float32
    found = threshold_attention(queries, keys, values, thresholds, exclude, first_pass=first_pass, query_tile=query_tile, key_tile=key_tile)
    for a, b in zip(found, threshold_attention_loop(queries, keys, values, thresholds, exclude)): assert torch.equal(a, b)

@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_similar_is_sorted_and_complete(problem):
    queries, keys, _, thresholds, exclude = problem
    threshold, left_out = thresholds[0, 0].item(), -1 if exclude is None else exclude[0]
    rows, cosines = similar(queries[0, 0], keys[0], threshold, left_out)
    true = cosine(queries[0, 0], keys[0])
    assert set(rows.tolist()) == {k for k, c in enumerate(true.tolist()) if c > threshold and k != left_out}
    assert torch.equal(cosines, true[rows]) and (cosines[:-1] >= cosines[1:]).all()
