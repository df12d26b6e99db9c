"""Whatever comes from a text or a prompt is data.

On a terminal, in HTML, in JSON, in a figure, in a message, in any locale."""
import ast, gc, html, json, os, re, subprocess, sys, tracemalloc, unicodedata, warnings, weakref
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from unittest import mock
import matplotlib.pyplot as plt, nbformat, pytest, torch
from hypothesis import Phase, assume, given, settings, strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib.texmanager import TexManager
from shakespeare_ffn import explain as module
from shakespeare_ffn.cosine_sims import SparseCounts
from shakespeare_ffn.core import UserError, code_span, quoted, show_char, show_lines, show_text
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import CharTokenizer, Corpus, Substrings, load_corpus, note_line_ends
from shakespeare_ffn.explain import BlockExplanation, Explanation, SimilarString, explain, main, _run_explain
from shakespeare_ffn.explain import cache_main, _typed
from shakespeare_ffn.model import Config, Transformer, load_model, save_model
from shakespeare_ffn.text_analysis import _drawable, next_counts, plot_next

ROOT = Path(__file__).resolve().parents[1]
NASTY = ('\n\r\t\x00\x1b\x7f\x85\x9b $`|\\<>&"\'{}^_%#*~␣↵⇥␍␛⟨⟩◌█▏'
         '\xa0\xad\u0301\u0338\u0489\u200b\u200d\u200e\u200f\u2028\u2029\u202a\u202e'
         '\u2066\u2069\ufe0f\ufeff\ufffd\ufffe\ufff9\u3164\u2800\u0378\ue000'
         '\ud800\udcff\U000e0041\U0001f600\U0010ffff中אعก๎é')
any_char = st.sampled_from(NASTY) | st.integers(0, 0x10ffff).map(chr)

def raw(text: str) -> list:
    """What must not be sent to a terminal or a browser.

    Controls, formats, surrogates, what is not assigned; separators and blanks but a space."""
    return [ascii(c) for c in text if unicodedata.category(c)[0] in 'CZ' and c != ' ']

def test_no_two_characters_look_the_same():
    points = [*range(0x32400), *range(0xe0000, 0xe0400), 0xfffff, 0x10ffff] # between them there is nothing
    shown = [show_char(chr(i)) for i in points]
    assert len(set(shown)) == len(shown)
    assert raw(''.join(shown)) == [] and ' ' not in shown
    # an accent on a circle, the rest by numbers
    assert all(len(s) > 1 for s in map(show_char, '\u0301\u200b\ufe0f\u3164\ue000'))

@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from('a \u0301◌⟨⟩\n↵␣\u200b') | any_char, max_size=5).map(''.join),
       st.lists(st.sampled_from('a \u0301◌⟨\n↵'), max_size=5).map(''.join))
def test_no_two_texts_look_the_same(a, b):
    assert (show_text(a) == show_text(b)) == (a == b)
    assert raw(show_text(a)) == [] and show_text(show_text(a), signed=True) == show_text(a)
    # nothing joins what stands before a text
    assert not unicodedata.category((show_text(a) + 'x')[0]).startswith('M')

@given(st.lists(any_char | st.sampled_from('a\n↵◌'), max_size=20).map(''.join))
def test_lines_for_a_terminal_hold_nothing_raw(text):
    shown = show_lines(text)
    assert raw(shown.replace('\n', '')) == [] and shown.count('\n') == text.count('\n')
    assert show_lines(shown) == shown

