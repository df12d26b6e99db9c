"""How long does everything take on an accelerator: keys of the whole corpus, counts for all prompts, the
evaluation?

Beside it the bare bfloat16 matrix product of the same shape. Where there is no GPU, the table says so."""
import subprocess, sys, time
from typing import NamedTuple
import numpy as np
import torch
from shakespeare_ffn.corpus_keys import TrieForward, alphabetical_ids, by_endings
from shakespeare_ffn.cosine_sims import Values, count_fused
from shakespeare_ffn.core import by_scale, fast_arithmetic, scale
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.nearest_strings import nearest_keys
from shakespeare_ffn.similar_space import tuned_approximation, unigram_distribution
from shakespeare_ffn.text_analysis import hellinger, next_counts
from common import compare, report

N_PROMPTS, TILE = by_scale(20_000, 200), 65_536
IMPORTS = 'import shakespeare_ffn.similar_space, triton'
NO_GPU = 'Not measured: this machine has no GPU. On one that has, `python benchmarks/gpu.py` fills the table.'
BARE = 'bare bfloat16 product'
NEAREST, ABOVE = 'the 1,000 nearest, one block', 'counts above a threshold, that block'

def seconds(f) -> tuple: # seconds, what f returns
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    result = f()
    wait()
    return time.perf_counter() - start, result

class Sorted(NamedTuple):
    "The strings as `TrieForward` wants them, and where their keys go."
    ids: np.ndarray     # (n,) numbers of the strings, in alphabetical order
    tokens: np.ndarray  # (n, length)
    order: np.ndarray   # (n,) which of them comes first by endings
    place: torch.Tensor # (n,) the row of each

def sort_strings(strings) -> Sorted:
    ids = alphabetical_ids(strings, scale())
    tokens = strings.tokens(ids)
    order = by_endings(tokens)
    return Sorted(ids, tokens, order, torch.from_numpy(order.argsort()))

def all_keys(forward, strings: Sorted, device):
    "Keys of all strings in the accelerator's memory, sorted by endings."
    keys = torch.empty(6, len(strings.ids), 384, dtype=torch.bfloat16, device=device)
    for start in range(0, len(strings.ids), forward.chunk):
        some = slice(start, start+forward.chunk)
        keys[:, strings.place[some]] = forward(strings.tokens[some]).bfloat16()
    return keys

def bare(queries, keys):
    "The products alone, into memory that is there already."
    out = torch.empty(queries.shape[1], TILE, dtype=torch.bfloat16, device=keys.device)
    for q, k in zip(queries, keys):
        for some in k.split(TILE): torch.mm(q, some.T, out=out[:, :len(some)])

class Everything:
    "Keys, counts and evaluation on a device."
    def __init__(self, device):
        corpus, self.model, self.device = load_corpus(), load_model(device=device), device
        strings = corpus.substrings(10)
        self.strings, self.tuned = sort_strings(strings), tuned_approximation(self.model)
        self.unigram = unigram_distribution(corpus)
        prompts = prompt_ids(strings, N_PROMPTS)
        row_of = np.full(len(strings), -1)
        row_of[self.strings.ids[self.strings.order]] = np.arange(len(self.strings.ids))
        self.prompt_rows, self.prompt_tokens = torch.from_numpy(row_of[prompts]), strings.tokens(prompts)
        counts = next_counts(strings, len(corpus.tokenizer))
        self.values = Values(counts[self.strings.ids[self.strings.order]])
        self.forward = TrieForward(self.model, fast_arithmetic(device))

    def count(self, queries, keys):
        blocks = zip(queries, keys, self.tuned.thresholds)
        return torch.stack([count_fused(q, k, self.values, t, self.device) for q, k, t in blocks])

    def evaluate(self, counts):
        model_probs = next_char_probs(self.model, self.prompt_tokens).cpu()
        return hellinger(self.tuned(counts[..., :-1], self.unigram)[0], model_probs).mean()

    def run(self) -> tuple: # seconds of each part, the mean distance, queries and keys
        made, keys = seconds(lambda: all_keys(self.forward, self.strings, self.device))
        queries = keys[:, self.prompt_rows].contiguous()
        swept, counts = seconds(lambda: self.count(queries, keys))
        judged, distance = seconds(lambda: self.evaluate(counts))
        return (made, swept, judged), distance.item(), queries, keys

def one_block(everything, queries, keys, b=4) -> tuple: # seconds: the nearest, above a threshold
    "The two rules on the same block; the nearest leave each prompt out of its own strings."
    own = everything.prompt_rows
    nearest, _ = seconds(lambda: nearest_keys(queries[b], keys[b], 1000, own))
    tuned = everything.tuned.thresholds[b]
    above, _ = seconds(lambda: count_fused(queries[b], keys[b], everything.values, tuned, keys.device))
    return nearest, above

def measure(device) -> tuple: # what → seconds, the mean distance, number of keys
    start, _ = seconds(lambda: subprocess.run([sys.executable, '-c', IMPORTS], check=True))
    everything = Everything(device)
    warm_up, _ = seconds(everything.run) # compiles
    (made, swept, judged), distance, queries, keys = everything.run()
    one_block(everything, queries, keys)
    nearest, above = one_block(everything, queries, keys)
    bare(queries, keys)
    product, _ = seconds(lambda: bare(queries, keys))
    times = {'process start and imports': start, 'warm-up, compilation included': warm_up,
             'keys of all strings': made, 'counts': swept, 'evaluation': judged,
             'keys, counts and evaluation': made+swept+judged, BARE: product, NEAREST: nearest, ABOVE: above}
    return times, distance, keys.shape[1]

def main():
    times, kind, note = {}, None, NO_GPU
    if torch.cuda.is_available():
        times, distance, n_keys = measure('cuda')
        kind = torch.cuda.get_device_name()
        compare('threshold attention on a GPU', 'bare matrix product', times['counts'], times[BARE],
                kind=kind, prompts=N_PROMPTS, keys=n_keys, dimensions=384, blocks=6, arithmetic='bfloat16')
        compare('the nearest on a GPU', 'a threshold', times[NEAREST], times[ABOVE], kind=kind,
                prompts=N_PROMPTS, keys=n_keys, k=1000)
        note = (f'Counts are made at {times[BARE]/times["counts"]:.0%} of the rate of the bare product. '
                f'Mean Hellinger distance {distance:.4f}.')
    rows = [(name, f'{t:.2f}') for name, t in times.items()]
    report('gpu', 'Everything on an accelerator', ['what', 'seconds'], rows, note, kind=kind)

if __name__ == '__main__': main()
