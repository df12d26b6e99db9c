"""How long does the command take to answer, process start included, with the index in the page cache?

Beside it: importing torch, which no answer can do without, and the straightforward passes over all keys in one piece."""
import subprocess, sys
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import similar
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import tuned_approximation
from common import FAST, compare, in_turn, report

PROMPT = 'And only l'

def process(*command): return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

if __name__ == '__main__':
    model = load_model()
    index, thresholds = corpus_index(load_corpus(), model), tuned_approximation(model).thresholds
    query = index.queries([PROMPT])[:, 0]
    straight = lambda: [(F.cosine_similarity(q[None].float(), k.float()) > t).nonzero() for q, k, t in zip(query, index.keys, thresholds)]
    ours = lambda: [similar(q, k, t) for q, k, t in zip(query, index.keys, thresholds)]
    times = in_turn(5 if FAST == 'bfloat16' else 2, **{'ffn_explain, whole command': process(sys.executable, '-c', 'from shakespeare_ffn.explain import main; main()', PROMPT),
                          'import torch alone': process(sys.executable, '-c', 'import torch'),
                          'six passes over the keys, ours': ours,
                          'six passes, torch.cosine_similarity on whole blocks': straight})
    compare('six passes over the keys for one prompt', 'torch.cosine_similarity on whole blocks', *list(times.values())[2:], keys=len(index))
    report('explain', 'An answer of `ffn_explain`', ['what', 'seconds'], [(name, f'{t:.2f}') for name, t in times.items()])