@st.composite
def explanations(draw, n_blocks=st.integers(1, 4)):
    "An explanation over any alphabet, as a model would have made it."
    chars = draw(st.lists(any_char, min_size=1, max_size=9, unique=True))
    text = ''.join(draw(st.lists(st.sampled_from(chars), min_size=6, max_size=60)))
    corpus = Corpus(text, CharTokenizer(''.join(sorted(set(text)))), 'f'*64)
    length, vocab_size = draw(st.integers(1, 5)), len(corpus.tokenizer)
    weights = draw(st.lists(st.integers(1, 9), min_size=vocab_size, max_size=vocab_size))
    p = {c: w/sum(weights) for c, w in zip(corpus.tokenizer.chars, weights)}
    p = dict(sorted(p.items(), key=lambda item: -item[1]))
    def block(b):
        at = draw(st.integers(0, len(text)-length))
        following = {c: 1 for c in text[at+length:at+length+1]} # none at the end of the text
        similar = SimilarString(text[at:at+length], 1., 1., following, [at])
        return BlockExplanation([b], 'cosine above 0.9', .5, 1, [similar], {text[0]: 3}, {text[0]: 1.})
    blocks = [block(b) for b in range(draw(n_blocks))]
    empty = draw(st.booleans())
    return Explanation(text[:5], length, 'smoke', 'f'*64, .5, empty, p, p, blocks, corpus, 'given')

@settings(max_examples=60, deadline=None)
@given(explanations())
def test_a_terminal_gets_signs(e):
    text = str(e)
    assert raw(text.replace('\n', '')) == [] and quoted(e.explained, 256) in text.split('\n')[0]
    lines = text.split('\n')
    begin = next(i for i, line in enumerate(lines) if line.startswith('next ')) + 1
    rows = [line.split()[0] for line in lines[begin:lines.index('', begin)]]
    assert rows == [show_char(c) for c in module._rows_to_show(e)] and len(set(rows)) == len(rows)
    for encoding in 'ascii', 'latin-1', 'cp1252', 'utf-8': # each character remains another one
        coded = [show_char(c).encode(encoding, 'spell_out') for c in e.corpus.tokenizer.chars]
        assert len(set(coded)) == len(coded)
        text.encode(encoding, 'spell_out')

class Page(HTMLParser):
    "Its tags with their attributes, and the text that stands directly in each."
    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)
        self.close()
    def handle_starttag(self, tag, attrs):
        self.open.append(len(self.tags))
        self.tags.append((tag, attrs))
        self.texts.append('')
    def handle_endtag(self, tag): assert self.tags[self.open.pop()][0] == tag
    def handle_data(self, data): self.texts[self.open[-1]] += data
    def text(self, tag): return [text for (t, _), text in zip(self.tags, self.texts) if t == tag]

@settings(max_examples=60, deadline=None)
@given(explanations())
def test_html_shows_the_same_text(e):
    page = Page(e._repr_html_())
    assert page.open == [] and raw(e._repr_html_().replace('\n', '')) == []
    assert {tag for tag, _ in page.tags} <= {'div', 'h4', 'code', 'p', 'b', 'table', 'tr', 'th', 'td',
                                             'details', 'summary', 'pre'}
    assert {name for _, attrs in page.tags for name, _ in attrs} <= {'style', 'class', 'dir', 'open'}
    assert page.text('code') == [show_text(e.explained)]
    assert page.text('td')[::4] == [show_char(c) for c in module._rows_to_show(e)]
    lines = [module._block_lines(b, e)[2:] for b in e.blocks]
    assert page.text('pre') == ['\n'.join(some) for some in lines]
    # Jupyter looks for formulas in HTML, too
    assert 'mathjax_ignore' in dict(page.tags[0][1])['class'].split()

@settings(max_examples=30, deadline=None)
@given(explanations())
def test_json_is_ascii_and_exact(e):
    # JSON takes two surrogates for one character; no file holds them
    assume(not re.search('[\ud800-\udbff][\udc00-\udfff]', e.corpus.text))
    names = 'load_model', 'load_corpus', 'check_prompt', '_chosen_approximation'
    quiet = dict.fromkeys(names, mock.DEFAULT)
    with mock.patch.multiple(module, **quiet, explain=lambda *a, **k: e):
        line = _run_explain(['x', '--json'])
    assert line.isascii() and '\n' not in line
    assert json.loads(line) == e.to_dict()
    assert abs(sum(json.loads(line)['model'].values()) - 1) < 1e-9

