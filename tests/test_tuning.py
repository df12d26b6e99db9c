"Tuning does without most zeros; here what is found is held against tables that have them all."
import math, pytest, torch
from hypothesis import given, settings, strategies as st
from shakespeare_ffn.class_and_sample import Heard, hear_nearest, hear_passing, sample_sums, sums_of
from shakespeare_ffn.core import UserError
from shakespeare_ffn.cosine_sims import SparseCounts
from shakespeare_ffn.nearest_strings import _POWERS, Nearest, Vote, _best_pair, _side_by_side, _sparse_probs
from shakespeare_ffn.nearest_strings import tuned_vote, vote
from shakespeare_ffn.similar_space import _in_one, _Problem, block_distances, fit, mean_distance

@st.composite
def problems(draw):
    "Neighbours of some prompts in three spaces, what follows the strings, what a model says"
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, k, n_keys, vocab = (draw(st.integers(a, b)) for a, b in ((1, 6), (1, 5), (5, 9), (2, 40)))
    def random(*size): return torch.rand(*size, generator=generator)
    values = (9*random(n_keys, vocab)).long() * (random(n_keys, vocab) < draw(st.floats(0, 1)))
    def found():
        rows = torch.stack([torch.randperm(n_keys, generator=generator)[:k] for _ in range(n)])
        return Nearest(rows, random(n, k).sort(dim=1, descending=True)[0])
    probs = (5*random(n, vocab)).softmax(-1)
    probs[:, 0] *= draw(st.sampled_from([0, 1])) # a model may say that something never comes
    return [found() for _ in range(3)], values, probs/probs.sum(-1, keepdim=True)

def shares(x): return x/x.sum(-1, keepdim=True).clamp_min(1e-200)

def counted(found, values, beta): # (n, vocab_size)
    weights = (beta*(found.cosines.double() - found.cosines[:, :1].double())).exp()
    return torch.einsum('qk,qkc->qc', weights, values[found.rows].double())

def from_model(p, probs): return ((p.sqrt() - probs.double().sqrt()).square().sum(-1)/2).sqrt().mean()

@settings(max_examples=60)
@given(problems())
def test_votes_are_those_of_tables(problem):
    (found, *_), values, probs = problem
    betas = 0., 8., 30.
    distance, best = tuned_vote(Vote(0, False), found, SparseCounts.of(values), probs, betas)
    def of(beta, power): return from_model(shares(counted(found, values, beta)**power), probs)
    expected = torch.stack([of(beta, power) for beta in betas for power in _POWERS])
    assert distance == pytest.approx(expected.min().item(), abs=1e-9)
    assert of(best.beta, best.power).item() == pytest.approx(distance, abs=1e-9)
    assert torch.allclose(vote(found, SparseCounts.of(values), 8.), counted(found, values, 8.), atol=1e-12)

@settings(max_examples=60)
@given(problems(), st.floats(.01, .99))
def test_two_votes_side_by_side(problem, share):
    "Any mixture is as far from the model as over all tokens."
    found, values, probs = problem
    votes = [Vote(0, False, 8., 1.2), Vote(1, True, 20., 1.)]
    says = [_sparse_probs(v, x, SparseCounts.of(values)) for v, x in zip(votes, found)]
    both, q = _side_by_side(says, probs)
    nothing, weights = torch.zeros(()).double(), torch.tensor([share, 1-share]).double()
    tables = [shares(counted(x, values, v.beta)**v.power) for v, x in zip(votes, found)]
    expected = from_model(shares(share*tables[0] + (1-share)*tables[1]), probs)
    assert mean_distance(both, weights, q, nothing).item() == pytest.approx(expected.item(), abs=1e-7)

@settings(max_examples=10, deadline=None)
@given(problems())
def test_the_best_pair(problem):
    "No other share of the two is better, nor is another vote beside the first."
    found, values, probs = problem
    votes = [Vote(b, False, 8.) for b in range(3)]
    tables = [shares(counted(x, values, 8.)) for x in found]
    def of(share, other): return from_model(shares(share*tables[0] + (1-share)*tables[other]), probs).item()
    says = [_sparse_probs(v, x, SparseCounts.of(values)) for v, x in zip(votes, found)]
    first, second = _best_pair(votes, says, probs)
    tried = [of(i/50, other) for i in range(1, 50) for other in (1, 2)]
    assert first.block == 0 and of(first.share/(first.share + second.share), second.block) < min(tried) + 2e-3

