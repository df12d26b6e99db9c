"""Make the data of the page to play with, play/: 300 prompts, for each the strings that the blocks find
similar, what follows them, and what the model says.

All of it is exact: counts at thresholds a hundredth apart, cosines to five digits. One file a prompt,
numbers of variable length, compressed; the page decodes it (play/read.js)."""
import gzip, json
from dataclasses import asdict
from pathlib import Path
import numpy as np
import torch
from shakespeare_ffn.core import WEIGHTS, Parser, by_scale, command, reference, write_atomically
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import SparseCounts, threshold_attention
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.nearest_strings import Vote, nearest_approximation, prompt_neighbours, vote
from shakespeare_ffn.similar_space import article_approximation, tuned_approximation, unigram_distribution
from shakespeare_ffn.text_analysis import hellinger, next_counts

DATA = Path(__file__).resolve().parents[1]/'play'/'data'
N_PROMPTS, N_LISTED = 300, 200   # prompts; strings of a block that are listed
EDGES = np.arange(60, 100)/100   # thresholds at which counts are exact
STEPS = 100_000                  # of a cosine: a step is a hundred-thousandth

def varints(numbers) -> bytes:
    "Whole numbers from 0 up, seven bits a byte, the lowest first; the last byte of each is below 128."
    out = bytearray()
    for n in map(int, numbers):
        while n > 127:
            out.append(n & 127 | 128)
            n >>= 7
        out.append(n)
    return bytes(out)

def sparse(counts) -> list: # how many are not 0, then for each the distance to the last, and the count
    "A row of counts, mostly zeros."
    at = np.flatnonzero(counts)
    gaps = np.diff(at, prepend=0)
    return [len(at), *np.stack([gaps, counts[at]], 1).flatten()]

class Strings:
    "Where each string of an index stands in the text, and what follows it."
    def __init__(self, index, values: SparseCounts):
        self.index, self.values = index, values

    def numbers(self, row: int) -> list:
        "The place of a string's first occurrence, and what follows if that is not the next character alone."
        place, counts = self.index.strings.positions(self.index.ids[row])[0], self.values[row].numpy()
        return [2*place] if counts.sum() == 1 else [2*place + 1, *sparse(counts)]

    def listed(self, rows, cosines) -> list:
        "How many strings, then for each how much farther it is than the one before, and its numbers."
        far = np.round((1 - cosines.double().numpy())*STEPS).astype(int).clip(0)
        steps = np.diff(np.maximum.accumulate(far), prepend=0)
        return [len(rows), *(n for s, r in zip(steps, rows.tolist()) for n in (s, *self.numbers(r)))]

def chosen(distances: torch.Tensor, n: int) -> list: # numbers of prompts
    "The article's prompts and its worst, then as many from easy to hard, evenly."
    named = [int(i) for i in reference()['prompts']['some']] + reference()['approximation']['worst']
    named = [i for i in named if i < len(distances)]
    by_distance = distances.argsort().tolist()
    evenly = [by_distance[i] for i in np.linspace(0, len(by_distance)-1, n).astype(int)]
    return list(dict.fromkeys(named + evenly))[:n]

def bins(counts, n_matches) -> list: # (n_edges, vocab_size), (n_edges,), those above each edge, which ascend
    "From the highest edge to the lowest: how many strings lie below the one before, and what follows them."
    above = np.concatenate([counts, n_matches[:, None]], 1)[::-1]
    return [n for row in np.diff(above, axis=0, prepend=0) for n in (row[-1], *sparse(row[:-1]))]

class Play:
    "All that the page needs of a model."
    def __init__(self, n_prompts: int):
        self.corpus, self.model = load_corpus(), load_model()
        self.index, self.unigram = corpus_index(self.corpus, self.model), unigram_distribution(self.corpus)
        self.rule, self.strings = nearest_approximation(self.model), self.index.strings
        self.counts = next_counts(self.strings, len(self.corpus.tokenizer))[self.index.ids]
        ids = prompt_ids(self.strings, by_scale(20_000, 200))
        probs = next_char_probs(self.model, self.strings.tokens(ids)).cpu()
        found = [prompt_neighbours(self.index, v, self.rule.k) for v in self.rule.votes]
        sums = torch.stack([vote(f, self.counts, v.beta) for f, v in zip(found, self.rule.votes)])
        distances = hellinger(self.rule(sums, self.unigram)[0], probs)
        picked = chosen(distances, n_prompts)
        self.numbers, self.ids = picked, ids[picked]
        self.probs, self.distances = probs[picked], distances[picked]
        self.prompts = [self.strings[i] for i in self.ids]
        self.queries = self.index.queries(self.prompts)
        self.own = torch.as_tensor(self.index.row_of[self.ids]).long()
        # what lies above each edge, the prompt itself left out
        grid = torch.from_numpy(EDGES).repeat(len(self.queries), 1)
        self.above = threshold_attention(self.queries, self.index.keys, self.counts, grid, self.own)

    def lists(self) -> list: # of Nearest: each block's, then each vote's
        "The nearest strings of all prompts."
        blocks = [(Vote(b, False), N_LISTED) for b in range(len(self.queries))]
        votes = [(v, self.rule.k) for v in self.rule.votes]
        return [v.nearest(self.queries, self.index.keys, k, self.own) for v, k in blocks + votes]

def prompt_file(play: Play, strings: Strings, lists: list, i: int) -> bytes:
    "All that the page shows of a prompt."
    numbers = [round(65535*p) for p in play.probs[i].tolist()]
    numbers += sparse(play.counts[play.own[i]].numpy())
    counts, n_matches = play.above
    for c, m in zip(counts[:, :, i].numpy(), n_matches[:, :, i].numpy()): numbers += bins(c, m)
    for found in lists: numbers += strings.listed(found.rows[i], found.cosines[i])
    return gzip.compress(varints(numbers), mtime=0)

def described(rule) -> dict: return dict(thresholds=rule.thresholds, weights=rule.weights)

def contents(play: Play) -> dict:
    "What the page reads first."
    rule, votes = play.rule, [asdict(v) for v in play.rule.votes]
    n_in_train = len(play.corpus.split()[0])
    return dict(chars=''.join(play.corpus.tokenizer.chars), edges=EDGES.tolist(), steps=STEPS,
                unigram=play.unigram.tolist(), tuned=described(tuned_approximation(play.model)),
                article=described(article_approximation()), nearest=dict(k=rule.k, votes=votes),
                training_part=n_in_train, listed=N_LISTED,
                prompts=[dict(text=p, number=n, distance=round(d, 4)) for p, n, d in
                         zip(play.prompts, play.numbers, play.distances.tolist())])

def make(argv) -> str:
    Parser('play', description=__doc__, allow_abbrev=False).parse_args(argv)
    play = Play(by_scale(N_PROMPTS, 30))
    strings, lists = Strings(play.index, play.counts), play.lists()
    DATA.mkdir(parents=True, exist_ok=True)
    files = {f'{i}.bin': prompt_file(play, strings, lists, i) for i in range(len(play.prompts))}
    files['text.bin'] = gzip.compress(play.corpus.text.encode(), mtime=0)
    files['model.safetensors'] = WEIGHTS.read_bytes() # half precision, as it is
    files['contents.json'] = json.dumps(contents(play), ensure_ascii=False).encode()
    for name, content in files.items(): write_atomically(DATA/name, content)
    size = sum(len(content) for name, content in files.items() if name != 'model.safetensors')
    return f'{len(play.prompts)} prompts in {DATA}: {size/1e6:.1f} MB, and the model'

if __name__ == '__main__': command('play', make)
