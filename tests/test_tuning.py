"Votes are tuned without zeros; here what is found is held against tables that have them all."
import pytest, torch
from hypothesis import given, settings, strategies as st
from shakespeare_ffn.cosine_sims import SparseCounts
from shakespeare_ffn.nearest_strings import _POWERS, Nearest, Vote, _best_pair, _said, _side_by_side
from shakespeare_ffn.nearest_strings import tuned_vote, vote
from shakespeare_ffn.similar_space import mean_distance

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
    says = [_said(v, x, SparseCounts.of(values)) for v, x in zip(votes, found)]
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
    says = [_said(v, x, SparseCounts.of(values)) for v, x in zip(votes, found)]
    first, second = _best_pair(votes, says, probs)
    tried = [of(i/50, other) for i in range(1, 50) for other in (1, 2)]
    assert first.block == 0 and of(first.share/(first.share + second.share), second.block) < min(tried) + 2e-3
