"""How long does everything take on an accelerator: keys of the whole corpus, counts for all prompts, the evaluation?

Beside it the bare bfloat16 matrix product of the same shape. Where there is no GPU, the table says so."""
import subprocess, sys, time
import numpy as np
import torch
from shakespeare_ffn.corpus_keys import TrieForward, alphabetical_ids, by_endings
from shakespeare_ffn.cosine_sims import Values, count_fused
from shakespeare_ffn.core import fast_arithmetic, scale
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.similar_space import tuned_approximation, unigram_distribution
from shakespeare_ffn.text_analysis import hellinger, next_counts
from common import compare, report

N_PROMPTS, TILE = 20_000 if scale() == 'full' else 200, 65_536
IMPORTS = 'import shakespeare_ffn.similar_space, triton'

def seconds(f) -> tuple: # seconds, what f returns
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait(); start = time.perf_counter()
    result = f(); wait()
    return time.perf_counter() - start, result

def all_keys(forward, tokens, place, device):
    "Keys of all strings in the accelerator's memory, sorted by endings."
    keys = torch.empty(6, len(tokens), 384, dtype=torch.bfloat16, device=device)
    for start in range(0, len(tokens), forward.chunk): keys[:, place[start:start+forward.chunk]] = forward(tokens[start:start+forward.chunk]).bfloat16()
    return keys

def bare(queries, keys):
    "The products alone, into memory that is there already."
    out = torch.empty(queries.shape[1], TILE, dtype=torch.bfloat16, device=keys.device)
    for q, k in zip(queries, keys):
        for some in k.split(TILE): torch.mm(q, some.T, out=out[:, :len(some)])

def measure(device):
    corpus, model = load_corpus(), load_model(device=device)
    strings, tuned = corpus.substrings(10), tuned_approximation(model)
    ids = alphabetical_ids(strings, scale())
    tokens = strings.tokens(ids)
    order = by_endings(tokens)
    place, row_of = torch.from_numpy(order.argsort()), np.full(len(strings), -1)
    row_of[ids[order]] = np.arange(len(ids))
    prompts, forward = prompt_ids(strings, N_PROMPTS), TrieForward(model, fast_arithmetic(device))
    values, windows = Values(next_counts(strings, len(corpus.tokenizer))[ids[order]]), strings.tokens(prompts)
    def sweep(queries, keys): return torch.stack([count_fused(q, k, values, t, device) for q, k, t in zip(queries, keys, tuned.thresholds)])
    def evaluate(counts): return hellinger(tuned(counts[..., :-1], unigram_distribution(corpus))[0], next_char_probs(model, windows).cpu()).mean()
    start, _ = seconds(lambda: subprocess.run([sys.executable, '-c', IMPORTS], check=True))
    def everything(tokens, place, rows):
        made, keys = seconds(lambda: all_keys(forward, tokens, place, device))
        queries = keys[:, rows].contiguous()
        swept, counts = seconds(lambda: sweep(queries, keys))
        judged, distance = seconds(lambda: evaluate(counts))
        return made, swept, judged, distance, queries, keys
    warm_up, _ = seconds(lambda: everything(tokens, place, torch.from_numpy(row_of[prompts]))) # compiles
    made, swept, judged, distance, queries, keys = everything(tokens, place, torch.from_numpy(row_of[prompts]))
    bare(queries, keys)
    product, _ = seconds(lambda: bare(queries, keys))
    return [('process start and imports', start), ('warm-up, compilation included', warm_up), ('keys of all strings', made), ('counts', swept),
            ('evaluation', judged), ('keys, counts and evaluation', made+swept+judged), ('bare bfloat16 product', product)], distance.item(), len(ids)

if __name__ == '__main__':
    if torch.cuda.is_available():
        rows, distance, n_keys = measure('cuda')
        times = dict(rows)
        kind = torch.cuda.get_device_name()
        compare('threshold attention on a GPU', 'bare matrix product', times['counts'], times['bare bfloat16 product'], prompts=N_PROMPTS, keys=n_keys,
                dimensions=384, blocks=6, arithmetic='bfloat16', kind=kind)
        notes = [f'Counts are made at {times["bare bfloat16 product"]/times["counts"]:.0%} of the rate of the bare product. Mean Hellinger distance {distance:.4f}.']
    else: rows, kind, notes = [], None, ['Not measured: this machine has no GPU. On one that has, `python benchmarks/gpu.py` fills the table.']
    report('gpu', 'Everything on an accelerator', ['what', 'seconds'], [(name, f'{t:.2f}') for name, t in rows], *notes, kind=kind)
