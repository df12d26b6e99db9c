"""Does any pair come out wrong? Billions of pairs of stored rows, against float64, at the default thresholds and on similarities that occur.

All prompts meet runs of neighbouring strings from all over the index. The reference is the product of float64 rows; where it is within 1e-12 of the
threshold, the definition itself."""
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

N_PROMPTS, RUNS, RUN = 20_000, 5 if FAST == 'bfloat16' else 2, 2048 # prompts, runs of strings, strings in a run

def truth(similarity, queries, keys, threshold):
    "Which pairs pass."
    passes = similarity > threshold
    q, k = ((similarity-threshold).abs() < 1e-12).nonzero().T
    passes[q, k] = cosine(queries[q], keys[k]) > threshold
    return passes

def wrong(similarity, queries, keys, values, threshold):
    "Pairs that `matches` has and should not, or has not and should; and prompts whose counts by `count_one` are wrong."
    expected, found = truth(similarity, queries, keys, threshold), torch.zeros(similarity.shape, dtype=torch.bool)
    one = float64([threshold])
    for q, k, _ in matches(batches(queries, keys, threshold), queries, keys, one): found[q, k] = True
    counts = count_one(batches(queries, keys, threshold), queries, keys, values, threshold)[0]
    return (found ^ expected).sum().item(), (counts != (expected.double() @ values.counts.to_dense().double()).long()).any(1).sum().item(), expected.sum().item()

if __name__ == '__main__':
    corpus, model = load_corpus(), load_model()
    index, generator, table = corpus_index(corpus, model), torch.Generator().manual_seed(0), []
    counts = next_counts(index.strings, len(corpus.tokenizer))[index.ids]
    queries = index.queries([index.strings[i] for i in prompt_ids(index.strings, N_PROMPTS)])
    for b, t in enumerate(tuned_approximation(model).thresholds):
        total, exact = [0, 0, 0, 0], 0
        for start in torch.randint(len(index)-RUN, (RUNS,), generator=generator).tolist():
            q, keys, values = queries[b], index.keys[b, start:start+RUN].clone(), Values(counts[start:start+RUN])
            similarity = F.normalize(q.double(), dim=1) @ F.normalize(keys.double(), dim=1).T
            near = (similarity-t).abs().flatten().topk(3, largest=False).indices
            on_it = cosine(q[near//RUN], keys[near%RUN]).tolist() # the similarities nearest to the default threshold, exactly
            for threshold in t, *on_it:
                total = [x+y for x, y in zip(total, (similarity.numel(), *wrong(similarity, q, keys, values, threshold)))]
        table.append((b, t, f'{total[0]:,}', f'{total[3]:,}', total[1], total[2]))
    report('exactness', 'Pairs against float64', ['block', 'default threshold', 'pairs decided', 'of them pass', 'wrong pairs', 'prompts with a wrong count'], table,
           f'{N_PROMPTS:,} prompts × {RUNS} runs of {RUN:,} neighbouring strings a block, at the default threshold and at the three similarities nearest to it that occur, each of which must not pass.')
