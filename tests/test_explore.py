"The page to play with computes what the package computes, and anybody can use it."
import json, shutil, signal, socket, subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
import pytest, torch
from hypothesis import given, strategies as st
from served import served
from shakespeare_ffn import compact as compact_module
from shakespeare_ffn.compact import compact_index
from shakespeare_ffn.core import WEIGHTS, UserError, _remedy
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import threshold_attention
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.explore import _N_LISTED, Application, PageData, main, _varints
from shakespeare_ffn.model import load_model, next_char_probs
from shakespeare_ffn.nearest_strings import Vote, vote
from shakespeare_ffn.similar_space import article_approximation, tuned_approximation, unigram_distribution
from shakespeare_ffn.text_analysis import hellinger

ROOT = Path(__file__).resolve().parents[1]
NODE = shutil.which('node')

@pytest.fixture(scope='module')
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT/'tools')
        import play
        yield play

class Known:
    "What Python knows of the page's prompts."
    def __init__(self, folder):
        corpus = load_corpus()
        self.data = PageData(corpus, corpus_index(corpus, load_model()))
        self.index, self.model, self.corpus = self.data.index, self.data.model, corpus
        self.contents = json.loads((folder/'data'/'contents.json').read_bytes())
        self.prompts = [p['text'] for p in self.contents['prompts']]
        self.distances = torch.tensor([p['distance'] for p in self.contents['prompts']]).double()
        tokens = torch.stack([self.model.tokenizer.encode(p) for p in self.prompts])
        self.queries, self.own = self.index.queries(self.prompts), self.rows(self.prompts)
        self.counts, self.unigram = self.data.values, unigram_distribution(corpus)
        self.probs = next_char_probs(self.model, tokens)
        grid = torch.tensor([self.contents['edges']]*6).double()
        self.above = threshold_attention(self.queries, self.index.keys, self.counts, grid, self.own)

    def rows(self, prompts): # -1 for what the corpus does not have
        tokens = torch.stack([self.model.tokenizer.encode(p) for p in prompts])
        return torch.from_numpy(self.index.rows_of(tokens.numpy()))

@pytest.fixture(scope='module')
def site(tool, tmp_path_factory):
    "The page with its data, in a folder of its own; and what Python knows of it."
    folder = tmp_path_factory.mktemp('play')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, 'SITE', folder)
        assert '30 prompts' in tool.play([])
    return folder, Known(folder)

def test_readers_are_not_asked_to_load_more(tool):
    assert tool.megabytes({'0.bin': bytes(2_000_000), '1.bin': bytes(3_000_000)}, tool.MOST['prompts']) == 5
    with pytest.raises(tool.UserError, match='2 files have 5.1 MB, and 5.0 are the most'):
        tool.megabytes({'0.bin': bytes(2_100_000), '1.bin': bytes(3_000_000)}, tool.MOST['prompts'])
    with pytest.raises(tool.UserError, match='codes-1.bin has 30.1 MB, and 30.0 are'):
        tool.megabytes({'codes-0.bin': b'', 'codes-1.bin': bytes(30_100_000)}, tool.MOST['any_prompt'])

