"""Write the page to play with, and its data for 300 prompts, to _play: any file server can show it.

The article's prompts are among them, its worst, and as many from easy to hard, evenly. One file a prompt, as
nbs/21_explore.ipynb tells; and the model, 22 MB."""
import gzip, json, shutil
from pathlib import Path
import numpy as np
import torch
from shakespeare_ffn.core import WEIGHTS, Parser, by_scale, command, reference, write_atomically
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.explore import PAGE, PageData
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.nearest_strings import prompt_neighbours, vote
from shakespeare_ffn.similar_space import unigram_distribution
from shakespeare_ffn.text_analysis import hellinger

SITE = Path(__file__).resolve().parents[1]/'_play'
N_PROMPTS = 300

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

def play(argv) -> str:
    Parser('play', description=__doc__, allow_abbrev=False).parse_args(argv)
    corpus = load_corpus()
    data = PageData(corpus, corpus_index(corpus, load_model()))
    prompts = prepared(data, by_scale(N_PROMPTS, 30))
    told = data.tell([p['text'] for p in prompts])
    made = {f'{i}.bin': content for i, content in enumerate(told)}
    made['contents.json'] = json.dumps(data.contents(prompts), ensure_ascii=False).encode()
    made['text.bin'] = gzip.compress(corpus.text.encode(), mtime=0)
    size = sum(map(len, made.values()))
    shutil.copytree(PAGE, SITE, dirs_exist_ok=True)
    (SITE/'data').mkdir(exist_ok=True)
    for name, content in (made | {'model.safetensors': WEIGHTS.read_bytes()}).items():
        write_atomically(SITE/'data'/name, content)
    return f'{SITE}/index.html: {len(prompts)} prompts in {size/1e6:.1f} MB, and the model'

if __name__ == '__main__': command('play', play)
