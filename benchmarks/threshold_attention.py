"""What does the whole question cost, 20,000 prompts × 858,923 strings × 6 blocks at the default thresholds?

Peers on the same stored rows, in turn, block by block, scaled to the whole: FAISS's exact range search, the bare matrix product of the same shape in the arithmetic
that is fast here, and the article's way (100 strings at a time, files). Where bfloat16 is fast the better of two runs each counts, elsewhere a single one.
Then the whole again in a process of its own, watching its memory."""
import tempfile, time
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
from common import FAST, compare, report, watch
from index import build_seconds, plain

N_PROMPTS, N_PEERS, N_ARTICLE = 20_000, 1024, 500 # prompts; those that peers get; strings that the article's way gets
RUNS = 2 if FAST == 'bfloat16' else 1
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
threshold_attention(index.queries([index.strings[i] for i in ids]), index.keys, values, tuned_approximation(model).thresholds)
"""

def seconds(f):
    start = time.perf_counter(); f()
    return time.perf_counter() - start

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

def article(queries, keys, values, threshold):
    "A file of similarities for each 100 strings, a file of those above a lower threshold, and the counts."
    def run():
        counts = torch.zeros(len(queries), values.shape[1], dtype=torch.long)
        with tempfile.TemporaryDirectory() as folder:
            for i, some in enumerate(keys.split(100)):
                torch.save(F.cosine_similarity(queries.float()[:, None], some.float()[None], dim=-1), f'{folder}/{i}')
            for i in range(-(-len(keys)//100)):
                similarity = torch.load(f'{folder}/{i}')
                q, k = (similarity > threshold - .1).nonzero().T
                torch.save((q, k + 100*i, similarity[q, k]), f'{folder}/{i}')
            for i in range(-(-len(keys)//100)):
                q, k, similarity = torch.load(f'{folder}/{i}')
                passed = similarity > threshold
                counts.index_add_(0, q[passed], values[k[passed]].long())
    return run

if __name__ == '__main__':
    corpus, model = load_corpus(), load_model()
    index, thresholds = corpus_index(corpus, model), tuned_approximation(model).thresholds
    strings, counts = index.strings, next_counts(index.strings, len(corpus.tokenizer))[index.ids]
    queries = index.queries([strings[i] for i in prompt_ids(strings, N_PROMPTS)])
    values, scaled = Values(counts), N_PROMPTS/N_PEERS
    middle, table = slice(len(index)//2, len(index)//2 + N_ARTICLE), []
    for b, t in enumerate(thresholds):
        q, keys = queries[b], index.keys[b]
        candidates = (lambda: block_counts(q, keys, values, float64([t])), bare(q[:N_PEERS], keys), range_search(q[:N_PEERS], keys, t),
                      article(q[:N_PEERS], keys[middle], counts[middle].to_dense(), t))
        best = [min(times) for times in zip(*([seconds(f) for f in candidates] for _ in range(RUNS)))]
        table.append([x*y for x, y in zip(best, (1, scaled, scaled, scaled*len(index)/N_ARTICLE))])
    ours, product, theirs, way = map(sum, zip(*table))
    sizes = dict(prompts=N_PROMPTS, keys=len(index), dimensions=queries.shape[2], blocks=len(table), peers_prompts=N_PEERS, scaled_by=round(scaled, 3))
    per_block = lambda i: dict(seconds_by_block=[[round(row[0], 2), round(row[i], 2)] for row in table])
    compare('threshold attention', 'bare matrix product', ours, product, **sizes, arithmetic=FAST, **per_block(1))
    compare('threshold attention', 'FAISS IndexFlatIP.range_search', ours, theirs, **sizes, **per_block(2))
    compare('threshold attention', "the article's way", ours, way, **sizes | dict(scaled_by=round(scaled*len(index)/N_ARTICLE)), **per_block(3))
    forward, some = plain(model, torch.float32), strings.tokens(strings.order[len(index)//2:][:1024])
    built = build_seconds()
    forward_all = seconds(lambda: forward(some))*len(index)/1024
    alone, peak = watch(f'N = {N_PROMPTS}{WHOLE}')
    _, peak_of_few = watch(f'N = {N_PEERS}{WHOLE}')
    compare('from nothing to counts', "the article's way", built + alone, forward_all + way, **sizes | dict(scaled_by=round(scaled*len(index)/N_ARTICLE), anonymous_gigabytes=round(peak/1e9, 2)))
    rows = [(b, *(f'{s:,.1f}' for s in row)) for b, row in enumerate(table)] + [('all', *(f'{s:,.1f}' for s in (ours, product, theirs, way))),
            ('times ours', *(f'{s/ours:,.1f}' for s in (ours, product, theirs, way)))]
    report('threshold_attention', f'Counts for {N_PROMPTS:,} prompts × {len(index):,} strings × 6 blocks', ['block', 'ours, seconds', f'bare product, {FAST}',
           'FAISS range search', "the article's way"], rows, f'Thresholds {", ".join(map(str, thresholds))}. Ours is measured on the whole; the product and FAISS on {N_PEERS:,} prompts, scaled '
           f"by {scaled:.2f}; the article's way on these and {N_ARTICLE:,} strings, scaled by {scaled*len(index)/N_ARTICLE:,.0f}.",
           f"From nothing, index and process start included: ours {built+alone:.0f} seconds ({built:.0f} and {alone:.0f}), the article's way {(forward_all+way)/3600:.1f} hours: {(forward_all+way)/(built+alone):.0f} times as long.",
           f'Anonymous memory of the whole sweep in a process of its own: {peak/1e9:.2f} GB at most; for {N_PEERS:,} prompts {peak_of_few/1e9:.2f} GB.')
