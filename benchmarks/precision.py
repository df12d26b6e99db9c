"""What does bfloat16 arithmetic in building the index change?

Similarities: rows made in either arithmetic against the plain float32 forward pass, over all pairs of a
sample of strings. Matches and Hellinger distances: the index built in bfloat16 against one built in
float32 (made first if it is not there: minutes, 4 GB). A machine that multiplies bfloat16 slowly would
take hours to build the one, so there the sample is all."""
import numpy as np
import torch
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import TrieForward, corpus_index, plain_keys
from shakespeare_ffn.cosine_sims import batches, matches, threshold_attention
from shakespeare_ffn.core import float64
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.similar_space import tuned_approximation, unigram_distribution
from shakespeare_ffn.text_analysis import hellinger, next_counts
from common import FAST, report

N_STRINGS, N_PROMPTS = 1000 if FAST == 'bfloat16' else 300, 2000
PERCENTILE = '99.9th percentile'
HEAD = ['block', 'rows rounded only: largest difference', PERCENTILE,
        'bfloat16 arithmetic: largest difference', PERCENTILE, 'matches', 'of them changed']

def similarities(x): # (…, n, n_embed) → (…, n, n) cosines in float64
    x = F.normalize(x.double(), dim=-1)
    return x @ x.transpose(-1, -2)

def pairs(queries, keys, threshold):
    "The pairs that pass, one number each."
    one = float64([threshold])
    found = [q*len(keys) + k for q, k, _ in matches(batches(queries, keys, threshold), queries, keys, one)]
    return torch.cat(found).numpy()

def differences(rows, true) -> list: # of a table
    "How far the similarities of rows are from the true ones: at most, and the 99.9th percentile."
    off = (similarities(rows) - true).abs().flatten()
    return [f'{off.max():.4f}', f'{off.kthvalue(int(.999*len(off))).values:.4f}']

def matches_of(full, reduced, prompts, thresholds) -> list: # cells of each block's row
    "How many matches there are with the one index, and how many differ with the other."
    full_queries, reduced_queries, cells = full.queries(prompts), reduced.queries(prompts), []
    for b, threshold in enumerate(thresholds):
        one = pairs(full_queries[b], full.keys[b], threshold)
        other = pairs(reduced_queries[b], reduced.keys[b], threshold)
        n_changed = len(np.setxor1d(one, other, assume_unique=True))
        cells.append([f'{len(one):,}', f'{n_changed/len(one):.2%}'])
    return cells

def whole_indexes(corpus, model, strings, tuned) -> tuple: # further cells of each block's row, notes
    "What the matches and the predictions are with one index and with the other."
    reduced, full = (corpus_index(corpus, model, arithmetic=a) for a in ('bfloat16', 'float32'))
    ids = prompt_ids(strings, N_PROMPTS)
    prompts, model_probs = [strings[i] for i in ids], next_char_probs(model, strings.tokens(ids))
    values, unigram = next_counts(strings, len(corpus.tokenizer))[full.ids], unigram_distribution(corpus)
    def distances(index):
        counts, _ = threshold_attention(index.queries(prompts), index.keys, values, tuned.thresholds)
        return hellinger(tuned(counts, unigram)[0], model_probs)
    before, after = distances(full), distances(reduced)
    change = after - before
    notes = [f'Matches of {N_PROMPTS:,} prompts at the default thresholds; changed: lost or gained.',
             f'Mean Hellinger distance to the model: {before.mean():.5f} with float32 arithmetic, '
             f'{after.mean():.5f} with bfloat16, a change of {change.mean().abs():.5f}; the largest change '
             f'of a single prompt: {change.abs().max():.4f}.']
    return matches_of(full, reduced, prompts, tuned.thresholds), notes

def sample(strings): # (N_STRINGS, length)
    "Token ids of a sample of strings, in alphabetical order, as a build has them."
    positions = np.random.default_rng(0).integers(len(strings), size=N_STRINGS)
    return strings.tokens(strings.order[np.sort(positions)])

def main():
    corpus, model = load_corpus(), load_model()
    strings, tuned = corpus.substrings(10), tuned_approximation(model)
    tokens = sample(strings)
    true = similarities(plain_keys(model, tokens))
    rounded, reduced = (TrieForward(model, a)(tokens).bfloat16() for a in ('float32', 'bfloat16'))
    further = [['–', '–']]*6
    notes = ['Matches are left out: this machine would take hours to build an index in bfloat16.']
    if FAST == 'bfloat16': further, notes = whole_indexes(corpus, model, strings, tuned)
    table = []
    for b in range(6):
        table.append([b, *differences(rounded[b], true[b]), *differences(reduced[b], true[b]), *further[b]])
    report('precision', 'What bfloat16 arithmetic changes', HEAD, table,
           f'Differences of similarity from the plain float32 forward pass, {N_STRINGS**2:,} pairs a block. '
           'Rows are stored in bfloat16 with either arithmetic.', *notes)

if __name__ == '__main__': main()
