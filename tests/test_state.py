"What an answer belongs to: the weights as they are now. What the caller has set is neither used nor changed."
import contextlib, copy, json, shutil, threading
from concurrent.futures import ThreadPoolExecutor
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize, prune
from shakespeare_ffn import core, corpus_keys, learned_measure
from shakespeare_ffn.approximation_details import chance_exact, chance_simulated, criterion, judge
from shakespeare_ffn.approximation_details import nearest as nearest_tokens, other_prompt_null
from shakespeare_ffn.approximation_details import predicted_tokens
from shakespeare_ffn.class_and_sample import draw, hear_nearest, hear_passing, key_distributions, rewritten
from shakespeare_ffn.class_and_sample import sample_sums, sums_of
from shakespeare_ffn.compact import compact_index, measure
from shakespeare_ffn.corpus_keys import corpus_index, plain_keys
from shakespeare_ffn.core import UserError, true_float32, _precision, _set_precision
from shakespeare_ffn.cosine_sims import pair_cosines, similar, threshold_attention, threshold_attention_loop
from shakespeare_ffn.data import prompt_ids
from shakespeare_ffn.embedding_adjustments import block_vectors
from shakespeare_ffn.explain import explain
from shakespeare_ffn.explore import PageData
from shakespeare_ffn.hooks import capture, hooked, run_from
from shakespeare_ffn.learned_embeddings import LearningRun, _token_losses, initial_embeddings
from shakespeare_ffn.learned_embeddings import least_losses
from shakespeare_ffn.model import Config, Transformer, check_prompt, evaluating, generate, hash_when_taken
from shakespeare_ffn.model import load_model, next_char_probs, save_model, snapshot, weights_hash
from shakespeare_ffn.learned_measure import fit_measure, measured_approximation
from shakespeare_ffn.nearest_strings import BETAS, Nearest, Vote, calibrate_nearest, nearest_approximation
from shakespeare_ffn.nearest_strings import nearest_keys, nearest_to, prompt_neighbours, tuned_vote
from shakespeare_ffn.replacement import LastPosition
from shakespeare_ffn.rivals import absolute_discounting, block_outputs, continuation_counts, kneser_ney
from shakespeare_ffn.rivals import logit_lens, longest_suffix, suffix_counts, witten_bell
from shakespeare_ffn.scores import examine, mean_lengths
from shakespeare_ffn.shards import build_shards
from shakespeare_ffn.similar_space import agreement, block_distances, calibrate, curve_grid, fit, from_grid
from shakespeare_ffn.similar_space import grid_around
from shakespeare_ffn.similar_space import likeliest, prompt_counts, tuned_approximation, unigram_distribution
from shakespeare_ffn.svd_helpers import projection_cosine, projection_matrix, subspaces
from shakespeare_ffn.text_analysis import hellinger, mean_and_ends, top_tokens
from shakespeare_ffn.unseen import counts_outside, ratio_and_ends

@contextlib.contextmanager
def changed(get, set, value):
    before = get()
    set(value)
    try: yield
    finally: set(before)

def dtype(d): return lambda: changed(torch.get_default_dtype, torch.set_default_dtype, d)

@contextlib.contextmanager
def precision(setting, value): # 'none': as it is set for all
    setting.fp32_precision = value
    try: yield
    finally: setting.fp32_precision = 'none'

@contextlib.contextmanager
def medium_precision():
    torch.set_float32_matmul_precision('medium')
    try: yield
    finally: _set_precision('highest', 'none', 'none', core._EXACT[-1])

STATES = {
    'autocast': lambda: torch.autocast('cpu', torch.bfloat16),
    'float64 by default': dtype(torch.float64),
    'bfloat16 by default': dtype(torch.bfloat16),
    'another device by default': lambda: torch.device('meta'),
    'medium precision': medium_precision,
    'bfloat16 in oneDNN': lambda: precision(torch.backends.mkldnn.matmul, 'bf16'),
    'TF32 on GPUs': lambda: precision(torch.backends.cuda.matmul, 'tf32'),
    'TF32 everywhere': lambda: precision(torch.backends, 'tf32'),
    'inference mode': torch.inference_mode,
    'no gradients': torch.no_grad,
    'one kernel of attention': lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION), # the processor lacks it
    'deterministic algorithms': lambda: changed(torch.get_deterministic_debug_mode,
                                                torch.set_deterministic_debug_mode, 2),
}

