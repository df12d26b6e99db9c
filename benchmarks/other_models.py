"""From nothing to an answer by a model over 50,257 tokens: how long does it take, in how much memory?

The models have random numbers: what is measured does not depend on them. Each answer is a process of its
own, with an empty cache the first time."""
import json, os, sys, tempfile, time
from pathlib import Path
from subprocess import run
import torch
from shakespeare_ffn.core import UserError
from shakespeare_ffn.data import Corpus, load_corpus
from shakespeare_ffn.explain import explain
from shakespeare_ffn.model import Config, Transformer
from shakespeare_ffn.nearest_strings import NearestApproximation, Vote
from shakespeare_ffn.other_models import FileTokenizer
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

def answer(name: str, tokenizer: str): # prints what was measured
    "In a process of its own: an answer, and what it took."
    (config, n_chars), start = MODELS[name], time.perf_counter()
    torch.manual_seed(0)
    model, text = Transformer(config).eval().requires_grad_(False), load_corpus().text[:n_chars]
    model.tokenizer, model.metadata = FileTokenizer(tokenizer, TOKENS), dict(corpus_sha256='')
    corpus = Corpus(text, model.tokenizer, 'f'*64)
    rule = NearestApproximation(1000, (Vote(config.n_layer-1, False, beta=20.),))
    explain('Before we proceed any further', corpus, model, rule, length=5)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6 if resource else float('nan')
    print(json.dumps([len(corpus.tokens), len(corpus.substrings(5)), seconds, memory]))

def main():
    if len(sys.argv) > 1: return answer(*sys.argv[1:])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(file := Path(folder)/'tokenizer.json')
        elsewhere = os.environ | dict(SHAKESPEARE_FFN_CACHE=folder, SHAKESPEARE_FFN_SCALE='full')
        for name in MODELS:
            command = [sys.executable, __file__, name, str(file)]
            first, second = (json.loads(run(command, env=elsewhere, check=True, capture_output=True).stdout)
                             for _ in range(2))
            rows.append((name, *(f'{n:,}' for n in first[:2]), f'{first[2]:.0f}', f'{second[2]:.0f}',
                         f'{max(first[3], second[3]):.1f}'))
    heads = ['model', 'tokens of text', 'strings of 5', 'seconds from nothing', 'seconds then', 'GB at most']
    report('other_models', 'Models over 50,257 tokens', heads, rows)

if __name__ == '__main__': main()