@settings(max_examples=12, deadline=None, phases=[Phase.generate]) # each is drawn, which takes a while
@given(explanations(st.integers(1, 2)), st.sampled_from(['png', 'svg']))
def test_a_figure_draws_signs(e, kind):
    "No formula, no missing picture, no warning"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        figure = e.plot()
        figure.savefig(BytesIO(), format=kind)
    title = figure.axes[0].get_title()
    assert title == _drawable(f'{quoted(e.explained)}: Hellinger distance 0.500') and raw(title) == []
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert labels == [_drawable(show_char(c)) for c in dict.fromkeys(list(e.model)[:6])]
    assert len(set(labels)) == len(labels)
    ticks = [t for ax in figure.axes for t in ax.get_xticklabels()]
    assert not any(t.get_parse_math() for t in [figure.axes[0].title, *ticks])

def test_a_figure_asks_for_no_latex(tmp_path, capsys, monkeypatch):
    file = tmp_path/'figure.svg'
    monkeypatch.setattr(TexManager, 'make_dvi', None) # as where there is none
    with plt.rc_context({'text.usetex': True}): main(['To be', '--figure', str(file)])
    assert file.stat().st_size > 1000
    assert 'end its name in .png, .svg or .pdf' in refused(capsys, 'To be', '--figure', tmp_path/'figure.pgf')

def test_a_folder_is_named_by_signs(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(tmp_path/'a\x1b[31m\u202eb'))
    cache_main([])
    corpus_index(corpus, load_model(), 1)
    for said in capsys.readouterr(): # a bar begins its line again
        assert '[31m' in said and [raw(line) for line in re.split('[\r\n]', said) if raw(line)] == []

@pytest.mark.parametrize('text', ['$x$ and $y', r'$\frac{1}{', 'a$_$b$^$', '中\u0301\x1b$$'])
def test_dollars_are_no_formula(text):
    corpus = Corpus(text*3, CharTokenizer(''.join(sorted(set(text)))), '')
    p = torch.ones(len(corpus.tokenizer), dtype=torch.float64)/len(corpus.tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        figure = plot_next({'model': p}, corpus.tokenizer, 99, title=quoted(text))
        figure.savefig(BytesIO(), format='svg')
    assert figure.axes[0].get_title() == _drawable(quoted(text))

@given(st.lists(any_char, min_size=1, max_size=6).map(''.join))
def test_code_in_markdown(text):
    code, shown = code_span(text), ''.join(map(show_char, text))
    if code[0] == '`': assert code == f'`{shown}`' and not set('`|\\') & set(shown)
    else: assert html.unescape(code) == f'<code>{shown}</code>' and not set('`|\\$') & set(code)

@settings(max_examples=200, deadline=None)
@given(st.lists(any_char, min_size=1, max_size=400),
       st.lists(any_char, min_size=1, max_size=400).map(''.join))
def test_a_message_is_short_and_clean(vocabulary, prompt):
    tokenizer = CharTokenizer(''.join(dict.fromkeys(vocabulary)))
    try: assert tokenizer.decode(tokenizer.encode(prompt)) == prompt
    except UserError as e: assert len(str(e)) <= 300 and raw(str(e)) == []

def test_a_message_on_thousands_of_characters():
    tokenizer = CharTokenizer(''.join(map(chr, range(0x4e00, 0x4e00 + 4203))))
    with pytest.raises(UserError, match="'é' at position 2 .* 4203 characters") as e:
        tokenizer.encode('一丁é' + '一'*10**6)
    assert len(str(e.value)) <= 300

def refused(capsys, *args) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended: main([str(a) for a in args])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count('\n')) == (2, '', 1), err
    return err

@pytest.mark.parametrize('args', [['To be', '--text', 'no\x1b[31mwhere\n\u202e.txt'],
                                  ['To be', '--figure', '\x1b]0;title\x07.xyz'],
                                  ['To be', '--depth\x9b3J'],
                                  ['To\x1b be'],
                                  ['To be', '--top', 'x'*12_000]], ids=ascii)
