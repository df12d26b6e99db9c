"""How fast is training? Our loop in the fast recipe against the loop that the article's code has, in the
article's recipe.

The article's: heads apart, attention weights in full, torch's dropout, float32, AdamW, 64 windows of 256
characters a step. Also our loop in float32, and what part of the machine's matrix products a step
reaches. bfloat16 is measured where it is fast."""
from dataclasses import replace
import torch
import torch.nn as nn
import torch.nn.functional as F
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import SeparateHeads, Transformer
from shakespeare_ffn.training import FAST, RECIPES, Run, arithmetic, batch, step
from common import compare, in_turn, operations, product_rate, report

N_EMBED, N_HEAD, CONTEXT, DROPOUT = 384, 6, 256, .2
PEER_BATCH = 64
HEAD = ['loop', 'seconds a step', 'characters a second', 'times as fast']
LOOPS = dict(peer="the article's loop: heads apart, float32",
             article="our loop, the article's recipe, float32",
             float32='our loop, the fast recipe in float32',
             bfloat16='our loop, the fast recipe in bfloat16')

def straightforward() -> Transformer:
    "The model with a module a head, as the article has it, and torch's dropout in place of ours."
    model = Transformer()
    for block in model.blocks:
        block.sa = SeparateHeads(N_EMBED, N_HEAD, DROPOUT)
        block.ffwd.dropout = nn.Dropout(DROPOUT)
    return model.train()

def article_step(train):
    "One step of the article's loop, as a function."
    model = straightforward()
    optimiser, generator = torch.optim.AdamW(model.parameters(), lr=3e-4), torch.Generator().manual_seed(0)
    def one():
        x, y = batch(train, PEER_BATCH, CONTEXT, generator)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return one

def our_step(corpus, recipe):
    "One step of our loop, as a function."
    run = Run(corpus, recipe, 0)
    def one():
        x, y = batch(run.train_tokens, recipe.batch_size, CONTEXT, run.generator)
        step(run.model, run.optimisers, recipe, 200, x, y)
    return one

def step_operations(corpus) -> int:
    "Of one step of the fast recipe: the straightforward model's passes, and Muon."
    model = straightforward()
    x, y = batch(corpus.split().train, FAST.batch_size, CONTEXT, torch.Generator().manual_seed(0))
    passes = operations(lambda: F.cross_entropy(model(x[:1]).flatten(0, 1), y[:1].flatten()).backward())
    run = Run(corpus, FAST, 0)
    for p in run.model.parameters(): p.grad = torch.randn_like(p)
    return passes*FAST.batch_size + sum(operations(optimiser.step) for optimiser in run.optimisers)

def check_same_size(corpus):
    def n_parameters(model): return sum(p.numel() for p in model.parameters())
    assert n_parameters(straightforward()) == n_parameters(Run(corpus, FAST, 0).model)

def steps(corpus, fast) -> dict: # name of a loop → one step of it, as a function
    loops = dict(peer=article_step(corpus.split().train), article=our_step(corpus, RECIPES['article']),
                 float32=our_step(corpus, replace(FAST, bfloat16=False)))
    if fast == 'bfloat16': loops['bfloat16'] = our_step(corpus, FAST)
    return loops

def main():
    corpus, fast = load_corpus(), arithmetic(FAST, 'cpu')
    check_same_size(corpus)
    sizes = dict.fromkeys(LOOPS, FAST.batch_size) # windows a step
    sizes |= dict(peer=PEER_BATCH, article=RECIPES['article'].batch_size)
    seconds = in_turn(3, **steps(corpus, fast))
    rate = {name: sizes[name]*CONTEXT/t for name, t in seconds.items()} # characters a second
    compare('training, a million characters', "the article's loop, float32",
            1e6/rate[fast], 1e6/rate['peer'], batch=FAST.batch_size, context=CONTEXT)
    def cells(name):
        if name not in rate: return ['not measured: slow here', '', '']
        return [f'{seconds[name]:.2f}', f'{rate[name]:,.0f}', f'{rate[name]/rate["peer"]:.1f}']
    bare = {name: product_rate(getattr(torch, name)) for name in {'float32', fast}}
    work = step_operations(corpus)
    reached = work/seconds[fast]
    rates = ', '.join(f'{name} {r/1e9:,.0f}' for name, r in sorted(bare.items()))
    note = (f"A step of the fast recipe has {work/1e9:,.0f} GFLOP of matrix products, Muon's included, "
            f'and does {reached/1e9:,.0f} GFLOP a second in {fast}: {reached/bare[fast]:.0%} of what a bare '
            f'product of {FAST.batch_size*CONTEXT:,} × {N_EMBED} × {4*N_EMBED} reaches here ({rates}). '
            'Medians of three steps after one to warm up.')
    report('training', 'Training', HEAD, [[LOOPS[name], *cells(name)] for name in LOOPS], note)

if __name__ == '__main__': main()
