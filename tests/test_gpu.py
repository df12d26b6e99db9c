"""What a machine with a GPU runs.

Where there is none: the kernels by Triton's interpreter, all else on a stand-in that refuses
what a GPU refuses."""
import os, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pytest, torch
from shakespeare_ffn import corpus_keys, cosine_sims, learned_measure
from shakespeare_ffn.approximation_details import chance_exact, chance_simulated, criterion, nearest
from shakespeare_ffn.approximation_details import other_prompt_null, predicted_tokens
from shakespeare_ffn.corpus_keys import TrieForward
from shakespeare_ffn.core import accelerator, device, multiply
from shakespeare_ffn.cosine_sims import batches
from shakespeare_ffn.embedding_adjustments import ablate, block_vectors
from shakespeare_ffn.explain import explain
from shakespeare_ffn.hooks import capture, run_from
from shakespeare_ffn.learned_embeddings import geometry, learn_embeddings, least_losses, stage_embeddings
from shakespeare_ffn.learned_measure import fit_measure
from shakespeare_ffn.model import Config, generate, load_model, next_char_probs
from shakespeare_ffn.nearest_strings import Vote, nearest_keys
from shakespeare_ffn.similar_space import Fit, calibrate
from shakespeare_ffn.svd_helpers import projection_cosine, projection_matrix, subspaces
from shakespeare_ffn.training import RECIPES, Run, batch, estimate, mean_loss, _stretched
from standin import There, gpu

