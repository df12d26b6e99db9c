"""What is given together belongs together: an index to its text and its model, a block to the model.

Anything else is one line that says what is wrong, before anything is computed or kept."""
import importlib, inspect, pkgutil
from dataclasses import replace
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
import shakespeare_ffn
from shakespeare_ffn.class_and_sample import key_distributions
from shakespeare_ffn.core import UserError
from shakespeare_ffn.corpus_keys import check_index, corpus_index
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.embedding_adjustments import ablate
from shakespeare_ffn.explain import explain
from shakespeare_ffn.explore import PageData
from shakespeare_ffn.hooks import capture, check_block, hooked, run_from
from shakespeare_ffn.learned_embeddings import learn_embeddings, stage_embeddings
from shakespeare_ffn.model import Config, Transformer
from shakespeare_ffn.learned_measure import Measure, MeasuredApproximation, calibrate_measure, distance_apart
from shakespeare_ffn.learned_measure import fit_measure
from shakespeare_ffn.nearest_strings import NearestApproximation, Vote, calibrate_nearest, prompt_neighbours
from shakespeare_ffn.replacement import LastPosition, replace_outputs
from shakespeare_ffn.scores import examine
from shakespeare_ffn.shards import build_shards
from shakespeare_ffn.similar_space import calibrate, prompt_counts

N_LAYER = 2

def a_model(corpus, seed):
    torch.manual_seed(seed)
    model = Transformer(Config(len(corpus.tokenizer), 16, N_LAYER, 2, 8)).eval()
    model.tokenizer, model.metadata = corpus.tokenizer, dict(corpus_sha256=corpus.sha256)
    return model

@pytest.fixture(scope='module')
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp('texts')/'text'
    path.write_text('to be or not to be, that is the question. '*40, encoding='utf-8')
    return path

@pytest.fixture(scope='module')
def ours(cache, text):
    "A text, a model, and their index of strings of length 3."
    corpus = load_corpus(text)
    model = a_model(corpus, 0)
    return corpus, model, corpus_index(corpus, model, 3, quiet=True)

# each function that takes an index beside a text, called with a text, a model and an index
TAKING = dict(
    calibrate=lambda *given: calibrate(*given, n=20, progress=False),
    calibrate_nearest=lambda *given: calibrate_nearest(*given, n=20, k=5, betas=(10,), progress=False),
    distance_apart=lambda corpus, model, index: distance_apart(
        NearestApproximation(5, (Vote(0, True),)), corpus, index, 5),
    calibrate_measure=lambda *given: calibrate_measure(*given, progress=False, rounds=1, size=4, n=32, k=5),
    prompt_counts=lambda corpus, model, index: prompt_counts(corpus, model, [.9]*N_LAYER, 5, index, False),
    check_index=lambda corpus, model, index: check_index(index, corpus, model),
    examine=lambda corpus, model, index: examine(corpus, index, {}, 5),
    PageData=lambda corpus, model, index: PageData(corpus, index))

def parameters(f) -> set:
    try: return set(inspect.signature(f).parameters)
    except (TypeError, ValueError): return set()

def public():
    "Name and function, or class, of all that modules export."
    for module in pkgutil.iter_modules(shakespeare_ffn.__path__):
        m = importlib.import_module(f'shakespeare_ffn.{module.name}')
        for name in getattr(m, '__all__', []):
            if callable(getattr(m, name)): yield name, getattr(m, name)

def test_every_function_that_takes_an_index_and_a_text_is_tried():
    found = {name for name, f in public() if {'corpus', 'index'} <= parameters(f)}
    assert found == set(TAKING)

@pytest.mark.parametrize('name', TAKING)
def test_an_index_of_another_text_or_model_is_refused(ours, new_cache, tmp_path, name):
    corpus, model, index = ours
    (tmp_path/'other').write_text(corpus.text[:-2], encoding='utf-8')
    other = load_corpus(tmp_path/'other')
    assert list(other.tokenizer.names) == list(corpus.tokenizer.names)
    belongs = f'the text {corpus.sha256[:12]}, and is given with {other.sha256[:12]}'
    with pytest.raises(UserError, match=belongs): TAKING[name](other, model, index)
    in_other_tokens = replace(corpus, tokenizer=load_corpus().tokenizer)
    with pytest.raises(UserError, match='65 characters and the model'):
        TAKING[name](in_other_tokens, model, index)
    if 'model' in parameters(dict(public())[name]):
        another = a_model(corpus, 1)
        belongs = f'the weights {model.hash[:12]}, and is given with {another.hash[:12]}'
        with pytest.raises(UserError, match=belongs): TAKING[name](corpus, another, index)
    there = {path.name for path in new_cache.iterdir()}
    assert there == {'tinyshakespeare.txt', 'arithmetic.json'} # nothing is kept