def seen() -> tuple:
    "What the caller has set."
    return (torch.get_default_dtype(), str(torch.get_default_device()), _precision(),
            torch.is_autocast_enabled('cpu'),
            torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_deterministic_debug_mode(),
            bytes(torch.random.default_generator.get_state().numpy()))

@pytest.fixture
def own():
    "A model of the test's own"
    return load_model()

@pytest.fixture
def tokens(model): return model.tokenizer.encode('And only l')[None]

def answers(corpus, model) -> dict:
    "What the package computes, by name: tensors and texts."
    tokens, index = check_prompt('And only l', model), corpus_index(corpus, model, 2, quiet=True)
    return {'next_char_probs': next_char_probs(model, tokens.numpy()),
            'keys': corpus_index(corpus, model, 1, quiet=True).keys,
            'queries': index.queries(['zq', 'to', 'q$']),
            'explain': json.dumps(explain('to', corpus, model, quiet=True).to_dict()),
            'generate': generate(model, 'T', 5, seed=1), **capture(model, tokens),
            **dict(load_model().named_parameters())}

@pytest.fixture(scope='module')
def expected(corpus, model): return answers(corpus, model)

@pytest.mark.parametrize('state', STATES)
def test_what_the_caller_has_set_is_neither_used_nor_changed(cache, corpus, model, expected, state):
    for path in (cache/'keys').glob('*length1-*/'): shutil.rmtree(path) # to be built anew under the state
    with STATES[state]():
        before = seen()
        found = answers(corpus, model)
        assert seen() == before
    assert list(found) == list(expected)
    for name, x in found.items():
        if isinstance(x, str): assert x == expected[name], name
        else:
            assert torch.equal(x, expected[name]) and x.dtype == expected[name].dtype, name
            assert not x.is_inference(), name

class Given:
    "What the later chapters' functions are given, made before the caller sets anything."
    def __init__(self, corpus, model):
        self.corpus, self.model, self.index = corpus, model, corpus_index(corpus, model, quiet=True)
        self.rule, self.ids = nearest_approximation(model), prompt_ids(self.index.strings, 20)
        self.tokens, self.values = self.index.strings.tokens(self.ids), self.index.next_counts()
        self.queries, self.own = self.index.queries(self.tokens), torch.as_tensor(self.index.row_of[self.ids])
        self.prompts, self.unigram = torch.from_numpy(self.tokens).long(), unigram_distribution(corpus)
        self.outputs = corpus_index(corpus, model, 2, quiet=True, part='output')
        self.n_next, self.follows = self.outputs.next_counts().sum(1), self.values[:].to_dense().float()
        self.near = Nearest(torch.arange(10).view(2, 5), torch.linspace(1, .9, 10).view(2, 5))
        self.probs = key_distributions(self.outputs)
        self.hundred, self.grid = torch.arange(100), curve_grid()
        self.suffixes = suffix_counts(corpus, self.ids)
        self.replaced = {3: torch.zeros(20, model.n_embed)}

def by_page(g) -> list:
    data, some = PageData(g.corpus, g.index), [tuple(t) for t in g.tokens[:3].tolist()]
    return [*data.tell(some), *data.says([(10, *t) for t in some]), json.dumps(data.contents([]))]

def by_compact_index(g) -> list:
    compact = compact_index(g.index, progress=False)
    found = compact.nearest(g.queries, g.own)
    return [*compact.codebook, compact.codes, compact.codebook.decode(compact.codes[:9]), compact.minus,
            *found, *compact.files().values(), *measure(compact, 20)]

