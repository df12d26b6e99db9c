"""What a newcomer sees while the index is built.

First the model's distribution, then previews from a growing share of the strings, at the end the answer."""
import json, re, sys
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from shakespeare_ffn import corpus_keys, explain as explaining
from shakespeare_ffn.corpus_keys import (_FIRST_PREVIEW, _LONGEST_PAUSE, TrieForward, corpus_index,
                                         _next_preview, _scattered)
from shakespeare_ffn.core import UserError
from shakespeare_ffn.explain import Preview, explain, main
from shakespeare_ffn.model import check_prompt, next_char_probs
from shakespeare_ffn.similar_space import tuned_approximation

@pytest.fixture
def small_chunks(monkeypatch):
    "Small chunks, and a preview after each"
    begin = TrieForward.__init__
    def small(self, *args):
        begin(self, *args)
        self.chunk = 200
    monkeypatch.setattr(TrieForward, '__init__', small)
    monkeypatch.setattr(corpus_keys, '_FIRST_PREVIEW', 0)
    monkeypatch.setattr(corpus_keys, '_next_preview', lambda begun, ended: 0)

@pytest.fixture
def events(monkeypatch):
    "What is said and computed, in order"
    events, forward = [], TrieForward.__call__
    def computing(self, tokens):
        events.append(len(tokens))
        return forward(self, tokens)
    def saying(message, quiet=False): quiet or events.append(message)
    monkeypatch.setattr(TrieForward, '__call__', computing)
    for module in corpus_keys, explaining: monkeypatch.setattr(module, 'say', saying)
    return events

def lines(err): return [line.split('\r')[-1] for line in err.split('\n')]
def shares(text): return [int(n) for n in re.findall(r'approximation from (\d+)% of the strings', text)]

def test_the_model_speaks_at_once_then_previews_then_the_answer(new_cache, small_chunks, capsys):
    main(['to', '--json'])
    out, err = capsys.readouterr()
    first, model, building, *rest = lines(err)
    assert first == "After 'to', while the index is built:"
    assert model.startswith('  model  ') and building.startswith('Building the index')
    previews = [line for line in rest if line.startswith('  approximation')]
    ends = re.compile(r'\((Hellinger distance 0\.\d+|no similar string yet)\)$')
    assert len(previews) >= 4 and all(ends.search(line) for line in previews)
    assert shares(err) == sorted(shares(err)) and 1 <= shares(err)[0] <= 20 and shares(err)[-1] < 100
    assert json.loads(out)['prompt'] == 'to' # nothing of it on standard output
    main(['to', '--json'])
    assert capsys.readouterr() == (out, '') # the same answer; no preview once the index is there

def test_a_small_share_is_not_0_percent(new_cache, monkeypatch, events, corpus, model):
    begin = TrieForward.__init__
    def small(self, *args):
        begin(self, *args)
        self.chunk = 20 # of some 3,100
    monkeypatch.setattr(TrieForward, '__init__', small)
    monkeypatch.setattr(corpus_keys, '_FIRST_PREVIEW', 0)
    monkeypatch.setattr(corpus_keys, '_next_preview', lambda begun, ended: np.inf)
    explain('And', corpus, model)
    assert [e for e in events if re.search(r'approximation from 0\.[1-9]% of the strings', str(e))]

def test_the_model_speaks_before_any_chunk_is_computed(new_cache, small_chunks, events, corpus, model):
    explain('a', corpus, model)
    assert events[0].startswith("After 'a'") and '  model ' in events[0]

def test_quiet_is_quiet(new_cache, small_chunks, capsys, events, corpus, model):
    explain('a', corpus, model, quiet=True)
    assert not [e for e in events if isinstance(e, str)] and capsys.readouterr() == ('', '')

def test_nothing_is_said_of_an_answer_that_cannot_come(new_cache, monkeypatch, capsys):
    def no_room(*args): raise UserError('make room')
    monkeypatch.setattr(corpus_keys, 'check_room', no_room)
    with pytest.raises(SystemExit): main(['to'])
    assert capsys.readouterr() == ('', 'ffn_explain: make room\n')

