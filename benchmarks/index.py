"""How long do the keys of the whole corpus take, along the prefix tree and string by string?

The candidates take the same chunks from all over the sorted list, in turn; seconds are scaled up to the whole list. Arithmetic that
is slow here is left out. The last line is a real build of an index of length 10, from nothing (4 GB): in the user's cache folder, if it
has none, else in a folder that is removed."""
import tempfile
from pathlib import Path
import torch
from shakespeare_ffn.corpus_keys import TrieForward
from shakespeare_ffn.core import cache_dir
from shakespeare_ffn.data import corpus_bytes, load_corpus
from shakespeare_ffn.hooks import capture
from shakespeare_ffn.model import load_model
from common import FAST, RESULTS, compare, in_turn, processor, read, report, watch

def plain(model, dtype):
    "The model as it is, a batch of strings at a time."
    model = load_model().to(dtype)
    names = [f'blocks.{b}.ffwd' for b in range(6)]
    @torch.no_grad()
    def forward(tokens): return torch.stack([x[:, -1] for x in capture(model, torch.as_tensor(tokens).long(), *names).values()])
    return forward

BUILD = ('from shakespeare_ffn.data import load_corpus; from shakespeare_ffn.model import load_model; '
         'from shakespeare_ffn.corpus_keys import corpus_index; corpus_index(load_corpus(), load_model())')

def build() -> tuple: # seconds, bytes
    "Build an index of length 10 from nothing in another process, watching its memory."
    if not list((cache_dir()/'keys').glob('full-length10-*')): return watch(BUILD) # which the other benchmarks then find
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        Path(folder, 'tinyshakespeare.txt').write_bytes(corpus_bytes())
        return watch(BUILD, SHAKESPEARE_FFN_CACHE=folder)

def build_seconds() -> float:
    "How long a build took when it was last measured on this kind of machine; built now, if it never was."
    kept = [r for r in read(RESULTS/'benchmarks.json', []) if r['name'] == WHOLE and r['kind'] == processor()]
    return kept[0]['ours_seconds'] if kept else build()[0]

WHOLE = 'a whole index from nothing'

if __name__ == '__main__':
    strings, model = load_corpus().substrings(10), load_model()
    starts = range(0, len(strings)-1024, len(strings)//(8 if FAST == 'bfloat16' else 4))
    chunks = [strings.tokens(strings.order[s:s+1024]) for s in starts]
    def over(forward): return lambda: [forward(c) for c in chunks]
    arithmetics = ['float32', 'bfloat16'][:1 + (FAST == 'bfloat16')]
    ways = [(f'plain forward, {a}', plain(model, getattr(torch, a))) for a in arithmetics] + [(f'prefix tree, {a}', TrieForward(model, a)) for a in arithmetics]
    times = in_turn(3 if FAST == 'bfloat16' else 2, **{name: over(forward) for name, forward in ways})
    whole, first = len(strings)/sum(map(len, chunks)), times['plain forward, float32']
    rows = [(name, f'{t*whole/60:.1f}', f'{first/t:.1f}') for name, t in times.items()]
    compare('keys of the whole corpus', 'plain forward, float32', times[f'prefix tree, {FAST}']*whole, first*whole, strings=len(strings), length=10, arithmetic=FAST)
    notes = [f'Computed for {sum(map(len, chunks)):,} of {len(strings):,} strings of length 10 and scaled up.']
    if FAST == 'float32': notes += ['In bfloat16 this machine would take many times as long: left out.']
    seconds, peak = build()
    compare(WHOLE, 'plain forward, float32', seconds, first*whole, strings=len(strings), length=10, arithmetic=FAST)
    notes += [f'A whole build from nothing, in {FAST}, imports, checksum and file included: {seconds/60:.1f} minutes, {peak/1e9:.2f} GB of anonymous memory at most.']
    report('index', 'Keys of the whole corpus', ['way', 'minutes for all strings', 'times as fast'], rows, *notes)
