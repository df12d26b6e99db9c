"""From nothing to an answer by a model over 50,257 tokens: how long does it take, in how much memory? And
what does tuning take, of a model that has learned something?

Those that answer have random numbers: what is measured does not depend on them. Tuning does, so a model is
trained for some minutes first. Each answer is a process of its own, with an empty cache the first time;
so is tuning."""
import json, os, sys, tempfile, time
from pathlib import Path
from subprocess import PIPE, run
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from shakespeare_ffn.core import UserError
from shakespeare_ffn.data import Corpus, load_corpus
from shakespeare_ffn.explain import explain
from shakespeare_ffn.model import Config, Transformer
from shakespeare_ffn.nearest_strings import NearestApproximation, Vote, calibrate_nearest
from shakespeare_ffn.other_models import FileTokenizer
from shakespeare_ffn.shards import open_index
from shakespeare_ffn.similar_space import calibrate
from common import report
try: import resource
except ImportError: resource = None # Windows does not say how much memory was used

TOKENS = 50_257 # GPT-2's
MODELS = {'4 blocks of width 128': (Config(TOKENS, 128, 4, 4, 128), 10**7),
          "GPT-2 small's shape, 12 blocks of width 768": (Config(TOKENS, 1024, 12, 12, 768), 10**5)}

def write_tokenizer(path: Path):
    "A byte-level tokenizer, as GPT-2's is made, of the plays."
    try: from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as e: raise UserError("this needs pip install 'shakespeare_ffn[hf]'") from e
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.train_from_iterator([load_corpus().text], trainers.BpeTrainer(vocab_size=TOKENS, show_progress=False))
    t.save(str(path))

def opened(name: str, folder: Path) -> tuple: # a model, its corpus
    config, n_chars = MODELS[name]
    torch.manual_seed(0)
    model, text = Transformer(config).eval().requires_grad_(False), load_corpus().text[:n_chars]
    if (file := folder/'trained.safetensors').exists(): model.load_state_dict(load_file(file))
    model.tokenizer, model.metadata = FileTokenizer(folder/'tokenizer.json', TOKENS), dict(corpus_sha256='')
    return model, Corpus(text, model.tokenizer, 'f'*64)

def train(name: str, folder: Path, steps=300):
    "Teach a model the next token of windows of the text; keep its weights in the folder."
    model, corpus = opened(name, folder)
    model.train().requires_grad_(True)
    tokens, length = torch.from_numpy(corpus.tokens.astype('int64')), model.context//2
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(steps):
        windows = tokens[torch.randint(len(tokens)-length, (16, 1)) + torch.arange(length+1)]
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file({name: t.detach().contiguous() for name, t in model.state_dict().items()},
              folder/'trained.safetensors')
    print(f'{name}: a loss of {loss:.2f} after {steps} steps', file=sys.stderr)

def answer(model, corpus):
    rule = NearestApproximation(1000, (Vote(model.n_layer-1, False, beta=20.),))
    explain('Before we proceed any further', corpus, model, rule, length=5)

def tune(model, corpus):
    "What `ffn_calibrate` does."
    index = open_index(corpus, model, quiet=True)
    calibrate(corpus, model, index, progress=False)
    calibrate_nearest(corpus, model, index, progress=False)

def measure(task: str, name: str, folder: str): # prints what was measured
    "In a process of its own: do a task, and say what it took."
    start = time.perf_counter()
    model, corpus = opened(name, Path(folder))
    dict(answer=answer, tune=tune)[task](model, corpus)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6 if resource else float('nan')
    print(json.dumps([len(corpus.tokens), len(corpus.substrings(5)), seconds, memory]))

def measured(task: str, name: str, folder: Path) -> list:
    "What `measure` prints, with the cache in that folder."
    elsewhere = os.environ | dict(SHAKESPEARE_FFN_CACHE=str(folder), SHAKESPEARE_FFN_SCALE='full')
    command = [sys.executable, __file__, task, name, str(folder)]
    return json.loads(run(command, env=elsewhere, check=True, stdout=PIPE).stdout)

def main():
    if len(sys.argv) > 1: return measure(*sys.argv[1:])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer((folder := Path(folder))/'tokenizer.json')
        for name in MODELS:
            first, second = (measured('answer', name, folder) for _ in range(2))
            rows.append((name, *(f'{n:,}' for n in first[:2]), f'{first[2]:.0f}', f'{second[2]:.0f}',
                         f'{max(first[3], second[3]):.1f}'))
        train(name := next(iter(MODELS)), folder)
        n_tokens, _, seconds, memory = measured('tune', name, folder)
    heads = ['model', 'tokens of text', 'strings of 5', 'seconds from nothing', 'seconds then', 'GB at most']
    note = (f'`ffn_calibrate` of the smaller one, trained for some minutes: {seconds:.0f} seconds over its '
            f'{n_tokens:,} tokens, the index of strings of 10 included, {memory:.1f} GB at most.')
    report('other_models', 'Models over 50,257 tokens', heads, rows, note)

if __name__ == '__main__': main()