def by_threshold(g) -> list:
    keys, own = g.index.keys[3:5], g.hundred
    counts, n = prompt_counts(g.corpus, g.model, curve_grid()[:, :2], 20, g.index, progress=False)
    found = fit(counts, g.probs[:20], g.unigram, rounds=1)
    nearest = nearest_keys(keys[0, :100], keys[0], 20, own)
    return [*threshold_attention(keys[:, :100], keys, g.values, [.8, .8], own, dims=(15,)),
            *threshold_attention_loop(keys[:, :2], keys[:, :9], g.follows[:9].long(), [.8, .8]),
            *similar(keys[0, 0], keys[0], .8), *nearest,
            repr(tuned_vote(Vote(3, False), nearest, g.values, g.probs[:100])),
            counts, n, *found[:2], block_distances(counts, g.probs[:20], g.unigram),
            repr(from_grid(g.grid, found.chosen, found.weights, 'tests')),
            repr(calibrate(g.corpus, g.model, g.index, n=30, progress=False)),
            *tuned_approximation(g.model)(counts[:, 0], g.unigram)]

def by_criterion(g) -> list:
    predicted = predicted_tokens(g.probs[:600]) # more than bfloat16 counts to
    close = nearest_tokens(g.probs[600:1200])
    return [chance_exact(predicted.sum(-1)), chance_simulated(predicted[:50], g.probs[:50], rounds=2),
            other_prompt_null(predicted, close), judge(predicted[None], g.probs[None, :600])[1]]

def by_directions(g) -> list:
    x = initial_embeddings(4, 5, 12)
    bases = subspaces(x, 2)
    return [x, bases, projection_matrix(bases), projection_cosine(x[0], bases),
            *least_losses(g.model, rounds=2), *block_vectors(g.model, g.tokens[:2]).values(),
            run_from(g.model, g.queries[3, :2, None].float(), 4), plain_keys(g.model, g.tokens[:2].tolist())]

# What is only reckoned from the caller's tensors may be for inference mode, as PyTorch's own results are.
def by_reckoning(g) -> list:
    p, q, own, keys, values = g.probs[:50], g.probs[50:100], g.hundred, g.index.keys, g.values
    predicted, close, counts = predicted_tokens(p), nearest_tokens(q), g.suffixes
    return [grid_around(tuned_approximation(g.model)), values.sum(0), values.sum(1), values[7],
            values[5:9].to_dense(), values[[3, 2]].to_dense(), pair_cosines(keys[3], keys[4], own, own),
            hellinger(p, q), mean_and_ends(p), ratio_and_ends(p, q+1), *agreement(p, q, 3), likeliest(p, 3),
            repr(top_tokens(p[0], g.model.tokenizer)), draw(p, torch.Generator().manual_seed(0)),
            predicted, close, criterion(predicted, close), absolute_discounting(counts, .75),
            kneser_ney(counts[-1], counts[:-1], [[.5, .6, .7]]*(len(counts)-1)), longest_suffix(counts),
            witten_bell(counts)]

def by_neighbours(g) -> list:
    tuned = calibrate_nearest(g.corpus, g.model, g.index, n=30, k=50, betas=BETAS[::6], progress=False)
    return [*prompt_neighbours(g.index, g.rule.votes[0], 50, 30, progress=False), repr(tuned),
            *nearest_to(g.queries[4, 0], g.index.keys[4], 9)]

def by_rule(g) -> list:
    sums = g.rule.sums(g.queries, g.index.keys, g.index.next_counts(), g.own)
    evidence = g.rule.evidence_in(g.index, g.queries[:, 0])
    return [sums, *g.rule(sums, g.unigram), *(x for e in evidence for x in e[2:])]

def by_distributions(g) -> list:
    drawn, near = rewritten(g.outputs.next_counts(), g.probs), hear_nearest(g.near, 20.3)
    passing = hear_passing(g.queries[3], g.index.keys[3], .7, g.own)
    return [key_distributions(g.outputs), drawn.begin, drawn.column, drawn.count, *near, *passing,
            sums_of(near, g.probs), sums_of(passing, g.follows),
            sample_sums([near], g.probs[:2], g.n_next)]

