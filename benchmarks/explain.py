"""How long does the command take to answer, process start included, with the index in the page cache?

Beside it: importing torch, which no answer can do without, and the straightforward search for the nearest
strings, over all keys of a block in one piece."""
import subprocess, sys
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.nearest_strings import mean_key, nearest_approximation
from common import FAST, compare, in_turn, report

PROMPT = 'And only l'
REPEATS = 5 if FAST == 'bfloat16' else 2
OURS, PEER = 'the nearest strings of two blocks, ours', '… by torch.cosine_similarity and topk'

def process(*command): return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

def straightforward(query, keys, centred, k):
    mean = mean_key(keys) if centred else 0.
    return F.cosine_similarity(query[None].float() - mean, keys.float() - mean).topk(k)

def main():
    model = load_model()
    index, rule = corpus_index(load_corpus(), model), nearest_approximation(model)
    query, k = index.queries([PROMPT])[:, 0], min(rule.k, len(index))
    blocks = [(query[v.block], index.keys[v.block], v.centred, k) for v in rule.votes]
    command = 'from shakespeare_ffn.explain import main; main()'
    times = in_turn(REPEATS, **{
        'ffn_explain, whole command': process(sys.executable, '-c', command, PROMPT),
        'import torch alone': process(sys.executable, '-c', 'import torch'),
        OURS: lambda: rule.evidence(query, index.keys),
        PEER: lambda: [straightforward(*block) for block in blocks]})
    compare('the nearest strings of two blocks for one prompt', 'torch.cosine_similarity and topk',
            times[OURS], times[PEER], keys=len(index))
    rows = [(name, f'{t:.2f}') for name, t in times.items()]
    report('explain', 'An answer of `ffn_explain`', ['what', 'seconds'], rows)

if __name__ == '__main__': main()
