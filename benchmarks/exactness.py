"""Does any pair come out wrong? Billions of pairs of stored rows, against float64, at the default thresholds
and on similarities that occur.

All prompts meet runs of neighbouring strings from all over the index. The reference is the product of
float64 rows; where it is within 1e-12 of the threshold, the definition itself."""
from typing import NamedTuple
import torch
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import Values, batches, cosine, count_one, matches
from shakespeare_ffn.core import float64
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import tuned_approximation
from shakespeare_ffn.text_analysis import next_counts
from common import FAST, report

# prompts, runs of strings a block, strings in a run
N_PROMPTS, RUNS, RUN = 20_000, 5 if FAST == 'bfloat16' else 2, 2048
HEAD = ['block', 'default threshold', 'pairs decided', 'of them pass', 'wrong pairs',
        'prompts with a wrong count']
NOTE = (f'{N_PROMPTS:,} prompts × {RUNS} runs of {RUN:,} neighbouring strings a block, at the default '
        'threshold and at the three similarities nearest to it that occur, each of which must not pass.')

class Tally(NamedTuple):
    "What was decided."
    pairs: int = 0
    passing: int = 0
    wrong_pairs: int = 0   # that `matches` has and should not, or has not and should
    wrong_prompts: int = 0 # whose counts by `count_one` are wrong

    def plus(self, other): return Tally(*map(sum, zip(self, other)))

def truth(similarity, queries, keys, threshold):
    "Which pairs pass."
    passes = similarity > threshold
    q, k = ((similarity-threshold).abs() < 1e-12).nonzero().T
    passes[q, k] = cosine(queries[q], keys[k]) > threshold
    return passes

def judge(similarity, queries, keys, values, threshold) -> Tally:
    "Compare pairs and counts with the true ones."
    expected = truth(similarity, queries, keys, threshold)
    found, one = torch.zeros(similarity.shape, dtype=torch.bool), float64([threshold])
    for q, k, _ in matches(batches(queries, keys, threshold), queries, keys, one): found[q, k] = True
    counts = count_one(batches(queries, keys, threshold), queries, keys, values, threshold)[0]
    true_counts = (expected.double() @ values.counts.to_dense().double()).long()
    return Tally(similarity.numel(), expected.sum().item(), (found ^ expected).sum().item(),
                 (counts != true_counts).any(1).sum().item())

def judge_run(queries, keys, values, threshold) -> Tally:
    "All prompts and a run of strings, at the default threshold and at the similarities nearest to it."
    similarity = F.normalize(queries.double(), dim=1) @ F.normalize(keys.double(), dim=1).T
    near = (similarity-threshold).abs().flatten().topk(3, largest=False).indices
    exactly = cosine(queries[near//RUN], keys[near%RUN]).tolist()
    total = Tally()
    for t in threshold, *exactly: total = total.plus(judge(similarity, queries, keys, values, t))
    return total

def main():
    corpus, model = load_corpus(), load_model()
    index, generator = corpus_index(corpus, model), torch.Generator().manual_seed(0)
    counts = next_counts(index.strings, len(corpus.tokenizer))[index.ids]
    queries = index.queries([index.strings[i] for i in prompt_ids(index.strings, N_PROMPTS)])
    rows = []
    for b, threshold in enumerate(tuned_approximation(model).thresholds):
        total = Tally()
        for start in torch.randint(len(index)-RUN, (RUNS,), generator=generator).tolist():
            keys, values = index.keys[b, start:start+RUN].clone(), Values(counts[start:start+RUN])
            total = total.plus(judge_run(queries[b], keys, values, threshold))
        rows.append([b, threshold, f'{total.pairs:,}', f'{total.passing:,}', total.wrong_pairs,
                     total.wrong_prompts])
    report('exactness', 'Pairs against float64', HEAD, rows, NOTE)

if __name__ == '__main__': main()