def test_a_message_sends_nothing_raw(capsys, args):
    line = refused(capsys, *args)
    assert raw(line[:-1]) == [] and len(line) < 500

def test_a_message_shows_signs_once(capsys):
    assert "'⟨U+202E⟩' at position 2 of 'To⟨U+202E⟩'" in refused(capsys, 'To\u202e')

@pytest.mark.parametrize('given, meant', [(r'KING:\n', 'KING:\n'), (r'printf("\\n")', r'printf("\n")'),
                                          (r'\alpha \\nu', r'\alpha \nu'), (r'\\\n', '\\\n'),
                                          (r'C:\dir', r'C:\dir'), ('ends in \\', 'ends in \\'),
                                          (r'\\\\', r'\\')])
def test_backslashes_in_a_prompt(given, meant): assert _typed(given) == meant

@given(st.lists(any_char | st.sampled_from('\\n'), max_size=20).map(''.join))
def test_any_prompt_can_be_typed(prompt):
    "with each backslash doubled"
    if not re.search('[\udc80-\udcff]', prompt): assert _typed(prompt.replace('\\', '\\\\')) == prompt

def test_help_says_what_a_backslash_is(capsys):
    with pytest.raises(SystemExit): main(['--help'])
    assert r'\n is a newline and \\ a backslash' in capsys.readouterr().out.replace('\n', ' ')

def test_a_byte_order_mark_is_dropped_and_line_ends_get_a_word(tmp_path, capsys):
    (tmp_path/'marked.txt').write_bytes(b'\xef\xbb\xbfTo be,\nor not')
    (tmp_path/'windows.txt').write_bytes(b'To be,\r\nor not\r\n')
    assert load_corpus(tmp_path/'marked.txt').text == 'To be,\nor not' and capsys.readouterr().err == ''
    assert load_corpus(tmp_path/'windows.txt').text == 'To be,\r\nor not\r\n'
    assert re.search(r'windows.txt: 2 line ends .* kept', capsys.readouterr().err)

@pytest.fixture(scope='module')
def own_text(tmp_path_factory):
    "A text in several scripts, and a small model said to be trained on it"
    folder = tmp_path_factory.mktemp('own')
    text = 'naïve 中文 \u202eשלום $x$ caf\u00e9 \x1b[1m ␣ |\n'*40
    (folder/'text.txt').write_text(text, encoding='utf-8')
    corpus = load_corpus(folder/'text.txt')
    model = Transformer(Config(len(corpus.tokenizer), n_layer=2, n_embed=12, n_head=2))
    metadata = dict(corpus_sha256=corpus.sha256)
    save_model(model, folder/'weights.safetensors', metadata, corpus.tokenizer.chars)
    return folder

LOCALES = dict(C=dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0'),
               latin=dict(PYTHONIOENCODING='latin-1'),
               ascii=dict(PYTHONIOENCODING='ascii:strict'))
COMMAND = """
import sys, warnings
warnings.filterwarnings('error', category=EncodingWarning, module=r'shakespeare_ffn\\.')
from shakespeare_ffn.explain import main
for more in ['--json'], ['--figure', sys.argv[1]]: main([*sys.argv[2:], *more])
"""

SLOW = dict.fromkeys(['latin', 'C'], [pytest.mark.slow('ASCII knows no more characters')])

@pytest.mark.parametrize('locale', [pytest.param(x, id=name, marks=SLOW.get(name, ()))
                                    for name, x in LOCALES.items()])
