"""How long do the keys of the whole corpus take, along the prefix tree and string by string?

The candidates take the same chunks from all over the sorted list, in turn; seconds are scaled up to the
whole list. What a way does in matrix products is set against the rate of a bare one in the same arithmetic,
that of the feed-forward layer. Arithmetic that is slow here is left out. The last line is a real build of
an index of length 10, from nothing (4 GB): in the user's cache folder, if it has none, else in a folder
that is removed."""
import tempfile
from pathlib import Path
from typing import NamedTuple
import torch
from shakespeare_ffn.corpus_keys import TrieForward, plain_keys
from shakespeare_ffn.core import cache_dir
from shakespeare_ffn.data import corpus_bytes, load_corpus
from shakespeare_ffn.model import load_model
from common import FAST, RESULTS, compare, in_turn, operations, processor, product_rate, read, report, watch

WHOLE, PEER = 'a whole index from nothing', 'plain forward, float32'
ARITHMETICS = ['float32', 'bfloat16'] if FAST == 'bfloat16' else ['float32']
N_CHUNKS, REPEATS = (8, 3) if FAST == 'bfloat16' else (4, 2)
CHUNK = 1024 # strings
HEAD = ['way', 'minutes for all strings', 'times as fast', 'of the bare product\'s rate']
BUILD = '''
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
corpus_index(load_corpus(), load_model())
'''

def plain_forward(dtype):
    "The model as it is, a batch of strings at a time."
    model = load_model().to(dtype)
    return lambda tokens: plain_keys(model, tokens)

def build() -> tuple: # seconds, bytes
    "Build an index of length 10 from nothing in another process, watching its memory."
    # into the user's cache, where the other benchmarks then find it
    if not list((cache_dir()/'keys').glob('full-length10-*')): return watch(BUILD)
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        Path(folder, 'tinyshakespeare.txt').write_bytes(corpus_bytes())
        return watch(BUILD, SHAKESPEARE_FFN_CACHE=folder)

def build_seconds() -> float:
    "How long a build took when it was last measured on this kind of machine; built now, if it never was."
    for row in read(RESULTS/'benchmarks.json', []):
        if row['name'] == WHOLE and row['kind'] == processor(): return row['ours_seconds']
    return build()[0]

class Pace(NamedTuple):
    "How a way goes along."
    seconds: float # for all strings
    share: float   # of the rate of a bare product

def keys_of_all(strings, model) -> tuple: # way → Pace, strings that were computed
    "Time each way on chunks from all over the list, and scale up."
    starts = range(0, len(strings)-CHUNK, len(strings)//N_CHUNKS)
    chunks = [strings.tokens(strings.order[s:s+CHUNK]) for s in starts]
    def over_chunks(forward): return lambda: [forward(chunk) for chunk in chunks]
    ways = {f'plain forward, {a}': over_chunks(plain_forward(getattr(torch, a))) for a in ARITHMETICS}
    ways |= {f'prefix tree, {a}': over_chunks(TrieForward(model, a)) for a in ARITHMETICS}
    bare = {a: product_rate(getattr(torch, a)) for a in ARITHMETICS}
    n_computed = sum(map(len, chunks))
    def pace(way, t):
        rate = operations(ways[way])/t
        return Pace(t*len(strings)/n_computed, rate/bare[way.split()[-1]])
    return {way: pace(way, t) for way, t in in_turn(REPEATS, **ways).items()}, n_computed

def main():
    strings, model = load_corpus().substrings(10), load_model()
    sizes = dict(strings=len(strings), length=10, arithmetic=FAST)
    paces, n_computed = keys_of_all(strings, model)
    peer = paces[PEER].seconds
    compare('keys of the whole corpus', PEER, paces[f'prefix tree, {FAST}'].seconds, peer, **sizes)
    notes = [f'Computed for {n_computed:,} of {len(strings):,} strings of length 10 and scaled up.']
    if FAST == 'float32': notes.append('In bfloat16 this machine would take many times as long: left out.')
    whole, peak = build()
    compare(WHOLE, PEER, whole, peer, **sizes)
    tree = paces[f'prefix tree, {FAST}']
    notes.append(f'A whole build from nothing, in {FAST}, imports, checksum and file included: '
                 f'{whole/60:.1f} minutes, {tree.share*tree.seconds/whole:.0%} of the bare product\'s rate, '
                 f'{peak/1e9:.2f} GB of anonymous memory at most.')
    rows = [(way, f'{t/60:.1f}', f'{peer/t:.1f}', f'{share:.0%}') for way, (t, share) in paces.items()]
    report('index', 'Keys of the whole corpus', HEAD, rows, *notes)

if __name__ == '__main__': main()
