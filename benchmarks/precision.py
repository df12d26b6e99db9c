"""What does bfloat16 arithmetic in building the index change?

Similarities: stored rows against the plain float32 forward pass, over a million pairs of strings a block. Matches and
Hellinger distances: the index built in bfloat16 against one built in float32 (made first if it is not there: 15 minutes, 4 GB)."""
import numpy as np
import torch
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import batches, matches, threshold_attention
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.hooks import capture
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.similar_space import tuned_approximation, unigram
from shakespeare_ffn.text_analysis import hellinger, next_counts
from common import report

N_STRINGS, N_PROMPTS = 1000, 2000

@torch.no_grad()
def plain_keys(model, tokens):
    names = [f'blocks.{b}.ffwd' for b in range(6)]
    return torch.stack([x[:, -1] for x in capture(model, torch.as_tensor(tokens).long(), *names).values()])

def similarities(x):
    x = F.normalize(x.double(), dim=-1)
    return x @ x.transpose(1, 2)

def pairs(queries, keys, threshold):
    "The pairs that pass, one number each."
    one = torch.tensor([threshold], dtype=torch.float64)
    found = [q*len(keys) + k for q, k, _ in matches(batches(queries, keys, threshold), queries, keys, one)]
    return torch.cat(found).numpy()

if __name__ == '__main__':
    corpus, model = load_corpus(), load_model()
    reduced, full = (corpus_index(corpus, model, arithmetic=a) for a in ('bfloat16', 'float32'))
    strings, tuned = full.strings, tuned_approximation(model)
    rows = np.random.default_rng(0).integers(len(full), size=N_STRINGS)
    true = similarities(plain_keys(model, strings.tokens(full.ids[rows])))
    ids = prompt_ids(strings, N_PROMPTS)
    prompts, said = [strings[i] for i in ids], next_char_probs(model, strings.tokens(ids))
    values, often = next_counts(strings, len(corpus.tokenizer))[full.ids], unigram(corpus)
    table, distances = [], []
    for b in range(6):
        cells = [b]
        for index in full, reduced:
            off = (similarities(index.keys[b:b+1, rows])[0] - true[b]).abs().flatten()
            cells += [f'{off.max():.4f}', f'{off.kthvalue(int(.999*len(off))).values:.4f}']
        one, other = (pairs(i.queries(prompts)[b], i.keys[b], tuned.thresholds[b]) for i in (full, reduced))
        cells += [f'{len(one):,}', f'{len(np.setxor1d(one, other, assume_unique=True))/len(one):.2%}']
        table.append(cells)
    for index in full, reduced:
        counts, _ = threshold_attention(index.queries(prompts), index.keys, values, tuned.thresholds)
        distances.append(hellinger(tuned(counts, often)[0], said))
    change = distances[1] - distances[0]
    report('precision', 'What bfloat16 arithmetic changes', ['block', 'rows rounded only: largest difference', '99.9th percentile',
           'bfloat16 arithmetic: largest difference', '99.9th percentile', 'matches', 'of them changed'], table,
           f'Differences of similarity from the plain float32 forward pass, {N_STRINGS**2:,} pairs a block. Rows are stored in bfloat16 in both indexes. '
           f'Matches of {N_PROMPTS:,} prompts at the default thresholds; changed: lost or gained.',
           f'Mean Hellinger distance to the model: {distances[0].mean():.5f} with float32 arithmetic, {distances[1].mean():.5f} with bfloat16, '
           f'a change of {change.mean().abs():.5f}; the largest change of a single prompt: {change.abs().max():.4f}.')
