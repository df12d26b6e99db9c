"""How fast is training? Our loop in the fast recipe against the loop that the article's code has, in the article's recipe.

The article's: heads apart, attention weights in full, torch's dropout, float32, AdamW, 64 windows of 256 characters a step.
Also our loop in float32, and what part of the machine's matrix products a step reaches. bfloat16 is measured where it is fast."""
from dataclasses import replace
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.training import FAST, RECIPES, Run, arithmetic, batch, step
from common import compare, in_turn, report

N_EMBED, N_HEAD, N_LAYER, CONTEXT, DROPOUT = 384, 6, 6, 256, .2

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(N_EMBED, N_EMBED//N_HEAD, bias=False) for _ in range(3))
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer('earlier', torch.tril(torch.ones(CONTEXT, CONTEXT)))
    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * (N_EMBED//N_HEAD)**-.5
        scores = scores.masked_fill(self.earlier[:x.shape[1], :x.shape[1]] == 0, float('-inf'))
        return self.dropout(F.softmax(scores, dim=-1)) @ self.value(x)

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.proj = nn.ModuleList(Head() for _ in range(N_HEAD)), nn.Linear(N_EMBED, N_EMBED)
        self.dropout = nn.Dropout(DROPOUT)
    def forward(self, x): return self.dropout(self.proj(torch.cat([head(x) for head in self.heads], dim=-1)))

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.ln1, self.ln2 = Heads(), nn.LayerNorm(N_EMBED), nn.LayerNorm(N_EMBED)
        self.ffwd = nn.Sequential(nn.Linear(N_EMBED, 4*N_EMBED), nn.ReLU(), nn.Linear(4*N_EMBED, N_EMBED), nn.Dropout(DROPOUT))
    def forward(self, x):
        x = x + self.heads(self.ln1(x))
        return x + self.ffwd(self.ln2(x))

class Straightforward(nn.Module):
    def __init__(self, vocab_size=65):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, N_EMBED), nn.Embedding(CONTEXT, N_EMBED)
        self.blocks = nn.Sequential(*(Block() for _ in range(N_LAYER)))
        self.ln_f, self.lm_head = nn.LayerNorm(N_EMBED), nn.Linear(N_EMBED, vocab_size)
    def forward(self, x): return self.lm_head(self.ln_f(self.blocks(self.tokens(x) + self.positions(torch.arange(x.shape[1])))))

def straightforward(train):
    "One step of the article's loop, as a function."
    model = Straightforward().train()
    optimiser, generator = torch.optim.AdamW(model.parameters(), lr=3e-4), torch.Generator().manual_seed(0)
    def one():
        x, y = batch(train, 64, CONTEXT, generator)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimiser.zero_grad(); loss.backward(); optimiser.step()
    return model, one

def ours(corpus, recipe):
    "One step of our loop, as a function."
    run = Run(corpus, recipe, 0)
    return lambda: step(run.model, run.optimisers, recipe, 200, *batch(run.train_tokens, recipe.batch_size, CONTEXT, run.generator))

def products(corpus) -> float:
    "Operations in the matrix products of one step of the fast recipe: passes from the straightforward model, Muon's from its own."
    model, _ = straightforward(corpus.split()[0])
    x, y = batch(corpus.split()[0], FAST.batch_size, CONTEXT, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as passes: F.cross_entropy(model(x[:1]).flatten(0, 1), y[:1].flatten()).backward()
    run = Run(corpus, FAST, 0)
    for p in run.model.parameters(): p.grad = torch.randn_like(p)
    with FlopCounterMode(display=False) as updates:
        for o in run.optimisers: o.step()
    return passes.get_total_flops()*FAST.batch_size + updates.get_total_flops()

def product_rate(dtype) -> float:
    "Operations a second of the product that dominates: a step's characters times a feed-forward layer."
    a, b = torch.randn(FAST.batch_size*CONTEXT, N_EMBED, dtype=dtype), torch.randn(4*N_EMBED, N_EMBED, dtype=dtype)
    def some():
        for _ in range(10): a @ b.T
    return 10*2*a.shape[0]*a.shape[1]*b.shape[0]/in_turn(5, some=some)['some']

if __name__ == '__main__':
    corpus = load_corpus()
    assert sum(p.numel() for p in Straightforward().parameters()) == sum(p.numel() for p in Run(corpus, FAST, 0).model.parameters())
    fast = arithmetic(FAST, 'cpu')
    names = dict(peer="the article's loop: heads apart, float32", article="our loop, the article's recipe, float32",
                 float32='our loop, the fast recipe in float32', bfloat16='our loop, the fast recipe in bfloat16')
    sizes = dict.fromkeys(names, FAST.batch_size) | dict(article=RECIPES['article'].batch_size, peer=64)
    loops = dict(peer=straightforward(corpus.split()[0])[1], article=ours(corpus, RECIPES['article']),
                 float32=ours(corpus, replace(FAST, bfloat16=False)))
    if fast == 'bfloat16': loops['bfloat16'] = ours(corpus, FAST)
    seconds = in_turn(3, **loops)
    rate = {name: sizes[name]*CONTEXT/t for name, t in seconds.items()}
    row = lambda n: [f'{seconds[n]:.2f}', f'{rate[n]:,.0f}', f'{rate[n]/rate["peer"]:.1f}'] if n in rate else ['not measured: slow here', '', '']
    work, bare = products(corpus), {name: product_rate(getattr(torch, name)) for name in {'float32', fast}}
    compare('training, a million characters', "the article's loop, float32", 1e6/rate[fast], 1e6/rate['peer'], batch=FAST.batch_size, context=CONTEXT)
    report('training', 'Training', ['loop', 'seconds a step', 'characters a second', 'times as fast'], [[names[n], *row(n)] for n in names],
           f"A step of the fast recipe has {work/1e9:,.0f} GFLOP of matrix products, Muon's included, and does "
           f'{work/seconds[fast]/1e9:,.0f} GFLOP a second in {fast}: {work/seconds[fast]/bare[fast]:.0%} of what a bare product of '
           f'{FAST.batch_size*CONTEXT:,} × {N_EMBED} × {4*N_EMBED} reaches here ('
           + ', '.join(f'{name} {r/1e9:,.0f}' for name, r in sorted(bare.items())) + '). Medians of three steps after one to warm up.')