def test_nothing_is_written_if_it_is_too_much(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(tool, 'SITE', tmp_path/'play')
    monkeypatch.setitem(tool.MOST, 'prompts', 1e5)
    prepared = tool.prepared
    monkeypatch.setattr(tool, 'prepared', lambda data, n: prepared(data, 2))
    with pytest.raises(tool.UserError, match='MB, and 0.1 are the most'): tool.play([])
    assert not (tmp_path/'play').exists()

def test_a_page_that_cannot_be_written_leaves_the_old_one(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(tool, 'SITE', tmp_path/'play')
    monkeypatch.setattr(tool, 'any_prompt', lambda data: (None, {}))
    (tmp_path/'play'/'data').mkdir(parents=True)
    (tmp_path/'play'/'data'/'0.bin').write_bytes(b'old')
    (tmp_path/'page').mkdir()
    (tmp_path/'page'/'gone.js').symlink_to(tmp_path/'nowhere')
    monkeypatch.setattr(tool, 'PAGE', tmp_path/'page')
    with pytest.raises(OSError) as e: tool.play([])
    assert _remedy(e.value) and (tmp_path/'play'/'data'/'0.bin').read_bytes() == b'old'

@given(numbers=st.lists(st.integers(0, 2**40)))
def test_numbers_of_variable_length(numbers):
    found, n, shift = [], 0, 0
    for byte in _varints(numbers):
        n, shift = n | (byte & 127) << shift, shift + 7
        if byte < 128: found, n, shift = [*found, n], 0, 0
    assert found == numbers

SCRIPT = """
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
const [folder] = process.argv.slice(2), data = name => readFileSync(`${folder}/data/${name}`)
const { decode, inTokens } = await import(`${folder}/read.js`)
const { counted, predict } = await import(`${folder}/rule.js`)
const contents = JSON.parse(data('contents.json')), whole = gunzipSync(data('text.bin')).toString()
const text = inTokens(whole, contents)
const found = contents.prompts.map((p, i) => {
  const prompt = decode(gunzipSync(data(`${i}.bin`)), contents, text), says = {}
  for (const name of ['nearest', 'tuned', 'article']) for (const itself of [false, true]) {
    const { says: p, blocks } = predict(prompt, contents, contents[name], itself)
    says[`${name} ${itself}`] = { says: [...p], n: blocks.map(b => b.n), shares: blocks.map(b => b.share) }
  }
  const strings = prompt.lists[4].map(s => [whole.slice(s.place, s.place + 10), s.cosine, s.next])
  const above = prompt.above.map((_, b) => contents.edges.map(t => counted(prompt, contents, b, t, false)))
  const edges = above.map(block => block.map(({ n, counts }) => [n, ...counts]))
  return { model: [...prompt.model], says, strings, edges }
})
console.log(JSON.stringify(found))
"""

@pytest.fixture(scope='module')
def in_javascript(site, tmp_path_factory):
    if not NODE: pytest.skip('needs Node.js, to run what a browser would run')
    folder, _ = site
    script = tmp_path_factory.mktemp('node')/'ask.mjs'
    script.write_text(SCRIPT, encoding='utf-8')
    (folder/'package.json').write_text('{"type": "module"}', encoding='utf-8')
    done = subprocess.run([NODE, script, folder], capture_output=True, text=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

@pytest.mark.parametrize('itself', [False, True])
def test_thresholds_are_those_of_the_package(site, in_javascript, itself):
    play = site[1]
    own = play.counts[play.own].to_dense()
    for name, rule in dict(tuned=tuned_approximation(play.model), article=article_approximation()).items():
        at = [play_edges(site).index(t) for t in rule.thresholds]
        counts = play.above[0][range(6), at] + itself*own
        expected, _ = rule(counts, play.unigram)
        says = [found['says'][f'{name} {str(itself).lower()}'] for found in in_javascript]
        assert torch.allclose(torch.tensor([s['says'] for s in says]).double(), expected, atol=1e-6)
        assert torch.equal(torch.tensor([s['n'] for s in says]), play.above[1][range(6), at].T + itself)
        _, shares = rule.parts(counts)
        assert torch.allclose(torch.tensor([s['shares'] for s in says]).double(), shares.T, atol=1e-6)

def test_every_edge_is_exact(site, in_javascript):
    "of every block, for every prompt: how many strings, and what follows them"
    counts, n = site[1].above
    expected = torch.cat([n.long()[..., None], counts.to_dense().long()], -1).permute(2, 0, 1, 3)
    found = torch.tensor([found['edges'] for found in in_javascript])
    assert found.shape[1:3] == (6, 40) and torch.equal(found, expected)

def play_edges(site) -> list: return site[1].contents['edges']

def test_nearest_strings_are_those_of_the_package(site, in_javascript):
    play = site[1]
    says = torch.tensor([found['says']['nearest false']['says'] for found in in_javascript]).double()
    model = torch.tensor([found['model'] for found in in_javascript]).double()
    assert (model - play.probs).abs().max() < 1e-5
    assert (hellinger(says, play.probs) - play.distances).abs().max() < 2e-3

def test_strings_cosines_and_what_follows(site, in_javascript):
    play = site[1]
    found = Vote(4, False).nearest(play.queries, play.index.keys, _N_LISTED, play.own)
    for rows, cosines, there in zip(found.rows, found.cosines, in_javascript):
        listed = {string: (near, following) for string, near, following in there['strings']}
        assert len(listed) == len(rows)
        for cosine, (_, near, _) in zip(cosines.tolist(), there['strings']): assert abs(near - cosine) < 1e-5
        # strings of nearly one cosine may change places, the last one with a string that is not listed
        for row, cosine in zip(rows.tolist(), cosines.tolist()):
            string = play.index.strings[play.index.ids[row]]
            if string not in listed and cosine <= cosines[-1] + 1e-5: continue
            near, following = listed[string]
            assert abs(near - cosine) < 1e-5
            assert following == [[c, n] for c, n in enumerate(play.counts[row].tolist()) if n]

MODEL = """
import { readFileSync } from 'node:fs'
const [folder, weights, texts] = process.argv.slice(2), { Model } = await import(`${folder}/model.js`)
const { buffer, byteOffset, length } = readFileSync(weights)
const model = new Model(buffer.slice(byteOffset, byteOffset + length))
console.log(JSON.stringify(JSON.parse(texts).map(text => [...model.next(model.tokens(text))])))
"""

LONGER = pytest.mark.slow('a quarter of a minute; 257 characters are more than it can see, too')

@pytest.mark.parametrize('lengths', [(257,), pytest.param((300, 301), marks=LONGER)])
def test_the_model_in_the_page_is_the_model(site, in_javascript, tmp_path, lengths):
    "also when it goes on, goes back, and has read more than it can see"
    folder, play = site
    text = play.corpus.text
    texts = ['T', 'To', 'To be', 'To bed', 'To be', 'And only l', '\n', *(text[:n] for n in lengths)]
    script = tmp_path/'ask.mjs'
    script.write_text(MODEL, encoding='utf-8')
    done = subprocess.run([NODE, script, folder, WEIGHTS, json.dumps(texts)], capture_output=True, text=True,
                          encoding='utf-8')
    assert done.returncode == 0, done.stderr
    for text, found in zip(texts, json.loads(done.stdout), strict=True):
        tokens = play.model.tokenizer.encode(text[-play.model.config.block_size:])
        expected = next_char_probs(play.model, tokens[None])[0].double()
        assert (torch.tensor(found).double() - expected).abs().max() < 1e-4

COMPACT = """
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
const [folder, prompts] = process.argv.slice(2), page = name => import(`${folder}/${name}.js`)
const { Model, tensorsOf } = await page('model'), { Keys } = await page('keys')
const { Search } = await page('search')
const { predict } = await page('rule'), data = name => Uint8Array.from(readFileSync(`${folder}/data/${name}`))
const contents = JSON.parse(readFileSync(`${folder}/data/contents.json`)), { compact } = contents
const [weights, tensors, ...codes] = Object.keys(compact.sizes).map(data), [{ block }] = compact.rule.votes
const text = gunzipSync(data('text.bin')).toString()
const model = new Model(weights.buffer), keys = new Keys(model, 16)
const search = new Search(compact, tensorsOf(tensors.buffer).tensors, codes, text, contents.chars)
const of = strings => keys.of(strings.map(s => model.tokens(s)), block)
console.log(JSON.stringify(JSON.parse(prompts).map(prompt => {
  const some = search.begin(prompt, of([prompt])[0]), found = search.end(some, of(some.map(s => s.string)))
  const strings = found.votes[0].map(s => [text.slice(s.place, s.place + 10), s.cosine, s.exact, s.next])
  return { strings, own: found.own, says: [...predict(found, contents, compact.rule, false).says] }
})))
"""

def test_the_compact_index_in_the_page_is_that_of_the_package(site, in_javascript, tmp_path):
    folder, play = site
    prompts = ['And only l', 'xylophone ', play.prompts[0]]
    script = tmp_path/'ask.mjs'
    script.write_text(COMPACT, encoding='utf-8')
    done = subprocess.run([NODE, script, folder, json.dumps(prompts)], capture_output=True, text=True,
                          encoding='utf-8')
    assert done.returncode == 0, done.stderr
    compact, own = compact_index(play.index, progress=False), play.rows(prompts)
    off = 1e-4 if play.index.identity['arithmetic'] == 'float32' else 5e-3 # the page computes in float32
    expected = compact.nearest(play.index.queries(prompts), own)
    [says], _ = compact.rule.parts(vote(expected, play.counts, compact.vote.beta)[None])
    for row, says, rows, cosines, there in zip(own, says, *expected, json.loads(done.stdout), strict=True):
        found = {string: (cosine, exact, following) for string, cosine, exact, following in there['strings']}
        assert len(found) == compact.rule.k and sum(exact for _, exact, _ in found.values()) == compact.again
        strings = [play.index.strings[i] for i in play.index.ids[rows]]
        assert set(strings[:compact.again]) <= found.keys() and len(set(strings) - found.keys()) < 5
        for string, cosine, i in zip(strings, cosines.tolist(), rows):
            if string not in found: continue # at the edge, where the last digit decides
            assert abs(found[string][0] - cosine) < off
            assert found[string][2] == [[c, n] for c, n in enumerate(play.counts[i.item()].tolist()) if n]
        assert hellinger(torch.tensor(there['says']).double(), says) < 1e-3
        assert bool(there['own']) == (row >= 0)

@pytest.fixture(scope='module')
def address(site):
    with served(site[0]) as server: yield f'{server}/index.html'

@pytest.fixture
def view(browser, address):
    "A page that has loaded; at the end it must not have complained, nor asked another host for anything."
    made, complaints = [], []
    def go(at='', **options):
        view = browser.new_context(**options).new_page()
        view.on('console', lambda m: m.type == 'error' and complaints.append(m.text))
        view.on('pageerror', lambda e: complaints.append(str(e)))
        ours = address.removesuffix('index.html'), 'data:'
        view.on('request', lambda r: r.url.startswith(ours) or complaints.append(r.url))
        view.goto(address + at)
        view.wait_for_selector('#main:not([aria-busy])')
        made.append(view)
        return view
    yield go
    for view in made: view.context.close()
    assert complaints == []

def distance(view) -> float: return float(view.text_content('#distance'))

def move(view, label, value):
    "Move a slider as an arrow key would, far."
    view.get_by_label(label, exact=True).evaluate(
        "(e, v) => { e.value = v; ['input', 'change'].forEach(n => e.dispatchEvent(new Event(n))) }", value)
    view.evaluate('() => new Promise(requestAnimationFrame)')

@pytest.mark.parametrize('width, scheme', [(390, 'light'), (390, 'dark'), (1280, 'light')])
def test_first_sight(view, width, scheme):
    page = view(viewport=dict(width=width, height=844), color_scheme=scheme)
    assert page.text_content('#prompt') == 'And only l' and page.locator('#bars tr').count() == 8
    for rule in 'above thresholds', "the article's thresholds", 'the nearest':
        page.get_by_role('button', name=rule, exact=True).click()
        page.wait_for_selector('#main:not([aria-busy])')
        assert page.evaluate('document.documentElement.scrollWidth') <= width

def test_pick_type_drag_share_and_go_back(view, site, address):
    page, first = view(), site[1].prompts[0].replace('\n', '↵')
    page.fill('#search', first)
    page.press('#search', 'Enter')
    shown = 'document.querySelector("#prompt").textContent'
    page.wait_for_function(f'text => {shown}.replaceAll("␣", " ") === text', arg=first)
    assert abs(distance(page) - site[1].distances[0].item()) < 2e-3
    before = distance(page)
    move(page, 'strings', 10)
    assert distance(page) != before and 'k=10' in page.url
    again = view(page.url.removeprefix(address)) # as if it had been shared
    assert distance(again) == distance(page) and again.text_content('#prompt') == page.text_content('#prompt')
    page.go_back()
    page.wait_for_function(f'{shown} === "And only l"')

def test_thresholds_in_the_page(view, site):
    page = view('#p=57&rule=tuned')
    play, rule = site[1], tuned_approximation(site[1].model)
    i = play.prompts.index('And only l')
    for block, threshold in (0, .95), (4, .7):
        move(page, f'block {block}, threshold', threshold)
        at = [play_edges(site).index(t) for t in rule.thresholds]
        at[block] = play_edges(site).index(threshold)
        p, _ = rule(play.above[0][range(6), at][:, [i]], play.unigram)
        assert abs(distance(page) - hellinger(p, play.probs[[i]]).item()) < 1e-3
        move(page, f'block {block}, threshold', rule.thresholds[block])

def test_what_makes_no_sense_is_as_usual(view):
    usual = distance(view())
    for at in '#p=nobody', '#p=57&k=-3&beta=x+y&share=9+9&block=77', '#p=57&rule=%00&t=1', '#%%%':
        page = view(at)
        assert distance(page) == usual and 'could not be read' in page.text_content('#about')

def test_a_text_the_model_never_saw(view, site):
    "is the hardest of the prompts that its training left out"
    page, play = view(), site[1]
    left_out = [i for i, p in enumerate(play.prompts)
                if play.corpus.text.find(p) >= len(play.corpus.split()[0])]
    hardest = max(left_out, key=lambda i: play.distances[i])
    page.get_by_role('button', name='A text the model never saw').click()
    shown = 'document.querySelector("#prompt").textContent'
    text = play.prompts[hardest].replace('\n', '↵').strip()
    page.wait_for_function(f'text => {shown}.replaceAll("␣", " ").trim() === text', arg=text)
    assert abs(distance(page) - play.distances[hardest].item()) < 2e-3

@pytest.mark.parametrize('width, scheme', [(390, 'dark'), (760, 'light')])
def test_within_another_page(view, site, width, scheme):
    "answer and sliders alone, as tall as they are, light or dark as the page around"
    frame = '<iframe src="index.html?heart" width="100%">'
    icon = '<link rel="icon" href="data:,">'
    around = f'{icon}<body class="quarto-{scheme}"><main id="main">around</main>{frame}'
    (site[0]/'around.html').write_text(around, encoding='utf-8')
    page = view('/../around.html', viewport=dict(width=width, height=900))
    within = page.frames[1]
    within.wait_for_selector('#main:not([aria-busy])')
    assert within.text_content('#prompt') == 'And only l' and not within.locator('#strings').is_visible()
    before, dark = distance(within), "getComputedStyle(document.body).backgroundColor === 'rgb(27, 27, 29)'"
    move(within, 'strings', 10)
    assert distance(within) != before and within.evaluate(dark) == (scheme == 'dark')
    assert '&k=10' in within.get_attribute('#all', 'href')
    page.evaluate("document.body.className = 'quarto-light'")
    within.wait_for_function(f'!({dark})')
    within.wait_for_function('Math.abs(innerHeight - document.body.offsetHeight) < 2')
    assert within.evaluate('document.documentElement.scrollWidth') <= width

def test_without_a_network_once_it_has_loaded(view):
    page = view()
    loaded = 'performance.getEntriesByType("resource").filter(r => r.name.endsWith(".bin")).length'
    page.wait_for_function(f'{loaded} > 30')
    page.context.set_offline(True)
    page.get_by_role('button', name='the harder prompt after').click()
    page.wait_for_selector('#main:not([aria-busy])')
    assert page.text_content('#prompt') != 'And only l'

def test_by_keyboard(view):
    page = view('#p=57&rule=tuned')
    slider = page.get_by_label('block 4, threshold', exact=True)
    before = slider.input_value()
    slider.focus()
    page.keyboard.press('ArrowRight')
    assert float(slider.input_value()) == pytest.approx(float(before) + .01)
    page.get_by_role('button', name='One block is not enough').press('Enter')
    page.wait_for_function("document.querySelector('#strings-text').textContent.startsWith('Block 0')")
    entry = page.locator('#list button').first
    entry.press('Enter')
    assert entry.get_attribute('aria-expanded') == 'true' and page.locator('#list .whole').count() == 1

def test_by_touch(view):
    "what is to be tapped is large enough, and a string opens"
    page = view(viewport=dict(width=390, height=844), has_touch=True, is_mobile=True)
    shown = "[...document.querySelectorAll('button, input, textarea')].filter(e => e.offsetParent)"
    assert min(page.evaluate(f'{shown}.map(e => e.getBoundingClientRect().height)')) >= 24
    page.locator('#list .right').first.tap()
    assert page.locator('#list .whole').count() == 1

def test_what_is_heard(view):
    "each control with its value, each picture in words, and changes once they rest, not at each step"
    page = view('#p=57&rule=tuned')
    slider = page.get_by_role('slider', name='block 4, threshold', exact=True)
    assert slider.get_attribute('aria-valuetext').startswith('cosine 0.')
    row = page.get_by_role('table', name='The likeliest next characters').get_by_role('row').first
    assert 'the model ' in row.text_content() and 'counted ' in row.text_content()
    picture = page.get_by_role('img', name='block 4, strings at each cosine: ')
    assert picture.get_attribute('aria-label').count('above') == 5
    page.wait_for_function("heard.textContent.startsWith('Hellinger distance')")
    assert 'block 4 says: ' in page.locator('.says').nth(4).get_attribute('aria-label')
    page.evaluate("window.said = 0; new MutationObserver(() => said++).observe(heard, { childList: true })")
    slider.focus()
    for _ in range(8): page.keyboard.press('ArrowRight')
    page.wait_for_timeout(900)
    assert page.evaluate('said') == 1
    assert f'distance {page.text_content("#distance")}' in page.text_content('#heard')
    assert not page.locator('output').count() # each would be announced at each step
    live = "[...document.querySelectorAll('[role=status]')].map(e => e.id)"
    assert {'about', 'heard', 'typing-message'} <= set(page.evaluate(live))

def test_the_list_is_one_stop(view):
    page = view()
    first = page.get_by_role('button', name='cosine 0.').first
    first.focus()
    page.keyboard.press('ArrowDown')
    assert page.evaluate("document.activeElement.closest('li').previousSibling.previousSibling === null")
    assert page.locator('#list [tabindex="0"]').count() == 1
    page.keyboard.press('Tab')
    assert page.evaluate("document.activeElement.closest('section').id") == 'typing'
    row = page.locator('#list li').nth(3)
    row.locator('.right').hover()
    assert len(row.get_attribute('title')) > 10 # the line of the play

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_colours_stand_out(view, scheme):
    "from what is behind them by 3 to 1, and from each other in lightness, which nobody mistakes"
    style = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"
    page = view(color_scheme=scheme)
    def light(name):
        hexed = page.evaluate(style, name).lstrip('#')
        hexed = hexed if len(hexed) == 6 else ''.join(2*c for c in hexed)
        linear = [c/12.92 if c <= .04045 else ((c + .055)/1.055)**2.4
                  for c in (int(hexed[i:i+2], 16)/255 for i in (0, 2, 4))]
        return sum(w*c for w, c in zip((.2126, .7152, .0722), linear)) + .05
    def contrast(a, b): return max(light(a)/light(b), light(b)/light(a))
    for front in '--model', '--ours', '--edge':
        for back in '--panel', '--back': assert contrast(front, back) >= 3, (front, back)
    assert contrast('--model', '--ours') > 1.5

@pytest.mark.parametrize('name, button, where', [
    ('codes-0.bin', '#load-index', '#index-message'),
    ('model.safetensors', '#load-model', '#typing-message')])
def test_a_file_that_is_cut(view, site, name, button, where):
    "is said to be; before, a cut index gave wrong strings"
    page = view()
    whole = (site[0]/'data'/name).read_bytes()
    page.route(f'**/{name}', lambda route: route.fulfill(status=200, body=whole[:len(whole)//2]))
    page.locator(button).click()
    said = f'{name} came damaged or in part'
    page.wait_for_function(f"document.querySelector('{where}').textContent.includes('{said}')")
    page.unroute(f'**/{name}')
    page.locator(button).click()
    page.wait_for_function(f"document.querySelector('{button}').hidden")

def test_a_prompt_that_is_far_too_long(view):
    page = view()
    page.locator('#load-index').click()
    page.wait_for_function("document.querySelector('#load-index').hidden")
    long = 'And only l '*90_000
    page.evaluate("text => { search.value = text; search.dispatchEvent(new Event('change')) }", long)
    page.wait_for_function("document.querySelector('#prompt').textContent.length === 200")
    assert len(page.url) < 1000

def test_type_anything(view, site):
    page = view()
    page.get_by_role('button', name='Load the model').click()
    page.wait_for_selector('#typed-bars tr')
    page.fill('#typed', 'And only l')
    play = site[1]
    p = next_char_probs(play.model, play.model.tokenizer.encode('And only l')[None])[0]
    rows = [row.split() for row in page.locator('#typed-bars tr').all_inner_texts()]
    assert rows[0][0] == play.model.tokenizer.chars[p.argmax()] and rows[0][1] == f'{p.max():.0%}'
    page.fill('#typed', 'Ça va')
    assert 'never seen ‘Ç’' in page.text_content('#typing-message')
    assert not page.locator('#typed-bars tr').count()
    page.fill('#typed', 'ROMEO:\nWhat xylophone')
    page.get_by_role('button', name='Find its strings').click()
    assert '“ xylophone” is no prepared prompt' in page.text_content('#about')
    page.fill('#typed', 'ROMEO:')
    page.get_by_role('button', name='Let it write on').click()
    page.wait_for_function("document.querySelector('#typed').value.length > 12")
    page.get_by_role('button', name='Stop').click()
    assert page.input_value('#typed').startswith('ROMEO:')

def ask(page, text):
    page.fill('#search', text)
    page.press('#search', 'Enter')

def check_said(page, answers): # text → what the page says of it
    about = 'document.querySelector("#about").textContent'
    for text, message in answers.items():
        ask(page, text)
        page.wait_for_function(f'message => {about}.includes(message)', arg=message)

def test_any_prompt(view, site, address):
    "by the compact index, which is loaded when it is asked for"
    page, compact = view(), compact_index(site[1].index, progress=False)
    check_said(page, {'xylophone ': 'Load the index', 'too short': 'give 10', 'Ça va, mon ami': '‘Ç’'})
    ask(page, 'xylophone ')
    page.locator('#load-index').click()
    shown = 'text => document.querySelector("#prompt").textContent === text'
    page.wait_for_function(shown, arg='xylophone␣')
    assert 'do not have it' in page.text_content('#about') and page.locator('#approximate').is_visible()
    queries = site[1].index.queries(['xylophone '])
    found = compact.nearest(queries, torch.tensor([-1]))
    [says], _ = compact.rule.parts(vote(found, site[1].counts, compact.vote.beta)[None])
    p = next_char_probs(site[1].model, site[1].model.tokenizer.encode('xylophone ')[None])
    assert abs(distance(page) - hellinger(says, p).item()) < 2e-3
    cosines = [float(x) for x in page.locator('#list button').all_inner_texts()]
    assert len(cosines) == compact.again and cosines[0] == pytest.approx(found.cosines[0, 0].item(), abs=1e-3)
    check_said(page, {'too short': 'give 10'})
    page.get_by_role('button', name='the harder prompt after').click()
    page.wait_for_function('!document.querySelector("[data-rule=tuned]").disabled')
    page.go_back()
    page.wait_for_function(shown, arg='xylophone␣')
    again = view(page.url.removeprefix(address)) # as if it had been shared
    assert 'Load the index' in again.text_content('#about')

SERVER = 'from shakespeare_ffn.explore import main; main()'

@pytest.fixture
def server(start):
    "The command, started; its address."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    process = start(SERVER, '--port', port)
    for line in process.stderr:
        if 'shows the page' in line: break
    yield process, f'http://127.0.0.1:{port}/'

def get(url, **headers) -> bytes:
    with urlopen(Request(url, headers=headers), timeout=120) as response: return response.read()

def test_a_server_for_any_prompt(server, site):
    "for many at once; its answers are those of the files; it ends when it is interrupted"
    process, address = server
    prompts = [*site[1].prompts[:5], 'xylophone ', 'zebra zebr']*10
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda p: get(f'{address}data/ask.bin?{urlencode(dict(prompt=p))}'), prompts))
    assert answers[:5] == [(site[0]/'data'/f'{i}.bin').read_bytes() for i in range(5)]
    assert answers == answers[:7]*10
    with pytest.raises(HTTPError, match='403'): get(address, Host='evil.example')
    with pytest.raises(HTTPError, match='400'): get(f'{address}data/ask.bin?prompt=short')
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0

def test_a_port_that_is_taken(start, new_cache):
    "is said before an index is built, which may take long"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        process = start(SERVER, '--port', s.getsockname()[1])
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and 'give another --port' in err and 'Traceback' not in err
    assert not (new_cache/'keys').exists()

@pytest.mark.parametrize('port', [-1, 0, 65536, 99999])
def test_a_port_that_is_none(capsys, port):
    with pytest.raises(SystemExit): main(['--port', str(port)])
    assert 'from 1 to 65,535' in capsys.readouterr().err

def test_ask_in_the_page(server, browser, site):
    page, requests = browser.new_context().new_page(), []
    page.on('request', lambda r: requests.append(r.url))
    page.goto(server[1])
    page.wait_for_selector('#main:not([aria-busy])')
    check_said(page, {'xylophone ': 'do not have it', 'too short': 'characters; give 10'})
    check_said(page, {'And only l': 'once'})
    assert page.text_content('#prompt') == 'And only l'
    page.fill('#search', 'quoth the raven')
    page.press('#search', 'Enter')
    page.wait_for_function('document.querySelector("#prompt").textContent.startsWith("quoth")')
    shared = page.url
    page.goto('about:blank')
    page.goto(shared)
    page.wait_for_selector('#main:not([aria-busy])')
    assert page.text_content('#prompt') == 'quoth the raven'
    assert not page.locator('#load-model').is_visible() # the server says what comes next
    page.fill('#typed', 'And only l')
    p = next_char_probs(site[1].model, site[1].model.tokenizer.encode('And only l')[None])[0]
    first = f'{site[1].model.tokenizer.chars[p.argmax()]} {p.max():.0%}'
    shown = 'document.querySelector("#typed-bars tr").innerText.split(/\\s+/).join(" ")'
    page.wait_for_function(f'first => {shown} === first', arg=first)
    page.fill('#typed', 'Ça va')
    page.wait_for_function('document.querySelector("#typing-message").textContent.includes("Ç")')
    assert not any(url.endswith('.safetensors') for url in requests)
    page.context.close()

def test_another_rule_has_another_compact_index(site, monkeypatch):
    "in a vote of centred vectors, say, once tuning has chosen it"
    def of(rule):
        monkeypatch.setattr(compact_module, 'nearest_approximation', lambda model: rule)
        return compact_index(site[1].index, progress=False)
    rule = site[1].data.rule
    plain, centred = of(rule), of(replace(rule, votes=(Vote(4, True, 20.),)))
    assert not torch.equal(plain.codes, centred.codes)
    asked = centred.keys.float() - centred.minus
    told = centred.codebook.decode(centred.codes[:500])
    assert torch.cosine_similarity(told, asked[:500]).mean() > .8

def test_what_no_compact_index_is_made_of(site):
    with pytest.raises(UserError, match='7 bytes do not divide'): compact_index(site[1].index, 7)
    few = corpus_index(site[1].corpus, site[1].model, 1, quiet=True)
    with pytest.raises(UserError, match='needs 256 strings, and there are 65'): compact_index(few)

def asked_of(site, names, **environ):
    "What an application that is known by some names answers."
    said, app = [], Application(site[1].data, names)
    environ = dict(PATH_INFO='/', REQUEST_METHOD='GET', QUERY_STRING='') | environ
    content = b''.join(app(environ, lambda status, headers: said.append(status)))
    return said[0][:3], content.decode(errors='replace')

@pytest.mark.parametrize('host, status', [
    ('[::1]', '200'), ('[::1]:8765', '200'), ('LOCALHOST:8765', '200'), ('my.machine', '200'),
    ('my.machine:', '200'), ('localhost:evil', '403'), ('', '403'), ('::1', '403')])
def test_names_of_the_host(site, host, status):
    assert asked_of(site, {'localhost', '[::1]', 'My.Machine'}, HTTP_HOST=host)[0] == status

def test_a_host_is_told_in_signs(site):
    assert asked_of(site, {'localhost'}, HTTP_HOST='x\x1b[31m') == ('403', 'this is not x␛[31m')

def test_a_prompt_in_another_encoding(site):
    asks = dict(HTTP_HOST='localhost', PATH_INFO='/data/ask.bin', QUERY_STRING='prompt=%ff')
    assert asked_of(site, {'localhost'}, **asks) == ('400', 'the prompt is not UTF-8')

LINE = """
const [folder, asks] = process.argv.slice(2), { line } = await import(`${folder}/show.js`)
console.log(JSON.stringify(JSON.parse(asks).map(([text, begin, end]) => line(text, begin, end))))
"""

def test_the_line_of_a_string_is_told_in_signs(site, in_javascript, tmp_path):
    "and in a text of a single line, no more than surrounds it"
    odd = 'before\nx\u202e<b>\x1b$\\\ufeff\ty\nbehind'
    asks = [(odd, 9, 10), (odd, 5, 9), (odd, 0, 1), ('\nab', 0, 2), (9000*'ab', 5000, 5010), ('', 0, 0)]
    script = tmp_path/'ask.mjs'
    script.write_text(LINE, encoding='utf-8')
    done = subprocess.run([NODE, script, site[0], json.dumps(asks)], capture_output=True, text=True,
                          encoding='utf-8')
    assert done.returncode == 0, done.stderr
    signs = 'x⟨U+202E⟩<b>␛$\\⟨U+FEFF⟩⇥y'
    *found, one_line, nothing = json.loads(done.stdout)
    assert found == [signs, f'before\n{signs}', 'before', '\nab']
    assert one_line == f'…{505*"ab"}…' and nothing == ''
