"""How long do the keys of the whole corpus take, along the prefix tree and string by string?

The candidates take the same chunks from all over the sorted list, in turn; seconds are scaled up to the whole list.
The last line is a real build of an index of length 10, from nothing, in a folder of its own (4 GB)."""
import tempfile
from pathlib import Path
import torch
from shakespeare_ffn.corpus_keys import TrieForward
from shakespeare_ffn.data import corpus_bytes, load_corpus
from shakespeare_ffn.hooks import capture
from shakespeare_ffn.model import load_model
from common import compare, in_turn, report, watch

def plain(model, dtype):
    "The model as it is, a batch of strings at a time."
    model = load_model().to(dtype)
    names = [f'blocks.{b}.ffwd' for b in range(6)]
    @torch.no_grad()
    def forward(tokens): return torch.stack([x[:, -1] for x in capture(model, torch.as_tensor(tokens).long(), *names).values()])
    return forward

def build() -> tuple: # seconds, bytes
    "Build an index of length 10 from nothing in another process, watching its memory."
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        Path(folder, 'tinyshakespeare.txt').write_bytes(corpus_bytes())
        code = ('from shakespeare_ffn.data import load_corpus; from shakespeare_ffn.model import load_model; '
                'from shakespeare_ffn.corpus_keys import corpus_index; corpus_index(load_corpus(), load_model())')
        return watch(code, SHAKESPEARE_FFN_CACHE=folder)

if __name__ == '__main__':
    strings, model = load_corpus().substrings(10), load_model()
    starts = range(0, len(strings)-1024, len(strings)//8)
    chunks = [strings.tokens(strings.order[s:s+1024]) for s in starts]
    def over(forward): return lambda: [forward(c) for c in chunks]
    times = in_turn(3, **{'plain forward, float32': over(plain(model, torch.float32)), 'plain forward, bfloat16': over(plain(model, torch.bfloat16)),
                          'prefix tree, float32': over(TrieForward(model)), 'prefix tree, bfloat16': over(TrieForward(model, 'bfloat16'))})
    whole, first = len(strings)/sum(map(len, chunks)), times['plain forward, float32']
    rows = [(name, f'{t*whole/60:.1f}', f'{first/t:.1f}') for name, t in times.items()]
    compare('keys of the whole corpus', 'plain forward, float32', times['prefix tree, bfloat16']*whole, first*whole, strings=len(strings), length=10)
    notes = [f'Computed for {sum(map(len, chunks)):,} of {len(strings):,} strings of length 10 and scaled up.']
    seconds, peak = build()
    notes += [f'A whole build from nothing, imports, checksum and file included: {seconds/60:.1f} minutes, {peak/1e9:.2f} GB of anonymous memory at most.']
    report('index', 'Keys of the whole corpus', ['way', 'minutes for all strings', 'times as fast'], rows, *notes)