def by_rivals(g) -> list:
    counts, outputs = suffix_counts(g.corpus, g.ids), block_outputs(g.model, g.tokens)
    different = continuation_counts(g.corpus, g.ids, counts)
    outside = counts_outside(g.corpus.substrings(3), len(g.unigram), 100, 200)
    return [counts, different, outputs, logit_lens(g.model, outputs),
            *(x if isinstance(x, torch.Tensor) else x.count for x in outside)]

def by_scores(g) -> list:
    found = examine(g.corpus, g.index, dict(nearest=g.rule), 20)
    return [*found.values(), *mean_lengths(g.index, 20).values()]

def by_last_position(g) -> list:
    last = LastPosition(g.model, g.prompts)
    return [last(), last(g.replaced)]

def by_shards(g) -> list:
    shards = build_shards(g.corpus, g.model, 2, size=512, quiet=True)
    queries = shards.queries(shards.strings.tokens(range(5)))
    return [queries, shards.mean_key(3), *shards.count(queries, shards.next_counts(), [.8]*6),
            *g.rule.votes[0].nearest_in(shards, queries, 7, [-1]*5)]

def by_measure(g) -> list:
    measured, queries = measured_approximation(g.model), g.queries
    # as if nothing had been measured yet
    learned_measure._LAST.clear()
    for file in g.index.path.glob('measured*'): file.unlink()
    lesson = dict(size=8, rounds=1, n=32, k=20, heard=7, batch=16)
    found = fit_measure(g.index, g.model, progress=False, **lesson)
    [e] = measured.evidence_in(g.index, queries[:, 0])
    return [measured.measure(queries), found.measure.matrix, repr(found.rule), *e[2:]]

BY = {f.__name__: f for f in (by_measure, by_page, by_compact_index, by_threshold, by_neighbours,
                              by_rule, by_distributions, by_rivals, by_scores, by_last_position, by_shards,
                              by_criterion, by_directions, by_reckoning)}

@pytest.fixture(scope='module')
def given_before(corpus, model): return Given(corpus, model)

# Each state is in one of two, which takes a quarter of the time.
TOGETHER = [['autocast', 'bfloat16 by default', 'medium precision', 'deterministic algorithms',
             'inference mode'],
            ['float64 by default', 'another device by default', 'no gradients', 'bfloat16 in oneDNN',
             'TF32 on GPUs', 'TF32 everywhere', 'one kernel of attention']]
def test_all_states_are_in_one(): assert sorted(sum(TOGETHER, [])) == sorted(STATES)

@pytest.mark.parametrize('by', BY)
def test_later_chapters_neither_use_nor_change_it(cache, new_cache, given_before, by):
    "and keep nothing in the cache that depends on it"
    expected = BY[by](given_before)
    for states in TOGETHER:
        for folder in new_cache.glob('*/'): shutil.rmtree(folder)
        with contextlib.ExitStack() as stack:
            for s in states: stack.enter_context(STATES[s]())
            before = seen()
            found = BY[by](given_before)
            assert seen() == before, states
        for i, (x, y) in enumerate(zip(found, expected, strict=True)):
            if not isinstance(x, torch.Tensor): assert x == y, (states, i)
            else:
                assert x.dtype == y.dtype and torch.equal(x, y), (states, i)
                assert by == 'by_reckoning' or not x.is_inference(), (states, i)

@pytest.mark.parametrize('state', STATES)
def test_a_transformer_is_the_same_whatever_the_caller_has_set(state):
    torch.manual_seed(0)
    expected = Transformer(Config(n_layer=1, n_embed=12, n_head=2)).state_dict()
    torch.manual_seed(0)
    with STATES[state](): found = Transformer(Config(n_layer=1, n_embed=12, n_head=2))
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a,
               b in zip(found.state_dict().values(), expected.values()))
    assert all(p.requires_grad and not p.is_inference() for p in found.parameters())

@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(st.sampled_from(list(STATES)), min_size=2, max_size=5, unique=True),
       train=st.lists(st.integers(0, 40), max_size=3))
