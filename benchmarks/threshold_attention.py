"""What do counts for 2,000 prompts × 6 blocks × 8 thresholds cost, and what would a full float32 matrix product?

The candidates see the same keys, a slice of the index, in turn; then ours goes over the whole index."""
import time
import torch
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import threshold_attention
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import tuned_approximation
from shakespeare_ffn.text_analysis import next_counts
from common import in_turn, report

N_PROMPTS, N_SLICE, TILE = 2000, 32_768, 4096

def full_product(queries, keys, values, thresholds):
    "All similarities in float32, a tile of keys at a time; counts by a second product a threshold."
    queries, values = F.normalize(queries.float(), dim=-1), values.float()
    counts = torch.zeros(len(keys), thresholds.shape[1], queries.shape[1], values.shape[1])
    for b in range(len(keys)):
        for start in range(0, len(values), TILE):
            similarity = queries[b] @ F.normalize(keys[b, start:start+TILE].float(), dim=1).T
            for i, t in enumerate(thresholds[b]): counts[b, i] += (similarity > t).float() @ values[start:start+TILE]
    return counts

if __name__ == '__main__':
    corpus, model = load_corpus(), load_model()
    index = corpus_index(corpus, model)
    strings, values = index.strings, next_counts(index.strings, len(corpus.tokenizer))[index.ids]
    queries = index.queries([strings[i] for i in prompt_ids(strings, N_PROMPTS)])
    tuned = torch.tensor(tuned_approximation(model).thresholds, dtype=torch.float64)
    thresholds = (tuned[:, None] + .02*torch.arange(-4, 4)).clamp(max=.99)
    few = slice(len(index)//2, len(index)//2 + N_SLICE)
    part = queries, index.keys[:, few], values[few], thresholds
    times = in_turn(3, **{'full product, float32': lambda: full_product(*part),
                          'ours, float32 first pass': lambda: threshold_attention(*part, first_pass=torch.float32),
                          'ours, bfloat16 first pass': lambda: threshold_attention(*part, first_pass=torch.bfloat16)})
    ours, theirs = threshold_attention(*part)[0], full_product(*part)
    start = time.perf_counter(); threshold_attention(queries, index.keys, values, thresholds, progress=True)
    whole = time.perf_counter() - start
    first = times['full product, float32']
    rows = [(name, f'{t:.1f}', f'{first/t:.1f}') for name, t in times.items()]
    report('threshold_attention', f'Counts for {N_PROMPTS:,} prompts × 6 blocks × 8 thresholds', ['way', f'seconds for {N_SLICE:,} keys', 'times as fast'], rows,
           f'Counts of the two that differ, for rounding at a threshold in the float32 product: {(ours != theirs).sum():,} of {ours.numel():,}.',
           f'Ours over all {len(index):,} keys: {whole:.0f} seconds.')