def test_who_waits_for_another_process_hears_the_model_as_well(new_cache, corpus, model, monkeypatch, events):
    class Taken(corpus_keys.FileLock):
        def acquire(self, timeout=None):
            if timeout == 0: raise corpus_keys.Timeout(self.lock_file)
            return super().acquire()
    monkeypatch.setattr(corpus_keys, 'FileLock', Taken)
    explain('a', corpus, model)
    messages = [e for e in events if isinstance(e, str)]
    assert messages[0].startswith('Another process') and messages[1].startswith("After 'a'")
    assert sum('  model ' in s for s in messages) == 1

@pytest.mark.parametrize('exclude_self', [False, True])
def test_a_preview_of_everything_is_the_answer(corpus, model, exclude_self):
    e = explain('to', corpus, model, tuned_approximation(model), exclude_self=exclude_self, quiet=True)
    index = corpus_index(corpus, model, 2, quiet=True)
    probs = next_char_probs(model, check_prompt('to', model))[0]
    tokens = model.tokenizer.encode('to')
    preview = Preview(tokens, probs, corpus, tuned_approximation(model), exclude_self)
    for rows in np.array_split(np.random.default_rng(0).permutation(len(index)), 7):
        preview.update([(index.ids[rows], index.keys[:, rows])], index.compute)
    for counts, b in zip(preview.counts(), e.blocks, strict=True):
        assert {c: n for c, n in zip(corpus.tokenizer.chars, counts.tolist()) if n} == b.counts

def watched(previews):
    def watch(share, news, keys): previews.append((share, [(ids, rows.clone()) for ids, rows in news]))
    return watch

def check_previews(previews, index, already=0):
    "Each preview has rows of the index, none of them twice, and says which share is done."
    n, seen = 0, set()
    for share, news in previews:
        for ids, rows in news:
            assert torch.equal(rows, index.keys[:, index.row_of[ids]])
            n += len(ids)
            seen.update(ids)
        assert share == pytest.approx(n/len(index))
    assert len(seen) == n

def test_previews_see_every_row_once(new_cache, small_chunks, corpus, model):
    previews = []
    index = corpus_index(corpus, model, 2, quiet=True, watch=watched(previews))
    # nothing at first, and none after the last chunk
    assert previews[0] == (0, []) and len(previews) == -(-len(index)//200)
    check_previews(previews, index)

def test_a_build_that_is_taken_up_shows_what_was_there(new_cache, small_chunks, corpus, model, monkeypatch):
    monkeypatch.setattr(corpus_keys, '_SAVE_EVERY', 1)
    monkeypatch.setattr(corpus_keys, '_next_note', lambda begun, ended: 0)
    forward, calls = TrieForward.__call__, []
    def dies(self, tokens):
        calls.append(tokens)
        if len(calls) == 6: raise KeyboardInterrupt
        return forward(self, tokens)
    monkeypatch.setattr(TrieForward, '__call__', dies)
    with pytest.raises(KeyboardInterrupt): corpus_index(corpus, model, 2, quiet=True)
    monkeypatch.setattr(TrieForward, '__call__', forward)
    previews = []
    index = corpus_index(corpus, model, 2, quiet=True, watch=watched(previews))
    assert previews[1][0] >= 4*200/len(index) # the rows of the dead build and one chunk
    check_previews(previews, index)

@given(n=st.integers(1, 3000), share=st.floats(0, 1))
def test_what_is_done_is_spread_evenly(n, share):
    order, k = _scattered(n), max(1, round(share*n))
    assert sorted(order) == list(range(n))
    assert np.diff(np.sort(order[:k]), prepend=-1, append=n).max() - 1 <= 2*n/k

@given(st.lists(st.floats(0, 30), min_size=1, max_size=50))
def test_looks_come_soon_and_take_a_twentieth_at_most(costs):
    now, spent = _FIRST_PREVIEW, 0
    assert now <= 60
    for cost in costs:
        begun, now, spent = now, now + cost, spent + cost
        following = _next_preview(begun, now)
        assert spent <= .05*following
        assert following - now <= max(_LONGEST_PAUSE, 20*cost) + 1e-9
        now = following

def test_a_log_without_standard_error(new_cache, corpus, model, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stderr', None)
    explain('a', corpus, model)
    assert capsys.readouterr().out == ''
