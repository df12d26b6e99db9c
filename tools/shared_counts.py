"""Counts of the article's prompts at the default thresholds by several processes, on one machine or many:

    torchrun --nproc-per-node 2 tools/shared_counts.py"""
import os, time
import torch.distributed as dist
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import shared_threshold_attention
from shakespeare_ffn.core import Parser, UserError, command, scale
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.similar_space import tuned_approximation, unigram_distribution
from shakespeare_ffn.text_analysis import hellinger, next_counts

def shared_counts(argv) -> str:
    p = Parser('shared_counts', description=__doc__, allow_abbrev=False)
    p.add_argument('--prompts', type=int, default={'full': 20_000, 'smoke': 200}[scale()], help="how many of the article's (default: all)")
    args = p.parse_args(argv)
    if 'WORLD_SIZE' not in os.environ: raise UserError('start it with torchrun: torchrun --nproc-per-node 2 tools/shared_counts.py')
    try: dist.init_process_group('gloo')
    except (ValueError, RuntimeError) as e: raise UserError(f'the processes do not find each other ({str(e).splitlines()[0]}); start them with torchrun') from e
    corpus, model = load_corpus(), load_model()
    index = corpus_index(corpus, model, quiet=dist.get_rank() > 0) # the first to come builds it if need be, the others wait
    ids, tuned = prompt_ids(index.strings, args.prompts), tuned_approximation(model)
    queries, values = index.queries([index.strings[i] for i in ids]), next_counts(index.strings, len(corpus.tokenizer))[index.ids]
    start = time.perf_counter()
    counts, _ = shared_threshold_attention(queries, index.keys, values, tuned.thresholds)
    took, world, rank = time.perf_counter() - start, dist.get_world_size(), dist.get_rank()
    dist.destroy_process_group()
    if rank: return ''
    distance = hellinger(tuned(counts, unigram_distribution(corpus))[0], next_char_probs(model, index.strings.tokens(ids))).mean()
    return f'{len(ids):,} prompts × {len(index):,} strings × {len(counts)} blocks by {world} processes: {took:.1f} seconds; mean Hellinger distance {distance:.6f}'

if __name__ == '__main__': command('shared_counts', shared_counts)