def test_what_is_kept_for_a_model_is_not_of_another_activation(ours, new_cache):
    corpus, model, _ = ours
    hidden = corpus_index(corpus, model, 3, quiet=True, part='hidden')
    for tune in TAKING['calibrate'], TAKING['calibrate_nearest']:
        with pytest.raises(UserError, match="holds 'hidden' of each block, and 'ffwd' is needed"):
            tune(corpus, model, hidden)
    with pytest.raises(UserError, match="'output' is needed"): key_distributions(hidden)
    assert not (new_cache/'approximations').exists()

def test_a_text_in_other_tokens_has_no_index(ours):
    _, model, _ = ours
    for make in corpus_index, build_shards, explain_any:
        with pytest.raises(UserError, match='65 characters and the model|another text'):
            make(load_corpus(), model, 3, quiet=True)

def explain_any(corpus, model, length, quiet):
    return explain('to be', corpus, model, length=length, quiet=quiet)

@pytest.fixture(scope='module')
def asking(ours, cache):
    "Functions of the number of a block."
    corpus, model, index = ours
    tokens = torch.as_tensor(index.strings.tokens([0, 1])).long()
    acts, queries = capture(model, tokens), index.queries(tokens.numpy())
    shards = build_shards(corpus, model, 3, size=512, quiet=True)
    x = acts['blocks.0.input']
    def replaced(b):
        with replace_outputs(model, {b: x[:, 0]}): pass
    def is_hooked(b):
        with hooked(model, {f'blocks.{b}.ffwd': print}): pass
    def rule(b): return NearestApproximation(5, (Vote(b, True),))
    def measure(b): return Measure((0, b), torch.ones(2, model.n_embed, 4), torch.zeros(2, model.n_embed))
    def measured(b): return MeasuredApproximation(measure(b), rule(0))
    return [lambda b: check_block(b, N_LAYER), lambda b: model.place(b, 'ffwd'),
            lambda b: run_from(model, x, b + (b > 0)), # one more is the head
            lambda b: ablate(model, acts, b), lambda b: LastPosition(model, tokens)({b: x[:, 0]}),
            lambda b: capture(model, tokens, f'blocks.{b}.sa'), replaced, is_hooked, shards.mean_key,
            lambda b: learn_embeddings(model, b + (b > 0), progress=False),
            lambda b: stage_embeddings(model, b + (b > 0), progress=False),
            lambda b: Vote(b, False).nearest(queries, index.keys, 5),
            lambda b: Vote(b, True).nearest_in(shards, queries, 5, [-1, -1]),
            lambda b: prompt_neighbours(index, Vote(b, False), 5, 5, progress=False),
            lambda b: rule(b).sums(queries, index.keys, index.next_counts()),
            lambda b: rule(b).check(N_LAYER),
            lambda b: measure(b)(queries),
            lambda b: measured(b).check(N_LAYER),
            lambda b: measured(b).sums(queries, index.keys, index.next_counts()),
            lambda b: measured(b).evidence_in(index, queries[:, 0]),
            lambda b: measured(b).evidence_in(shards, queries[:, 0]),
            lambda b: fit_measure(index, model, [b], 4, 1, 32, 5, progress=False),
            lambda b: rule(b).evidence(queries[:, 0], index.keys),
            lambda b: rule(b).evidence_in(index, queries[:, 0]),
            lambda b: rule(b).evidence_in(shards, queries[:, 0]),
            lambda b: explain('to be', corpus, model, rule(b), 3, quiet=True),
            lambda b: examine(corpus, index, dict(x=rule(b)), 5)]

@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.one_of(st.integers(-10**20, -1), st.integers(N_LAYER, 10**20)))
def test_a_block_that_is_not_there_is_named(asking, block):
    for ask in asking:
        with pytest.raises((UserError, ValueError)) as e: ask(block)
        said = str(block + 1) in str(e.value) or str(block) in str(e.value)
        assert said and type(e.value) in (UserError, ValueError), inspect.getsource(ask)

@pytest.mark.parametrize('block', range(N_LAYER))
def test_the_blocks_that_are_there_are_taken(asking, block):
    for ask in asking[:9] + asking[11:]: ask(block) # embeddings take too long