def test_any_locale(own_text, locale):
    "reads UTF-8, loses no character, and no file is opened in the locale's encoding"
    python = sys.executable, '-X', 'warn_default_encoding', '-c', COMMAND, own_text/'figure.png'
    files = '--text', own_text/'text.txt', '--model', own_text/'weights.safetensors'
    args = 'na\u00efve 中', *files, '--thresholds=-1,-1', '--weights', '1,1'
    command = [os.fsencode(a) for a in (*python, *args)]
    done = subprocess.run(command, env=os.environ | locale, capture_output=True)
    assert done.returncode == 0, done.stderr.decode('utf-8', 'replace')
    line, text = done.stdout.split(b'\n', 1)
    explanation, corpus = json.loads(line.decode('ascii')), load_corpus(own_text/'text.txt')
    assert explanation['prompt'] == 'na\u00efve 中'
    assert set(explanation['model']) == set(corpus.tokenizer.chars)
    for p in explanation['model'], explanation['approximation']: assert abs(sum(p.values()) - 1) < 1e-5
    assert b'\x1b' not in text and b'?' not in text.replace(b"'?\n", b'')
    assert (own_text/'figure.png').read_bytes().startswith(b'\x89PNG')

OPENERS = {'read_text', 'write_text', 'open', 'fdopen'}

def in_the_locale(source: str) -> list:
    "Calls that read or write text in whatever encoding the locale has."
    found = []
    python = re.sub(r'^(\s*)[!%].*$', r'\1pass', source, flags=re.M) # a line for the shell, or a magic
    for node in ast.walk(ast.parse(python)):
        if not isinstance(node, ast.Call): continue
        name, given = getattr(node.func, 'attr', getattr(node.func, 'id', '')), {k.arg for k in node.keywords}
        values = [getattr(a, 'value', None) for a in [*node.args, *(k.value for k in node.keywords)]]
        binary = any(re.fullmatch(r'[rwxa+]*b[rwxa+]*', v) for v in values if isinstance(v, str))
        of = getattr(node.func.value, 'id', '') if isinstance(node.func, ast.Attribute) else ''
        files = name in OPENERS and not binary and of not in {'os', 'Image'} and 'safe' not in name
        texts = name in {'run', 'Popen', 'check_output'} and given & {'text', 'universal_newlines'}
        if (files or texts) and not given & {'encoding', None}: found.append(ast.unparse(node))
    return found

def sources():
    for folder in 'shakespeare_ffn', 'tools', 'benchmarks', 'tests':
        for path in (ROOT/folder).glob('*.py'): yield path.name, path.read_text(encoding='utf-8')
    yield 'setup.py', (ROOT/'setup.py').read_text(encoding='utf-8')
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == 'code': yield f'{path.name} {cell.id}', cell.source

def test_files_are_utf8_whatever_the_locale():
    assert len(in_the_locale("p.read_text(); open(p, 'w'); subprocess.run(c, text=True)")) == 3
    assert not in_the_locale("open(p, 'rb'); p.read_text(encoding='utf-8')")
    assert {name: calls for name, source in sources() if (calls := in_the_locale(source))} == {}

def test_a_corpus_goes_when_nobody_holds_it():
    corpus = Corpus('banana'*10, CharTokenizer('abn'), '')
    assert corpus.substrings(3) is corpus.substrings(3)
    strings, alive = weakref.ref(corpus.substrings(3)), weakref.ref(corpus)
    del corpus
    gc.collect()
    assert alive() is None and strings() is None

def test_explaining_again_costs_no_memory():
    first = explain('th', quiet=True)
    strings = first.corpus.substrings(2)
    tracemalloc.start()
    for _ in range(2): assert explain('th', quiet=True).corpus is first.corpus
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert first.corpus.substrings(2) is strings
    all_strings = [x for x in gc.get_objects() if type(x) is Substrings]
    assert [x for x in all_strings if x.length == 2 and x.text is first.corpus.text] == [strings]
    assert grown < 10**6 # of a corpus, 47 million

def test_nobody_else_has_the_default_model():
    "or what they change in it would change the answers"
    assert module._default_model('cpu') is module._default_model('cpu')
    assert all(load_model() is not module._default_model('cpu') for _ in range(2))