@st.composite
def thresholds_problems(draw):
    "What follows similar strings, at thresholds that ascend; what a model says; how often tokens occur"
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    layers, thresholds, n, vocab = (draw(st.integers(a, b)) for a, b in ((1, 3), (1, 4), (1, 6), (2, 40)))
    def random(*size): return torch.rand(*size, generator=generator)
    few = random(layers, thresholds, n, vocab) < draw(st.floats(0, 1))
    counts = (9*random(layers, thresholds, n, vocab)).long()*few
    counts = counts.flip(1).cumsum(1).flip(1) # what exceeds a threshold exceeds all below it
    counts[:, :, random(n) < .2] = 0          # nothing is similar to some strings
    probs, unigram = (5*random(n, vocab)).softmax(-1), shares(random(vocab).double())
    probs[:, 0] *= draw(st.sampled_from([0, 1]))
    unigram[-1] *= draw(st.sampled_from([0, 1]))
    return _Problem(counts, shares(probs), shares(unigram), counts.sum(-1))

@settings(max_examples=60, deadline=None)
@given(thresholds_problems(), st.integers(1, 6), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_thresholds_over_what_follows(problem, at_once, weights):
    "All distances are those of tables, however strings are counted in parts."
    def some(rows):
        here = problem._replace(counts=problem.counts[:, :, rows], probs=problem.probs[rows],
                                n_matches=problem.n_matches[:, :, rows])
        return here.condensed()
    found = _in_one([some(rows) for rows in torch.arange(len(problem.probs)).split(at_once)])
    assert torch.equal(found.n_matches, problem.n_matches)
    assert found.counts.shape[-1] == (problem.counts.amax((0, 1)) > 0).sum(1).max() + 1
    assert torch.allclose(block_distances(*found[:3]), block_distances(*problem[:3]), atol=1e-7)
    weights = torch.tensor(weights[:len(problem.counts)]).double()
    def lowest(p): return mean_distance(p.counts[:, 0], weights, p.probs, p.unigram).item()
    assert lowest(found) == pytest.approx(lowest(problem), abs=1e-7)

@settings(max_examples=10, deadline=None)
@given(thresholds_problems())
def test_the_same_distance_is_reached(problem):
    expected, found = (fit(*p[:3]) for p in (problem, problem.condensed()))
    assert found.history[-1] == pytest.approx(expected.history[-1], abs=1e-4)

@pytest.mark.parametrize('beta', [.1, 20.3])
def test_a_beta_counts_to_its_last_digit(beta):
    "float32 does not hold these"
    found = Nearest(torch.tensor([[0, 1]]), torch.tensor([[1., .5]]))
    expected, n_next = 1 + math.exp(-beta/2), torch.ones(2)
    heard = hear_nearest(found, beta)
    [[[sampled, _]]] = sample_sums([heard], torch.tensor([[1., 0.]]), n_next).tolist()
    [[meant, _]] = sums_of(heard, torch.tensor([[1., 0.]]*2).double()).tolist()
    assert sampled == pytest.approx(expected, rel=1e-15) and meant == pytest.approx(expected, rel=1e-15)

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(-1, 1))
def test_what_passes_a_threshold_is_heard(seed, threshold):
    "each but the query's own key, with weight 1; a query that hears nothing is told nothing"
    generator = torch.Generator().manual_seed(seed)
    queries, keys, follows = (torch.randn(n, 8, generator=generator) for n in (5, 40, 40))
    own = torch.tensor([-1, 0, 7, 39, -1])
    queries[2] = keys[7]
    heard = hear_passing(queries, keys, threshold, own)
    cosines = torch.cosine_similarity(queries.double()[:, None], keys.double(), dim=-1)
    passes = (cosines > threshold) & (torch.arange(40) != own[:, None])
    assert torch.equal(heard.begin.diff(), passes.sum(1)) and torch.equal(heard.rows, passes.nonzero()[:, 1])
    assert torch.allclose(sums_of(heard, follows.double()), passes.double() @ follows.double(), atol=1e-12)

def test_a_string_that_two_blocks_hear_is_drawn_once():
    "and one that nothing follows, or that none hears, brings nothing"
    one = Heard(torch.tensor([0, 1, 1]), torch.tensor([0]), torch.tensor([2.]).double())
    both = Heard(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.tensor([1., 1., 1.]).double())
    n_next = torch.tensor([3., 0.])
    first, second = sample_sums([one, both], torch.tensor([[.5, .5]]*2), n_next)
    assert first[0].sum() == 6 and torch.equal(first[0], 2*second[0])
    assert not (first[1].any() or second[1].any())

@pytest.mark.parametrize('block', [1.5, 1., -1, float('nan'), '1'])
def test_a_block_is_a_whole_number(block):
    with pytest.raises(UserError, match='its block a whole one'): Vote(block, False)