def test_any_states_together(corpus, own, expected, states, train):
    for i, m in enumerate(own.modules()): m.training = i in train
    modes = [m.training for m in own.modules()]
    with contextlib.ExitStack() as stack:
        # PyTorch cannot say what its older setting was once the newer ones are in use
        for s in sorted(states, key='medium precision'.__ne__): stack.enter_context(STATES[s]())
        before = seen()
        assert json.dumps(explain('to', corpus, own, quiet=True).to_dict()) == expected['explain']
        assert seen() == before
    assert [m.training for m in own.modules()] == modes

def test_who_comes_later_sets_no_precision(monkeypatch):
    "not even for a moment, in which another thread may multiply"
    with true_float32(), monkeypatch.context() as patch:
        patch.setattr(core, '_set_precision', None)
        with true_float32(): assert _precision() == core._EXACT

def test_threads_agree_and_leave_everything_as_it_was(new_cache, corpus, own):
    own.train()
    prompts = ['t', 'b', 'o', 'z']
    with STATES['medium precision']():
        before = seen()
        with ThreadPoolExecutor(4) as pool:
            # one of them builds
            found = list(pool.map(lambda p: explain(p, corpus, own, quiet=True), prompts))
        assert seen() == before
    assert found == [explain(p, corpus, load_model(), quiet=True) for p in prompts]
    assert all(m.training
               for m in own.modules()) and len(list((new_cache/'keys').glob('*length1-*/manifest.json'))) == 1

def test_every_thread_is_itself(corpus, model):
    "a state of one thread's own, such as autocast, in a thread that asks"
    found, expected = [], explain('to', corpus, model, quiet=True)
    def ask():
        with torch.autocast('cpu', torch.bfloat16), torch.device('meta'), torch.inference_mode():
            found.append(explain('to', corpus, model, quiet=True))
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [expected]

# training mode

def test_training_mode_changes_no_answer(corpus, own, tokens):
    asked = {'next': lambda: next_char_probs(own, tokens),
             'capture': lambda: capture(own, tokens)['blocks.5.ffwd'],
             'queries': lambda: corpus_index(corpus, own, 2, quiet=True).queries(['zq']),
             'losses': lambda: _token_losses(LearningRun(own, 0, torch.arange(2), 3, 1, .1, 0).model,
                                             torch.ones(2, 3, 384), torch.arange(2), 0)}
    expected = {name: f() for name, f in asked.items()}
    own.train()
    for name, f in asked.items(): assert torch.equal(f(), expected[name]), name
    assert all(m.training for m in own.modules())

# weights that change

def test_the_hash_is_the_files(model): assert model.hash == model.metadata['weights_sha256']

@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 80), where=st.integers(0, 2**31), change=st.sampled_from([1e-7, 2**-11, 1., -3.]),
       raw=st.booleans())
def test_any_edit_changes_the_hash_and_undoing_it_restores_it(model, own, which, where, change, raw):
    p = list(own.parameters())[which % len(list(own.parameters()))]
    at = where % p.numel()
    before = p.view(-1)[at].clone()
    (p.data if raw else p).view(-1)[at] = before*(1 + change) + change
    assert own.hash != model.hash
    p.view(-1)[at] = before
    assert own.hash == model.hash

def test_an_edited_model_is_named_like_its_file_once_it_is_saved(own, tmp_path):
    for p in own.parameters(): p.mul_(1.001)
    save_model(own, tmp_path/'w.safetensors', own.metadata, own.tokenizer.chars)
    again = load_model(tmp_path/'w.safetensors')
    assert again.hash == again.metadata['weights_sha256'] != own.hash

def contents(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino, p.read_bytes())
            for p in sorted(folder.rglob('keys.bfloat16'))}