@settings(max_examples=100, deadline=None)
@given(st.text('abc', min_size=1, max_size=40), st.integers(1, 4))
def test_counts_of_any_text(text, length):
    if length > len(text): return
    tokenizer = CharTokenizer(''.join(sorted(set(text))))
    strings = Substrings(text, tokenizer.encode(text).numpy(), length, len(tokenizer))
    counts = next_counts(strings, len(tokenizer))
    expected = torch.zeros(len(strings), len(tokenizer), dtype=torch.long)
    for i in range(len(text)-length):
        expected[strings.find(text[i:i+length]), tokenizer.stoi[text[i+length]]] += 1
    assert torch.equal(counts.to_dense().long(), expected)
    assert torch.equal(counts.sum(0), expected.sum(0)) and torch.equal(counts.sum(1), expected.sum(1))
    rows = torch.randint(len(strings), (7,), generator=torch.Generator().manual_seed(length))
    assert torch.equal(counts[rows].to_dense().long(), expected[rows])
    assert torch.equal(SparseCounts.of(expected)[rows].to_dense(), expected[rows])

LARGE = """
import resource
import numpy as np, torch
from shakespeare_ffn.cosine_sims import similar, threshold_attention
from shakespeare_ffn.data import Substrings
from shakespeare_ffn.text_analysis import next_counts, top_tokens
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n, vocab, rng = 800_000, 4203, np.random.default_rng(0)
tokens = np.r_[np.arange(vocab), rng.zipf(1.3, n) % vocab].astype(np.uint16)[:n]
strings = Substrings(''.join(map(chr, tokens + 0x4e00)), tokens, 3, vocab)
values = next_counts(strings, vocab)
keys = torch.from_numpy(rng.standard_normal((1, len(strings), 8))).bfloat16()
for thresholds in [-1.], [[-1., .9]]:
    counts, n_matches = threshold_attention(keys[:, :2], keys, values, thresholds)
    everything = np.bincount(tokens[3:], minlength=vocab)
    assert (counts.reshape(-1, 2, vocab)[0].numpy() == everything).all()
    assert (n_matches.flatten()[:2] == len(strings)).all()
rows, _ = similar(keys[0, 0], keys[0], .9)
assert (values[rows].sum(0) == counts[0, 1, 0]).all() and (n_matches[0, 1, 0] == len(rows))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20, 'GB')
"""

def test_thousands_of_different_characters(start):
    "cost what follows, not strings times characters, which would be 6.7 GB"
    process = start(LARGE)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert float(out.split()[0]) < 1, out

def test_a_figure_is_shown_once_and_goes():
    import matplotlib.pyplot as plt
    p, corpus = dict(a=.5, b=.5), Corpus('abab', CharTokenizer('ab'), '')
    blocks = [BlockExplanation([b], 'the nearest', 0., 0, [], {}, {}) for b in range(4)]
    e = Explanation('ab', 2, 'smoke', '', .1, False, p, p, blocks, corpus)
    with warnings.catch_warnings():
        warnings.simplefilter('error') # pyplot warns of more than 20 figures
        alive = [weakref.ref(e.plot()) for _ in range(25)]
        gc.collect()
        assert plt.get_fignums() == [] and not any(figure() for figure in alive)
        data, _ = DisplayFormatter().format(e.plot())
    assert data['image/png'].startswith(b'\x89PNG') and plt.get_fignums() == []

@pytest.mark.parametrize('rank, said', [(None, True), ('0', True), ('1', False)])
def test_one_of_many_processes_notes_line_ends(monkeypatch, capsys, rank, said):
    several = dict(WORLD_SIZE='2', RANK=rank, LOCAL_RANK=rank, MASTER_ADDR='localhost', MASTER_PORT='29500')
    for name, value in several.items():
        monkeypatch.setenv(name, value) if rank else monkeypatch.delenv(name, raising=False)
    note_line_ends('To be\r\nor not', 'a.txt')
    assert ('line ends are those of Windows' in capsys.readouterr().err) == said
