"""Write the page to play with, and its data for 300 prompts, to _play: any file server can show it.

The article's prompts are among them, its worst, and as many from easy to hard, evenly. One file a prompt, as
nbs/21_explore.ipynb tells; the model, 22 MB; and the compact index for any other prompt, 83 MB, of which
nbs/22_compact_index.ipynb tells. It is made once, in minutes, and kept in the user's cache."""
import gzip, json, shutil
from pathlib import Path
import numpy as np
import torch
from shakespeare_ffn.compact import compact_index, measure
from shakespeare_ffn.core import WEIGHTS, Parser, UserError, by_scale, command, reference, write_atomically
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.explore import PAGE, PageData
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.nearest_strings import prompt_neighbours, vote
from shakespeare_ffn.similar_space import unigram_distribution
from shakespeare_ffn.text_analysis import hellinger

SITE = Path(__file__).resolve().parents[1]/'_play'
N_PROMPTS = 300
MOST = dict(prompts=5e6, any_prompt=130e6) # bytes to load: of all prompts; of the model and the index
MOST_A_FILE = 30e6

def chosen(distances: torch.Tensor, n: int) -> list: # numbers of prompts
    "The article's prompts and its worst, then as many from easy to hard, evenly."
    named = [int(i) for i in reference()['prompts']['some']] + reference()['approximation']['worst']
    by_distance = distances.argsort().tolist()
    evenly = [by_distance[i] for i in np.linspace(0, len(by_distance)-1, n).astype(int)]
    return list(dict.fromkeys([i for i in named if i < len(distances)] + evenly))[:n]

def by_nearest(data: PageData) -> torch.Tensor: # (n_prompts,)
    "How far the nearest strings are from the model, for each of the article's prompts."
    index, rule = data.index, data.rule
    probs = next_char_probs(data.model, index.strings.tokens(prompt_ids(index.strings))).cpu()
    found = [prompt_neighbours(index, v, rule.k) for v in rule.votes]
    sums = torch.stack([vote(f, data.values, v.beta) for f, v in zip(found, rule.votes)])
    return hellinger(rule(sums, unigram_distribution(data.corpus))[0], probs)

def prepared(data: PageData, n: int) -> list: # as in `PageData.contents`
    "The prompts that the page has."
    strings, distances = data.index.strings, by_nearest(data)
    ids = prompt_ids(strings)
    return [dict(text=strings[ids[i]], number=i, distance=round(distances[i].item(), 4))
            for i in chosen(distances, n)]

def any_prompt(data: PageData) -> tuple: # what the page's contents say of it, name → content
    "The compact index and the model."
    compact = compact_index(data.index)
    made = {'model.safetensors': WEIGHTS.read_bytes(), **compact.files()}
    return compact.about({name: len(content) for name, content in made.items()}, measure(compact)), made

def megabytes(made: dict, # name → content
              most: float) -> float:
    "What files weigh; a `UserError` if it is more than a reader is asked to load."
    sizes = {name: len(content) for name, content in made.items()}
    limits = [(f'{len(made)} files have', sum(sizes.values()), most)]
    limits += [(f'{name} has', size, MOST_A_FILE) for name, size in sizes.items()]
    for what, size, limit in limits:
        if size > limit: raise UserError(f'{what} {size/1e6:.1f} MB, and {limit/1e6:.1f} are the most')
    return sum(sizes.values())/1e6

def play(argv) -> str:
    Parser('play', description=__doc__, allow_abbrev=False).parse_args(argv)
    corpus = load_corpus()
    data = PageData(corpus, corpus_index(corpus, load_model()))
    prompts = prepared(data, by_scale(N_PROMPTS, 30))
    # what a reader of the prepared prompts loads
    told = data.tell([data.tokens(p['text']) for p in prompts])
    made = {f'{i}.bin': content for i, content in enumerate(told)}
    made['text.bin'] = gzip.compress(corpus.text.encode(), mtime=0)
    megabytes(made, MOST['prompts']) # before what takes long
    # what is loaded only for a prompt of the reader's own
    about, loaded = any_prompt(data)
    made['contents.json'] = json.dumps(data.contents(prompts, compact=about), ensure_ascii=False).encode()
    # nothing is written if it is too much to load
    first, more = megabytes(made, MOST['prompts']), megabytes(loaded, MOST['any_prompt'])
    # what was there goes when all that is new is written
    fresh = SITE/'data.partial'
    shutil.rmtree(fresh, ignore_errors=True)
    for name, content in (made | loaded).items(): write_atomically(fresh/name, content)
    for file in PAGE.iterdir(): write_atomically(SITE/file.name, file.read_bytes())
    shutil.rmtree(SITE/'data', ignore_errors=True)
    fresh.replace(SITE/'data')
    return (f'{SITE}/index.html: {len(prompts)} prompts in {first:.1f} MB; '
            f'the model and the index for any other, {more:.0f} MB')

if __name__ == '__main__': command('play', play)
