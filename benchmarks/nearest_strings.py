"""How long does it take to find the 1,000 nearest strings of all prompts, for the two blocks that vote?

Beside it the counts above the tuned threshold of the same block, and FAISS' search for as many, which
decides in float32."""
import time
import numpy as np
import torch
import faiss
from shakespeare_ffn.core import by_scale, float64
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import Values, block_counts, unit
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model
from shakespeare_ffn.nearest_strings import mean_key, nearest_approximation
from shakespeare_ffn.similar_space import tuned_approximation
from shakespeare_ffn.text_analysis import next_counts
from common import compare, report

N_PROMPTS, N_FAISS = by_scale((20_000, 1024), (200, 50))
HEAD = ['block', 'the nearest (s)', 'above the threshold (s)', 'FAISS, IndexFlatIP.search (s)']

def seconds(f) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start

def search(queries, keys, k):
    "FAISS' search among unit rows, which it is given."
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys.numpy())
    return lambda: index.search(queries.numpy(), k)

def faiss_seconds(v, queries, keys, k) -> float: # for all prompts, scaled
    minus = mean_key(keys) if v.centred else 0.
    few, rows = unit(queries[:N_FAISS].float() - minus), unit(keys.float() - minus)
    return seconds(search(few, rows, k))*N_PROMPTS/N_FAISS

def main():
    corpus, model = load_corpus(), load_model()
    index, rule = corpus_index(corpus, model), nearest_approximation(model)
    ids = prompt_ids(index.strings, N_PROMPTS)
    queries, own = index.queries([index.strings[i] for i in ids]), torch.as_tensor(index.row_of[ids]).long()
    values = Values(next_counts(index.strings, len(corpus.tokenizer))[index.ids])
    rows, times = [], []
    for v in rule.votes:
        q, keys, t = queries[v.block], index.keys[v.block], tuned_approximation(model).thresholds[v.block]
        ours = seconds(lambda: v.nearest(queries, index.keys, rule.k, own))
        above = seconds(lambda: block_counts(q, keys, values, float64([t])))
        times.append((ours, above, faiss_seconds(v, q, keys, rule.k)))
        rows.append([str(v).removeprefix('block '), *(f'{x:.1f}' for x in times[-1])])
    ours, above, theirs = np.sum(times, axis=0)
    sizes = dict(prompts=N_PROMPTS, keys=len(index), k=rule.k, blocks=len(rule.votes))
    compare('the nearest', 'counts above a threshold', ours, above, **sizes)
    compare('the nearest', 'FAISS IndexFlatIP.search', ours, theirs, **sizes, peers_prompts=N_FAISS)
    title = f'The {rule.k:,} nearest of {len(index):,} strings, {N_PROMPTS:,} prompts'
    report('nearest_strings', title, HEAD, rows,
           f'FAISS on {N_FAISS:,} prompts, scaled. The nearest take {ours/above:.1f} times as long as the '
           f'threshold, FAISS {theirs/ours:.1f} times as long as the nearest.')

if __name__ == '__main__': main()
