"What votes are tuned by is counted without zeros; here it is held against tables that have them."
import torch
from hypothesis import given, settings, strategies as st

from shakespeare_ffn.cosine_sims import SparseCounts
from shakespeare_ffn.nearest_strings import POWERS, Nearest, Vote, _best_pair, _said, _side_by_side
from shakespeare_ffn.nearest_strings import tuned_vote, vote
from shakespeare_ffn.similar_space import mean_distance

def with_zeros(found, values, beta, power) -> torch.Tensor: # (n, vocab_size)
    "What a vote says, one prompt at a time, over all tokens."
    says = []
    for rows, cosines in zip(found.rows, found.cosines.double()):
        heard = (beta*(cosines - cosines[0])).exp() @ values[rows].double()
        raised = (heard/heard.sum().clamp_min(1e-300))**power
        says.append(raised/raised.sum().clamp_min(1e-300))
    return torch.stack(says)

def apart(p, probs): # Hellinger distances by another formula: no string at all leaves them at √½
    return (1 - (p*probs.double()).sqrt().sum(-1)/probs.double().sum(-1).sqrt()).clamp_min(0).sqrt() \
        if (p.sum(-1) > 0).all() else None

@st.composite
def cases(draw): # two times neighbours, values with few entries, what a model says
    n, k, n_keys, vocab_size = (draw(st.integers(a, b)) for a, b in ((1, 6), (2, 5), (6, 9), (2, 40)))
    torch.manual_seed(draw(st.integers(0, 99)))
    values = torch.randint(1, 9, (n_keys, vocab_size))*(torch.rand(n_keys, vocab_size) < draw(st.floats(0, .5)))
    values[1:].select(1, 0).clamp_min_(1) # the text's last string alone may have nothing behind it
    def found():
        rows = torch.stack([torch.randperm(n_keys)[:k] for _ in range(n)])
        return Nearest(rows, torch.rand(n, k).sort(descending=True)[0])
    return found(), found(), values, (3*torch.randn(n, vocab_size)).softmax(-1)
