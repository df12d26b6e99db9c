"""How long does the command take to answer, process start included, with the index in the page cache?

Beside it: importing torch, which no answer can do without, and the straightforward search for the nearest
strings, over all keys in one piece: by the learned measure of six blocks, and of two blocks by the cosine.
Ours measures all keys the first time, and keeps them, rounded."""
import subprocess, sys
import torch.nn.functional as F
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.learned_measure import measured_approximation
from shakespeare_ffn.model import load_model
from shakespeare_ffn.nearest_strings import mean_key, nearest_approximation
from common import FAST, compare, in_turn, report, seconds

PROMPT = 'And only l'
REPEATS = 5 if FAST == 'bfloat16' else 2
BY_MEASURE, BY_COSINE = 'the nearest strings by the measure', 'the nearest strings of two blocks'
PEER = 'torch.cosine_similarity and topk'

def process(*command): return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

def straightforward(query, keys, k): return F.cosine_similarity(query[None].float(), keys.float()).topk(k)

def main():
    model = load_model()
    index, by_cosine = corpus_index(load_corpus(), model), nearest_approximation(model)
    by_measure = measured_approximation(model)
    query, measure = index.queries([PROMPT])[:, 0], by_measure.measure
    def two_blocks():
        for v in by_cosine.votes:
            mean = mean_key(index.keys[v.block]) if v.centred else 0.
            straightforward(query[v.block].float() - mean, index.keys[v.block].float() - mean, by_cosine.k)
    def measured_straightforwardly():
        return straightforward(measure(query[:, None])[0], measure(index.keys), by_measure.rule.k)
    def first_time():
        vars(index).pop('measured', None)
        for file in index.path.glob('measured*'): file.unlink()
        by_measure.evidence_in(index, query)
    answer = 'from shakespeare_ffn.explain import main; main()'
    ways = {
        'ffn_explain, whole command': process(sys.executable, '-c', answer, PROMPT),
        'ffn_explain --cosine, whole command': process(sys.executable, '-c', answer, PROMPT, '--cosine'),
        'import torch alone': process(sys.executable, '-c', 'import torch'),
        f'{BY_MEASURE}, ours': lambda: by_measure.evidence_in(index, query),
        f'{BY_COSINE}, ours': lambda: by_cosine.evidence(query, index.keys),
        f'{BY_COSINE}, {PEER}': two_blocks}
    # what measures all keys takes long enough to be told by one time
    times = {f'{BY_MEASURE}, ours, the first time': seconds(first_time),
             f'{BY_MEASURE}, {PEER}': seconds(measured_straightforwardly)} | in_turn(REPEATS, **ways)
    for what in BY_MEASURE, BY_COSINE:
        ours, theirs = times[f'{what}, ours'], times[f'{what}, {PEER}']
        compare(f'{what} for one prompt', PEER, ours, theirs, keys=len(index))
    rows = [(name, f'{t:.2f}') for name, t in times.items()]
    report('explain', 'An answer of `ffn_explain`', ['what', 'seconds'], rows)

if __name__ == '__main__': main()