@pytest.mark.parametrize('edit', [1e-4, .1], ids=['small enough for the check of four rows', 'large'])
def test_an_edited_model_has_an_index_of_its_own(new_cache, corpus, own, edit):
    expected = explain('a', corpus, own, quiet=True)
    sound = contents(new_cache/'keys')
    before = [p.clone() for p in own.parameters()]
    for p in own.parameters(): p.data += edit*torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    index, rows = corpus_index(corpus, own, 1, arithmetic='float32', quiet=True), [0, 7, 40]
    anew = capture(own, torch.from_numpy(index.strings.tokens(index.ids[rows]).astype('int64')))
    for b in range(6):
        torch.testing.assert_close(index.keys[b, rows].float(), anew[f'blocks.{b}.ffwd'][:, -1], rtol=.01,
                                   atol=.01)
    assert {p: x for p,
            x in contents(new_cache/'keys').items()
            if p in sound} == sound and len(contents(new_cache/'keys')) == 2
    with pytest.raises(UserError, match='nothing is tuned'): explain('a', corpus, own, quiet=True)
    for p, b in zip(own.parameters(), before): p.copy_(b)
    assert explain('a', corpus, own, quiet=True) == expected

def test_an_index_answers_for_the_weights_it_was_asked_for(corpus, own):
    index = corpus_index(corpus, own, 2, quiet=True)
    before = index.queries(['zq'])
    for p in own.parameters(): p.add_(.1)
    assert torch.equal(index.queries(['zq']), before)

@pytest.mark.parametrize('copied', [False, True])
def test_a_snapshot_that_is_edited_is_another_model(corpus, own, copied, cache):
    index, sound = corpus_index(corpus, own, 2, quiet=True), contents(cache/'keys')
    assert hash_when_taken(index.model) == hash_when_taken(evaluating(index.model)) == own.hash
    model = copy.deepcopy(index.model) if copied else index.model
    assert (hash_when_taken(model) is None) == copied
    model.blocks[0].ffwd.out.weight[0, 0] += 1e-6 # less than the check of four rows sees
    assert model.hash != own.hash
    assert corpus_index(corpus, model, 2, quiet=True).path != index.path
    assert contents(cache/'keys').items() >= sound.items()

def test_a_snapshot_of_other_numbers_is_another_model(own):
    taken = snapshot(own)
    weight = taken.lm_head.weight
    weight.data = weight.data + 1
    assert taken.hash != own.hash
    with pytest.raises(UserError, match='float16'): snapshot(own).half().hash

@pytest.mark.parametrize('change', [lambda m: setattr(m.token_embedding, 'padding_idx', 3),
                                    lambda m: setattr(m.lm_head, 'out_features', 70), lambda m: m.train(),
                                    lambda m: setattr(m, 'note', 'mine')])
def test_what_changes_no_answer_changes_no_hash(own, change):
    change(own)
    assert own.hash == load_model().hash

def test_weights_that_change_while_the_index_is_built(new_cache, corpus, own, monkeypatch):
    "a model that is trained in another thread"
    build, hash_before = corpus_keys.build, own.hash
    def meanwhile(*args):
        for p in own.parameters(): p.add_(.1)
        build(*args)
    monkeypatch.setattr(corpus_keys, 'build', meanwhile)
    index = corpus_index(corpus, own, 1, quiet=True)
    assert index.identity['weights_sha256'] == hash_before and own.hash != hash_before
    assert torch.equal(index.keys, corpus_index(corpus, load_model(), 1, quiet=True).keys)

# models that compute something else

def hook(m): m.blocks[4].sa.register_forward_hook(lambda m, args, out: 0*out)
def pre_hook(m): m.blocks[4].register_forward_pre_hook(lambda m, args: None)
def parametrised(m): parametrize.register_parametrization(m.blocks[0].ffwd.fc, 'weight', torch.nn.Identity())
def pruned(m): prune.random_unstructured(m.blocks[0].ffwd.fc, 'weight', .5)
def patched(m): m.blocks[2].sa.forward = lambda x: 0*x
def replaced(m): m.blocks[2].ffwd = torch.nn.Sequential(m.blocks[2].ffwd)
def halved(m): m.half()
def other_heads(m): m.blocks[2].sa.n_head = 3
def other_nonlinearity(m): m.blocks[2].ffwd.nonlinearity = 'gelu'
def other_eps(m): m.ln_f.eps = .05
def shorter_rows(m): m.token_embedding.max_norm = 1.
ODD = {f.__name__: f for f in (hook, pre_hook, parametrised, pruned, patched, replaced, halved, other_heads,
                               other_nonlinearity, other_eps, shorter_rows)}

