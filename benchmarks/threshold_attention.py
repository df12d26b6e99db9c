"""What does the whole question cost, 20,000 prompts × 858,923 strings × 6 blocks at the default thresholds?

Peers on the same stored rows, in turn, block by block, scaled to the whole: FAISS's exact range search,
the bare matrix product of the same shape in the arithmetic that is fast here, and the article's way (100
strings at a time, files). Where bfloat16 is fast the better of two runs each counts, elsewhere a single
one. Then the whole again in a process of its own, watching its memory."""
import tempfile
from pathlib import Path
from typing import NamedTuple
import faiss
import torch
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import Values, block_counts, unit
from shakespeare_ffn.core import float64
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import tuned_approximation
from shakespeare_ffn.text_analysis import next_counts
from common import FAST, compare, report, seconds, watch
from index import build_seconds, plain_forward

N_PROMPTS, N_PEERS = 20_000, 1024   # prompts; those that peers get
N_ARTICLE, N_AT_ONCE = 500, 100    # strings that the article's way gets; those in a file of it
RUNS = 2 if FAST == 'bfloat16' else 1
HEAD = ['block', 'ours, seconds', f'bare product, {FAST}', 'FAISS range search', "the article's way"]
WHOLE = """
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import threshold_attention
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import tuned_approximation
from shakespeare_ffn.text_analysis import next_counts
corpus, model = load_corpus(), load_model()
index = corpus_index(corpus, model)
values, ids = next_counts(index.strings, len(corpus.tokenizer))[index.ids], prompt_ids(index.strings, N)
queries = index.queries([index.strings[i] for i in ids])
threshold_attention(queries, index.keys, values, tuned_approximation(model).thresholds)
"""

class Seconds(NamedTuple):
    "What a block takes, or all of them."
    ours: float
    product: float    # the bare one
    faiss: float
    article: float

    def cells(self, per=1): return [f'{s/per:,.1f}' for s in self]

def range_search(queries, keys, threshold):
    "FAISS, with its index built beforehand."
    index, rows = faiss.IndexFlatIP(keys.shape[1]), unit(queries).numpy()
    for some in keys.split(65_536): index.add(unit(some).numpy())
    return lambda: index.range_search(rows, threshold)

def bare(queries, keys):
    "The products alone, a tile at a time, into memory that is there already."
    dtype = getattr(torch, FAST)
    out, queries = torch.empty(len(queries), 4096, dtype=dtype), queries.to(dtype)
    def products():
        for some in keys.split(4096): torch.mm(queries, some.to(dtype).T, out=out[:, :len(some)])
    return products

def save_similarities(queries, keys, files):
    for some, file in zip(keys.split(N_AT_ONCE), files):
        torch.save(F.cosine_similarity(queries.float()[:, None], some.float()[None], dim=-1), file)

def filter_similarities(files, lowest):
    "Keep those above a lower threshold, with the numbers of query and key."
    for i, file in enumerate(files):
        similarity = torch.load(file)
        q, k = (similarity > lowest).nonzero().T
        torch.save((q, k + N_AT_ONCE*i, similarity[q, k]), file)

def count_filtered(files, counts, values, threshold):
    for file in files:
        q, k, similarity = torch.load(file)
        passed = similarity > threshold
        counts.index_add_(0, q[passed], values[k[passed]].long())

