"""What do memory and time of an index in shards come to, as the text grows from 1 to 100 million characters?

The texts are sampled from Tiny Shakespeare by its 4-grams, so that nothing is repeated that the
sampler does not find anew. The model is a small one with random numbers. Two processes build; a build that
takes longer than MOST seconds is killed, and taken up by two others."""
import os, socket, subprocess, sys, tempfile, time
from pathlib import Path
from typing import NamedTuple
import numpy as np, torch
from shakespeare_ffn.data import load_corpus, rank_windows
from shakespeare_ffn.model import Config, Transformer, save_model
from common import anonymous_memory, report, short

ORDER, MILLIONS, WORLD = 4, (1, 100), 2
MOST = 300 # seconds
HEAD = ['million characters', 'million strings', 'seconds to sort', 'strings a second', 'taken up',
        'MB a process', 'seconds to explain']
START = '''
import sys, time, torch
torch.set_num_threads(1)
from shakespeare_ffn.core import joined
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.explain import explain
from shakespeare_ffn.model import load_model
from shakespeare_ffn.shards import build_shards
from shakespeare_ffn.nearest_strings import NearestApproximation, Vote
from shakespeare_ffn import shards
def say(*what): print(*what, flush=True)
divide = shards._divide
def divided(work, peers):
    found = divide(work, peers)
    say('sorted', time.monotonic(), work.whole['shape'][1])
    return found
shards._divide = divided
model = load_model(sys.argv[2])
corpus = load_corpus(sys.argv[1], model.tokenizer)
with joined():
    say('loaded', time.monotonic(), 0)
    build_shards(corpus, model, quiet=True)
    say('built', time.monotonic(), 0)
    explain('to the hou', corpus, model, NearestApproximation(1000, (Vote(0, True, 9.),)), quiet=True)
    say('explained', time.monotonic(), 0)
'''

def sampled(n: int, n_streams=5000) -> str: # of n characters
    "Text whose every character follows the ones before it as somewhere in Tiny Shakespeare."
    corpus, random = load_corpus(), np.random.default_rng(0)
    tokens = corpus.tokens[:-1]
    _, state = rank_windows(tokens, ORDER, len(corpus.tokenizer)) # of each place
    # positions grouped by state; the last of all has nothing behind it
    positions = np.argsort(state[:-1], kind='stable')
    size = np.bincount(state[:-1], minlength=state.max()+1)
    begin = size.cumsum() - size
    now, out = random.choice(state[:-1], n_streams), np.empty((n//n_streams, n_streams), np.uint8)
    for row in out:
        now = np.where(size[now] > 0, now, state[0])
        at = positions[begin[now] + (random.random(n_streams)*size[now]).astype(int)]
        row[:], now = tokens[at+ORDER], state[at+1]
    chars = np.frombuffer(corpus.tokenizer.chars.encode(), np.uint8)
    return chars[out.T.ravel()].tobytes().decode()

def environments(cache) -> list:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    common = dict(WORLD_SIZE=str(WORLD), MASTER_ADDR='127.0.0.1', MASTER_PORT=port, OMP_NUM_THREADS='1',
                  SHAKESPEARE_FFN_CACHE=str(cache), SHAKESPEARE_FFN_SCALE='full')
    return [os.environ | common | dict(RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(WORLD)]

class Attempt(NamedTuple):
    "What two processes did until they were through, or killed."
    events: dict # name → when, and a number
    peak: int    # bytes of the larger one
    end: float   # when they ended

    def seconds(self): # of building
        return self.events.get('built', (self.end, 0))[0] - self.events['sorted'][0]

def attempt(text: Path, weights: Path, cache: Path) -> Attempt:
    "Build and explain by two processes, or as much of it as there is time for."
    said, start, peak = [cache/f'said{rank}' for rank in range(WORLD)], time.monotonic(), 0
    processes = []
    for env, file in zip(environments(cache), said):
        with open(file, 'w', encoding='utf-8') as f:
            command = [sys.executable, '-c', START, text, weights]
            processes.append(subprocess.Popen(command, env=env, stdout=f))
    while any(p.poll() is None for p in processes):
        peak = max(peak, *(anonymous_memory(p.pid) for p in processes))
        if any(p.poll() for p in processes) or \
                'built' not in said[0].read_text(encoding='utf-8') and time.monotonic() - start > MOST:
            for p in processes: p.kill()
        time.sleep(.1)
    lines = map(str.split, said[0].read_text(encoding='utf-8').splitlines())
    return Attempt({name: (float(at), int(n)) for name, at, n in lines}, peak, time.monotonic())

def row(millions: int, attempts: list) -> list:
    last, n = attempts[-1].events, attempts[0].events['sorted'][1]
    sort_seconds = min(a.events['sorted'][0] - a.events['loaded'][0] for a in attempts)
    return [millions, short(n/1e6, 4), short(sort_seconds, 3),
            round(n/sum(a.seconds() for a in attempts)), len(attempts) - 1,
            round(max(a.peak for a in attempts)/1e6), short(last['explained'][0]-last['built'][0], 2)]

def measure(millions: int, folder: Path, weights: Path) -> list: # a row of the table
    text, cache, attempts = folder/f'{millions}.txt', folder/f'cache{millions}', []
    text.write_text(sampled(millions*10**6), encoding='utf-8', newline='')
    cache.mkdir()
    while not attempts or 'explained' not in attempts[-1].events:
        attempts.append(attempt(text, weights, cache))
        assert 'sorted' in attempts[-1].events
    return row(millions, attempts)

def main():
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        folder, corpus = Path(folder), load_corpus()
        torch.manual_seed(0)
        small = Transformer(Config(len(corpus.tokenizer), n_layer=2, n_embed=32, n_head=2))
        save_model(small, folder/'small.safetensors', dict(corpus_sha256=''), corpus.tokenizer.chars)
        keep([measure(n, folder, folder/'small.safetensors') for n in MILLIONS])

def keep(rows: list):
    slope = (rows[-1][5] - rows[0][5])/(rows[-1][0] - rows[0][0])
    report('shards', 'An index in shards', HEAD, rows,
           f'By {WORLD} processes of one thread each, for a model of 2 blocks of width 32; texts of '
           f'{ORDER}-grams sampled from Tiny Shakespeare. Seconds to sort: to find the strings of length '
           '10, and how many there are. Strings a second: keys on the disk, by both processes together. '
           f'Taken up: how often a build was killed, each time after {MOST} seconds, and went on with two '
           'other processes. Memory: what belongs to no file, at most.',
           f'From the smallest text to the largest: {slope:.1f} bytes of memory a character and process.')

if __name__ == '__main__': main()