@pytest.mark.parametrize('odd', ODD.values(), ids=ODD)
def test_a_model_that_computes_something_else_is_refused(corpus, own, odd, cache, expected):
    sound, model = contents(cache/'keys'), copy.deepcopy(own)
    odd(model)
    for ask in (lambda: explain('to', corpus, model, quiet=True), lambda: corpus_index(corpus, model, 2),
                lambda: model.hash):
        with pytest.raises(UserError, match='not those of its weights; .* first'): ask()
    assert contents(cache/'keys') == sound

def test_a_hooked_model_is_refused_and_its_index_stays(corpus, own, cache):
    expected = explain('to', corpus, own, quiet=True)
    sound = contents(cache/'keys')
    with hooked(own, {'blocks.3.sa': lambda x: 0*x}):
        with pytest.raises(UserError, match='blocks.3.sa is hooked'): explain('to', corpus, own, quiet=True)
        # what is asked of it directly, it answers
        assert not torch.equal(next_char_probs(own, [[1, 2]]), next_char_probs(load_model(), [[1, 2]]))
    assert contents(cache/'keys') == sound and explain('to', corpus, own, quiet=True) == expected

def test_a_hook_on_every_module_is_refused(corpus, own):
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, args, out: None)
    try:
        with pytest.raises(UserError, match='hooked, like all modules'): corpus_index(corpus, own, 2)
    finally: handle.remove()

# compiled models

def in_place(m):
    m.compile()
    return m
def in_part(m):
    m.blocks[1] = torch.compile(m.blocks[1])
    return m

@pytest.mark.parametrize('how', [torch.compile, in_place, in_part], ids=['compiled', 'in place', 'in part'])
def test_a_compiled_model_is_unwrapped_or_refused(corpus, own, tokens, how):
    expected, explained = capture(own, tokens), explain('to', corpus, own, quiet=True)
    compiled = how(own)
    found = capture(compiled, tokens)
    assert list(found) == list(expected) and all(torch.equal(found[n], expected[n]) for n in expected)
    assert torch.equal(next_char_probs(compiled, tokens), next_char_probs(load_model(), tokens))
    assert explain('to', corpus, compiled, quiet=True) == explained
    with pytest.raises(UserError, match='hooks do not reach compiled code'):
        with hooked(compiled, {'blocks.3.sa': lambda x: 0*x}): pass

def test_a_traced_model_is_refused(own, tokens):
    traced = torch.jit.trace(own, tokens, check_trace=False)
    for ask in (lambda: capture(traced, tokens), lambda: hooked(traced, {}).__enter__()):
        with pytest.raises(UserError, match='scripted|compiled'): ask()

def test_a_capture_leaves_no_hook(own, tokens):
    capture(own, tokens)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in own.modules())

def test_captures_in_threads_do_not_meet(own):
    prompts = torch.randint(65, (8, 1, 10), generator=torch.Generator().manual_seed(0))
    expected = [capture(own, p)['blocks.3.ffwd'] for p in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: capture(own, p)['blocks.3.ffwd'], prompts))
    assert all(torch.equal(a, b) for a, b in zip(found, expected))

def test_gradients_flow_through_a_capture_if_the_caller_records_them(own, tokens):
    own.requires_grad_(True)
    assert capture(own, tokens)['blocks.0.ffwd'].requires_grad
    with torch.no_grad(): assert not capture(own, tokens)['blocks.0.ffwd'].requires_grad

def test_a_weights_file_with_a_scalar_is_refused(tmp_path):
    tensors = {'a': torch.tensor(3.)}
    save_file(tensors, tmp_path/'w.safetensors', {'weights_sha256': weights_hash(tensors), 'n_head': '6'})
    with pytest.raises(UserError, match='does not hold the weights of this architecture'):
        load_model(tmp_path/'w.safetensors')
