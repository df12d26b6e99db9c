"""How long does the command take to answer, process start included, with the index in the page cache?

Beside it: importing torch, which no answer can do without, and the straightforward passes over all keys
in one piece."""
import subprocess, sys
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import similar
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import tuned_approximation
from common import FAST, compare, in_turn, report

PROMPT = 'And only l'
REPEATS = 5 if FAST == 'bfloat16' else 2
OURS, PEER = 'six passes over the keys, ours', 'six passes, torch.cosine_similarity on whole blocks'

def process(*command): return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

def straightforward(query, keys, threshold):
    return (F.cosine_similarity(query[None].float(), keys.float()) > threshold).nonzero()

def main():
    model = load_model()
    index = corpus_index(load_corpus(), model)
    query = index.queries([PROMPT])[:, 0]
    blocks = [*zip(query, index.keys, tuned_approximation(model).thresholds)]
    command = 'from shakespeare_ffn.explain import main; main()'
    times = in_turn(REPEATS, **{
        'ffn_explain, whole command': process(sys.executable, '-c', command, PROMPT),
        'import torch alone': process(sys.executable, '-c', 'import torch'),
        OURS: lambda: [similar(*block) for block in blocks],
        PEER: lambda: [straightforward(*block) for block in blocks]})
    compare('six passes over the keys for one prompt', 'torch.cosine_similarity on whole blocks',
            times[OURS], times[PEER], keys=len(index))
    rows = [(name, f'{t:.2f}') for name, t in times.items()]
    report('explain', 'An answer of `ffn_explain`', ['what', 'seconds'], rows)

if __name__ == '__main__': main()