CASES = """
import sys, torch
from unittest import mock
from shakespeare_ffn import cosine_sims, nearest_strings
from shakespeare_ffn.cosine_sims import Values, _launch, cosine, count_fused, list_pairs
from shakespeare_ffn.nearest_strings import nearest_keys
device, generator = sys.argv[1], torch.Generator().manual_seed(0)

def check(queries, keys, values, thresholds):
    true = cosine(queries[:, None], keys[None])
    occurring = true.flatten().sort().values[[0, true.numel()//2, -1]].clamp(-1, 1).tolist()
    for threshold in thresholds or occurring:
        passes = (true > threshold).double()
        counts = count_fused(queries, keys, Values(values), threshold, device)
        assert torch.equal(counts[:, :-1], (passes @ values.double()).long()), (true.shape, threshold)
        assert torch.equal(counts[:, -1], passes.sum(1).long())
    return true

SIZES = (1, 1, 1, 1, 2), (5, 20, 12, 4, 300)
# more than a tile of queries, keys and dimensions; no more than that in the interpreter
if device == 'cuda': SIZES += (130, 300, 384, 65, 50), (200, 700, 40, 90, 3000)
else: SIZES += (129, 65, 80, 65, 50), (129, 130, 40, 90, 3000)
for n_queries, n_keys, n_embed, vocab, most in SIZES:
    keys = torch.randn(n_keys, n_embed, generator=generator).bfloat16()
    queries = keys[torch.randint(n_keys, (n_queries,), generator=generator)].clone()
    queries[0] = 0
    check(queries, keys, torch.randint(0, most, (n_keys, vocab), generator=generator), None)

# counts of four digits of 1024 each
keys = torch.randn(70, 16, generator=generator).bfloat16()
check(keys[:9].clone(), keys, torch.randint(0, 2**36, (70, 3), generator=generator), None)

# sums that float16 does not hold, whatever is the caller's default
torch.set_default_dtype(torch.float16)
same = torch.ones(2049, 16, dtype=torch.bfloat16)
assert (count_fused(same[:1], same, Values(torch.ones(2049, 2, dtype=torch.long)), .9, device) == 2049).all()
torch.set_default_dtype(torch.float32)

# pairs between a threshold and what it is in float32:
# on .89, which float32 takes for less, and above .85, which it takes for more
def squares(n, length=12):
    "Numbers that bfloat16 holds, the sum of whose squares is n."
    found = []
    while n:
        exact = [v << s for s in range(8) for v in range(1, 256) if (v << s)**2 <= n]
        found.append(max(exact))
        n -= found[-1]**2
    return found + [0]*(length - len(found))
edge = torch.tensor([[89, *squares(100**2 - 89**2)],
                     [85 << 6, *squares((100 << 6)**2 - 1 - (85 << 6)**2)]]).bfloat16()
true = check(torch.eye(13)[:1].bfloat16(), edge, torch.ones(2, 5, dtype=torch.long), [.89, .85])[0]
rounded = torch.tensor([.89, .85], dtype=torch.float32).double()
assert rounded[0] < true[0] == .89 and .85 < true[1] < rounded[1]

# more doubtful pairs than there is room for
same = torch.ones(60, 32).bfloat16().to(device)
for room in 1, 3600, 2**20:
    sums, doubtful = _launch(same, same, torch.ones(60, 2, dtype=torch.long, device=device), 1., room)
    assert sorted(doubtful.tolist()) == list(range(3600)) and not sums.any()
columns = torch.full((60, 200), 1000, device=device) # in two parts, done again
sums, doubtful = _launch(same, same, columns, 1., 1)
assert len(doubtful) == 3600 and sums.shape == (60, 200) and not sums.any()

# pairs above a threshold of each query, between two cosines that occur or above all;
# where one has no room, all is done again
for (n_queries, n_keys, n_embed), room in zip([(2, 1, 1), (5, 20, 12), (130, 150, 40)], (1, 3, 4096)):
    keys = torch.randn(n_keys, n_embed, generator=generator).bfloat16()
    queries = keys[torch.randint(n_keys, (n_queries,), generator=generator)].clone()
    true = cosine(queries[:, None], keys[None])
    occurring = torch.cat([true, torch.full((n_queries, 1), 3.)], 1).sort(1).values
    at = torch.randint(n_keys, (n_queries, 1), generator=generator)
    thresholds = (occurring.gather(1, at) + occurring.gather(1, at+1))/2
    q, k, cosines = (x.cpu() for x in list_pairs(queries.to(device), keys.to(device),
                                                 thresholds[:, 0].float().to(device), room))
    listed = torch.zeros(true.shape, dtype=torch.bool)
    listed[q.long(), k.long()] = True
    assert torch.equal(listed, true > thresholds) and len(q) == listed.sum() and (q.diff() >= 0).all()
    assert torch.allclose(cosines.double(), true[q.long(), k.long()], atol=1e-6)

none = list_pairs(queries[:0].to(device), keys.to(device), thresholds[:0, 0].float().to(device))
assert [len(x) for x in none] == [0, 0, 0]

# the nearest, the first half of the keys twice, so that rows decide; some queries at a time;
# the first sampled keys are near, so that the guess is too high for the first query
keys = torch.randn(1200, 40, generator=generator).bfloat16()
keys[600:] = keys[:600].clone()
queries, own = keys[1:31].clone(), torch.arange(1, 31).where(torch.arange(30) % 2 == 0, -1)
keys[::32] = queries[:1] + .05*torch.randn(38, 40, generator=generator).bfloat16()
true = cosine(queries[:, None], keys[None])
true[torch.arange(0, 30, 2), own[::2]] = -2
cosine_sims._ROOM = 13*4096
rounds = mock.Mock(side_effect=nearest_strings._nearest_of)
with mock.patch.object(nearest_strings, '_nearest_of', rounds):
    found = nearest_keys(queries.to(device), keys.to(device), 25, own)
assert rounds.call_count == 2 and 0 < len(rounds.call_args[0][0]) < 30
expected = true.sort(dim=1, descending=True, stable=True)
assert torch.equal(found.rows.sort(1).values, expected.indices[:, :25].sort(1).values)
assert torch.allclose(found.cosines.double(), expected.values[:, :25], atol=1e-6)
same, fall = found.cosines.diff() == 0, found.cosines.diff() < 0
assert (same | fall).all() and same.any() and (found.rows.diff()[same] > 0).all()
"""
ON_STAND_IN = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from standin import HERE, Current, gpu, here
from shakespeare_ffn import cosine_sims
class Interpreted: # which takes no stand-ins, and misreads bfloat16
    def __init__(self, kernel): self.kernel = kernel
    def __getitem__(self, grid):
        assert Current.devices == [HERE] # a kernel is launched on the current GPU
        coarse = lambda x: getattr(x, 'dtype', None) == cosine_sims.torch.bfloat16
        plain = lambda x: here(x).float() if coarse(x) else here(x)
        return lambda *args, **kwargs: self.kernel[grid](*map(plain, args), **kwargs)
