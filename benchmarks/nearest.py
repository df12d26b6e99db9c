"""The thousand nearest strings of a prompt, beside counting at the block's threshold: how many times as long?

The peer is the same engine, and both are exact; the nearest strings' thresholds lie lower, one for each
prompt, and are not known before."""
from shakespeare_ffn.core import by_scale, float64
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import Values, block_counts
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model
from shakespeare_ffn.nearest_strings import nearest_keys
from shakespeare_ffn.similar_space import tuned_approximation
from shakespeare_ffn.text_analysis import next_counts
from common import in_turn, report

N_PROMPTS, K = by_scale(4000, 100), 1000

def main():
    corpus, model = load_corpus(), load_model()
    index, thresholds = corpus_index(corpus, model), tuned_approximation(model).thresholds
    values = Values(next_counts(index.strings, len(corpus.tokenizer))[index.ids])
    queries = index.queries(index.strings.tokens(prompt_ids(index.strings, N_PROMPTS)))
    rows, totals = [], [0., 0.]
    for b, (q, keys, threshold) in enumerate(zip(queries, index.keys, thresholds)):
        one = float64([threshold])
        n_passed = block_counts(q, keys, values, one).n_matches.double().mean().item()
        seconds = [*in_turn(1, counts=lambda: block_counts(q, keys, values, one),
                            nearest=lambda: nearest_keys(q, keys, K)).values()]
        totals = [t + s for t, s in zip(totals, seconds)]
        rows.append((b, threshold, f'{n_passed:,.0f}', *(f'{s:.1f}' for s in seconds),
                     f'{seconds[1]/seconds[0]:.2f}'))
    rows.append(('all', '', '', *(f'{t:.1f}' for t in totals), f'{totals[1]/totals[0]:.2f}'))
    heads = ['block', 'threshold', 'strings above it', 'counts, seconds', f'{K:,} nearest, seconds', 'times']
    report('nearest', f'The {K:,} nearest strings of {N_PROMPTS:,} prompts', heads, rows)

if __name__ == '__main__': main()