def article(queries, keys, values, threshold):
    "A file of similarities for each 100 strings, a file of those above a lower threshold, and the counts."
    def run():
        counts = torch.zeros(len(queries), values.shape[1], dtype=torch.long)
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder)/str(i) for i in range(-(-len(keys)//N_AT_ONCE))]
            save_similarities(queries, keys, files)
            filter_similarities(files, threshold - .1)
            count_filtered(files, counts, values, threshold)
    return run

def by_block(index, counts, thresholds) -> list: # of Seconds, scaled to the whole
    "Time ours and its peers on each block."
    queries = index.queries([index.strings[i] for i in prompt_ids(index.strings, N_PROMPTS)])
    middle = slice(len(index)//2, len(index)//2 + N_ARTICLE)
    values, middle_counts = Values(counts), counts[middle].to_dense()
    to_prompts = N_PROMPTS/N_PEERS
    scales = Seconds(1, to_prompts, to_prompts, to_prompts*len(index)/N_ARTICLE)
    found = []
    for q, keys, threshold in zip(queries, index.keys, thresholds):
        few, one = q[:N_PEERS], float64([threshold])
        ways = (lambda: block_counts(q, keys, values, one), bare(few, keys),
                range_search(few, keys, threshold), article(few, keys[middle], middle_counts, threshold))
        runs = [[seconds(way) for way in ways] for _ in range(RUNS)]
        found.append(Seconds(*(min(times)*scale for times, scale in zip(zip(*runs), scales))))
    return found

def compare_counting(blocks, total, sizes, to_prompts, to_all):
    "Keep the ratios to each peer, with the seconds of each block."
    def keep_ratio(peer, name, scaled_by, **more):
        by_block = [[round(s.ours, 2), round(getattr(s, peer), 2)] for s in blocks]
        compare('threshold attention', name, total.ours, getattr(total, peer), **sizes, scaled_by=scaled_by,
                **more, seconds_by_block=by_block)
    keep_ratio('product', 'bare matrix product', round(to_prompts, 3), arithmetic=FAST)
    keep_ratio('faiss', 'FAISS IndexFlatIP.range_search', round(to_prompts, 3))
    keep_ratio('article', "the article's way", round(to_all))

def table(blocks, total) -> list: # rows
    rows = [[b, *block.cells()] for b, block in enumerate(blocks)]
    return rows + [['all', *total.cells()], ['times ours', *total.cells(per=total.ours)]]

def forward_seconds(index, model) -> float:
    "How long a plain forward pass over all strings takes, from 1024 of them."
    forward = plain_forward(torch.float32)
    some = index.strings.tokens(index.strings.order[len(index)//2:][:1024])
    return seconds(lambda: forward(some))*len(index)/1024

def main():
    corpus, model = load_corpus(), load_model()
    index, thresholds = corpus_index(corpus, model), tuned_approximation(model).thresholds
    counts = next_counts(index.strings, len(corpus.tokenizer))[index.ids]
    blocks = by_block(index, counts, thresholds)
    total = Seconds(*map(sum, zip(*blocks)))
    to_prompts = N_PROMPTS/N_PEERS
    to_all = to_prompts*len(index)/N_ARTICLE
    sizes = dict(prompts=N_PROMPTS, keys=len(index), dimensions=index.keys.shape[2], blocks=len(blocks),
                 peers_prompts=N_PEERS)
    compare_counting(blocks, total, sizes, to_prompts, to_all)
    built, forward_all = build_seconds(), forward_seconds(index, model)
    alone, peak = watch(f'N = {N_PROMPTS}{WHOLE}')
    _, peak_of_few = watch(f'N = {N_PEERS}{WHOLE}')
    ours, theirs = built + alone, forward_all + total.article
    compare('from nothing to counts', "the article's way", ours, theirs, **sizes, scaled_by=round(to_all),
            anonymous_gigabytes=round(peak/1e9, 2))
    title = f'Counts for {N_PROMPTS:,} prompts × {len(index):,} strings × 6 blocks'
    report('threshold_attention', title, HEAD, table(blocks, total),
           f'Thresholds {", ".join(map(str, thresholds))}. Ours is measured on the whole; '
           f"the product and FAISS on {N_PEERS:,} prompts, scaled by {to_prompts:.2f}; the article's way on "
           f'these and {N_ARTICLE:,} strings, scaled by {to_all:,.0f}.',
           f'From nothing, index and process start included: ours {ours:.0f} seconds '
           f"({built:.0f} and {alone:.0f}), the article's way {theirs/3600:.1f} hours: "
           f'{theirs/ours:.0f} times as long.',
           f'Anonymous memory of the whole sweep in a process of its own: {peak/1e9:.2f} GB at most; '
           f'for {N_PEERS:,} prompts {peak_of_few/1e9:.2f} GB.')

if __name__ == '__main__': main()