cosine_sims.fused, cosine_sims.listed = map(Interpreted, (cosine_sims.fused, cosine_sims.listed))
with gpu(): exec({CASES!r})
"""

def run(code, device, **env):
    done = subprocess.run([sys.executable, '-c', code, device], env=os.environ | env, capture_output=True,
                          text=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_kernel_on_a_gpu(): run(CASES, 'cuda')

def test_kernel_in_the_interpreter():
    pytest.importorskip('triton', reason='Triton is not installed (PyTorch brings it with CUDA)')
    run(ON_STAND_IN, 'cuda:0', TRITON_INTERPRET='1')

@pytest.fixture
def there():
    "A machine with one GPU."
    with gpu(): yield 'cuda:0'

@pytest.fixture
def model_there(there): return load_model(device=there)

@pytest.fixture
def tokens(corpus):
    strings = corpus.substrings(10)
    return strings.tokens(strings.order[:12])

def close(x, y, tolerance=1e-4):
    assert isinstance(x, There) and not isinstance(y, There)
    assert torch.allclose(x.cpu(), y, atol=tolerance, rtol=tolerance)

def test_the_stand_in_refuses_what_a_gpu_refuses(there, tokens):
    x, y = torch.ones(3, device=there), torch.ones(3)
    for wrong in (lambda: x + y, lambda: torch.cat([x, y]), lambda: x.numpy(), lambda: y[x.long()],
                  lambda: x @ y,
                  lambda: torch.randn(3, device=there, generator=torch.Generator()),
                  lambda: torch.searchsorted(x, y)):
        with pytest.raises(RuntimeError): wrong()
    assert (x + 1).tolist() == (x + torch.ones(())).tolist() == (x.cpu() + y).tolist()
    assert x[torch.tensor([0, 2])].is_cuda
    model = load_model(device=there)
    model.ln_f.weight = torch.nn.Parameter(model.ln_f.weight.detach().cpu(), requires_grad=False)
    with pytest.raises(RuntimeError, match='two devices'):
        next_char_probs(model, tokens) # one tensor left behind

def test_devices_are_found(there):
    assert accelerator() == 'cuda:0' and device('cuda') == torch.device('cuda:0')

def test_forward_passes(model_there, model, tokens):
    batch = torch.as_tensor(tokens).long()
    close(next_char_probs(model_there, tokens), next_char_probs(model, tokens))
    close(model_there(batch.to('cuda:0')), model(batch))
    found, expected = capture(model_there, batch.to('cuda:0')), capture(model, batch)
    for name, x in found.items(): close(x, expected[name])
    close(run_from(model_there, torch.ones(2, 1, 384, device='cuda:0'), 3),
          run_from(model, torch.ones(2, 1, 384), 3))
    assert len(generate(model_there, 'And ', 5)) == 9
    assert generate(model_there, 'And ', 5, seed=0) == generate(model_there, 'And ', 5, seed=0)

def test_prefix_tree(model_there, model, tokens):
    close(TrieForward(model_there)(tokens), TrieForward(model)(tokens))
    close(TrieForward(model_there, 'bfloat16')(tokens[:2]).float(), TrieForward(model)(tokens[:2]), .2)

def test_index_and_explanation(new_cache, model_there, model, corpus):
    index = corpus_keys.corpus_index(corpus, model_there, 2, arithmetic='float32', quiet=True)
    assert index.queries(['An', 'zz']).is_cpu and index.compute(index.strings.tokens(index.ids[:3])).is_cpu
    explanations = [explain('An', corpus, m, device=d) for m, d in ((model_there, 'cuda:0'), (model, 'cpu'))]
    assert explanations[0].hellinger == pytest.approx(explanations[1].hellinger, abs=1e-3)
    assert [b.n_similar for b in explanations[0].blocks] == [b.n_similar for b in explanations[1].blocks]

def test_calibration(new_cache, model_there, corpus, monkeypatch):
    monkeypatch.setattr('shakespeare_ffn.shards.threshold_attention', lambda queries, keys, values,
                        grid, exclude, progress:
                        # as if it had been counted
                        (torch.ones(*grid.shape, queries.shape[1], values.shape[1], dtype=torch.long),
                         torch.ones(*grid.shape, queries.shape[1], dtype=torch.long)))
    monkeypatch.setattr('shakespeare_ffn.similar_space.fit', lambda counts, probs, unigram:
                        Fit(torch.zeros(6, dtype=torch.long),
                            torch.ones(6).double() + 0*(counts.sum() + probs.sum()), None))
    index = corpus_keys.corpus_index(corpus, model_there, 2, arithmetic='float32', quiet=True)
    assert calibrate(corpus, model_there, index, n=10, progress=False).length == 2

@pytest.mark.parametrize('blocks', [[5], [0, 5]])
def test_a_measure(there, new_cache, model, corpus, blocks, monkeypatch):
    index = corpus_keys.corpus_index(corpus, model, 2, arithmetic='float32', quiet=True)
    few, need = dict(size=8, rounds=2, n=48, k=5, batch=16, progress=False), index.keys[0].nbytes
    def learned(): return fit_measure(index, model, blocks, **few)
    held = [] # whether the GPU holds the keys
    at_hand = learned_measure._at_hand
    monkeypatch.setattr(learned_measure, '_at_hand', lambda x: held.append(at_hand(x)) or held[-1])
    found = []
    for free in 2*need, 2*need-1:
        monkeypatch.setattr('torch.cuda.mem_get_info', lambda device: (free, 9*need))
        found.append(learned())
    monkeypatch.setattr(learned_measure, 'accelerator', lambda: 'cpu')
    found.append(learned())
    assert [x.is_cuda for x in held] == [True]*len(blocks) + [False]*2*len(blocks)
    for a in found:
        assert a.measure.matrix.is_cpu
        assert torch.allclose(a.measure.matrix, found[-1].measure.matrix, atol=1e-3)
        assert a.rule.votes[0].beta == pytest.approx(found[-1].rule.votes[0].beta, rel=1e-2)

def test_rows_and_cosines(there):
    a, b = (torch.randn(n, 48, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (7, 9))
    close(cosine_sims.cosine(a[:, None].to(there), b[None].to(there)),
          cosine_sims.cosine(a[:, None], b[None]), 1e-14)
    close(cosine_sims._root(torch.arange(9., device=there).double()), torch.arange(9.).double().sqrt(), 1e-14)
    close(cosine_sims.unit(a.to(there)), cosine_sims.unit(a))
    for found, expected in zip(cosine_sims.similar(a[0], b, -.1, device=there),
                               cosine_sims.similar(a[0], b, -.1)):
        assert torch.equal(found, expected)

@pytest.mark.parametrize('centred', [False, True])
def test_the_nearest(there, centred, monkeypatch):
    monkeypatch.setattr(cosine_sims, 'triton', None) # its kernel is tested above
    keys = torch.randn(2, 700, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    keys[:, 300:] = keys[:, :400] # every other one is there twice, so that rows decide
    queries, exclude = keys[:, :20].clone(), torch.arange(20).where(torch.arange(20) % 3 == 0, -1)
    found = Vote(1, centred).nearest(queries, keys, 30, exclude)
    mean = keys[1].float().mean(0)*centred
    expected = nearest_keys(queries[1].float() - mean, keys[1].float() - mean, 30, exclude)
    assert torch.equal(found.rows.sort()[0], expected.rows.sort()[0]) and found.rows.is_cpu
    assert torch.allclose(found.cosines, expected.cosines, atol=1e-6)

@pytest.mark.parametrize('recipe', RECIPES)
def test_training(recipe, corpus, there, tmp_path):
    small = replace(_stretched(RECIPES[recipe], 3), batch_size=2)
    new = lambda: Run(corpus, small, 0, Config(block_size=16, n_layer=2, n_head=2, n_embed=16), there)
    run, other = new(), new()
    run.train_tokens = run.val_tokens = run.corpus.split().val[:200]
    x, y = batch(run.val_tokens, 2, 16, torch.Generator())
    run.corpus = replace(corpus, text=corpus.text[:2000]) # whose losses take no time
    run.advance()
    run.evaluate()
    run.save(tmp_path/'checkpoint')
    other.load(tmp_path/'checkpoint')
    other.train_tokens = run.train_tokens
    assert run.advance() == pytest.approx(other.advance())
    assert len(run.sample(5)) and 0 < estimate(run.model, run.train_tokens, 0, False, 1, 2) < 9
    for bfloat16 in False, True: assert 0 < mean_loss(run.model, run.train_tokens, 64, bfloat16) < 9
    run.finish(tmp_path/'weights.safetensors', 1)
    assert load_model(tmp_path/'weights.safetensors').config.n_embed == 16

def test_learned_embeddings(new_cache, model_there, model, tmp_path):
    for block in 6, 5:
        asked = dict(tokens=[1, 39], n=3, speed=100, checkpoint=tmp_path/f'{block}', progress=False)
        learn_embeddings(model_there, block, max_steps=500, **asked)
        found = learn_embeddings(model_there, block, max_steps=1000, **asked) # goes on
        assert found.embeddings.is_cuda and found.loss.isfinite().all()
    for m in model_there, model: # learned on the GPU, given where the model is
        assert stage_embeddings(m, 6, [1], 2, 100,
                                progress=False).embeddings.is_cuda == m.lm_head.weight.is_cuda

def test_geometry_and_subspaces(model_there, model, tokens):
    found, expected = block_vectors(model_there, tokens), block_vectors(model, tokens)
    for part, x in found.items(): close(x, expected[part], 1e-3)
    acts = capture(model_there, torch.as_tensor(tokens).long().to('cuda:0'))
    assert all(ablate(model_there, acts, 2, part, alone).is_cuda for part in (None, 'sa')
               for alone in (False, True))
    e = torch.randn(3, 5, 384, device='cuda:0')
    assert least_losses(model_there, 2).reached.is_cuda and geometry(e[0]).distance.least > 0
    assert projection_cosine(e[0], subspaces(e, 2)).is_cuda and projection_matrix(subspaces(e)).is_cuda

def test_criterion_and_chance(there):
    counts, similarities = torch.randint(0, 50, (40, 65)), torch.randn(40, 65)
    results = []
    for move in (lambda x: x), (lambda x: x.to(there)):
        predicted, close_ones = predicted_tokens(move(counts)), nearest(move(similarities))
        assert chance_simulated(predicted, move(similarities),
                                2).is_cuda == predicted.is_cuda == chance_exact(predicted.sum(1)).is_cuda
        results.append((criterion(predicted, close_ones).cpu(),
                        other_prompt_null(predicted, close_ones).cpu()))
    assert all(torch.equal(x, y) for x, y in zip(*results))

def test_products_in_8_bits_are_the_processors_alone(there, monkeypatch):
    "on a GPU they take some sizes only"
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', 'int8')
    rows, asked = torch.randn(200, 20, generator=torch.Generator().manual_seed(0)), []
    def noted(*args, **kwargs): return asked.append(args) or multiply(*args, **kwargs)
    monkeypatch.setattr(cosine_sims, 'multiply', noted)
    monkeypatch.setattr(cosine_sims, '_cheapest', lambda units, sample, own, sieves, *_: sieves[:1])
    for device, expected in (there, False), ('cpu', True):
        for _ in batches(rows, rows, .5, device=device): pass
        assert bool(asked) == expected
