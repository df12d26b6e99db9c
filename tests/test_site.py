"The notebooks pass through nbdev on their way to the site: all that can be seen of it without Quarto."
import os, re, shutil
from pathlib import Path
import nbformat, pytest, yaml
from docs import COLAB, HEART, LEAD, TEST, docs, fold_of, is_said_again, words_of
from forked import python
from shakespeare_ffn.core import command

ROOT = Path(__file__).resolve().parents[1]

MAKE = """
import os, sys
os.chdir(sys.argv[1])
sys.path.insert(0, 'tools')
from docs import docs
docs([])
"""

def build(copy: Path, data: Path, *first) -> Path: # first: folders that stand first on the PATH
    "Make a copy of the project, and its site there with some data to play with; the copy"
    left_out = '.git', '.venv', '.hypothesis', '*.egg-info', '_proc', '_docs', '_play', '__pycache__'
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    shutil.copytree(data, copy/'_play'/'data')
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    env['PATH'] = os.pathsep.join([*map(str, first), env['PATH']])
    process = python(MAKE, copy, env=env)
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 0 and (copy/'_docs').is_dir(), err[-3000:]
    return copy

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder that Quarto is given, made in a copy of the project"
    folder = tmp_path_factory.mktemp('site')
    quarto = folder/'bin'/'quarto' # which renders nothing
    quarto.parent.mkdir()
    quarto.write_text('#!/bin/sh\nmkdir -p _docs\n', encoding='utf-8')
    quarto.chmod(0o755)
    (folder/'data').mkdir()
    return build(folder/'project', folder/'data', quarto.parent)/'_proc'

def test_without_quarto_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(SystemExit) as ended: command('docs', docs, [])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, '')
    assert err == 'docs: the site needs Quarto; install it from https://quarto.org/docs/get-started\n'

def test_every_notebook_arrives_with_its_pictures(site):
    for made in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in made.parts: continue
        arrived = nbformat.read(site/made.relative_to(ROOT/'nbs'), as_version=4)
        there = nbformat.read(made, as_version=4)
        leads = sum(LEAD in c.source for c in there.cells) # the picture at the top is a copy
        assert len(pictures(arrived.cells)) == len(pictures(there.cells)) + leads, made.name

def pictures(cells) -> list:
    "Places of cells that show a picture, or HTML"
    kinds = {'image/png', 'image/svg+xml', 'text/html'}
    def is_picture(data): return kinds & set(data) or '```{=html}' in data.get('text/markdown', '')
    found = [(i, o) for i, c in enumerate(cells) for o in c.get('outputs', [])]
    return [i for i, o in found if is_picture(o.get('data', {}))]

def words(text) -> list: return re.findall(r'\w+', re.sub(r'\]\([^)]*\)', ']', text)) # links are rewritten

def prose(nb) -> str: return '\n\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')

def test_every_page_keeps_its_introduction(site):
    "nbdev drops the first cell but for title and summary: what stands before the first heading must arrive"
    for made in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in made.parts: continue
        beginning = prose(nbformat.read(made, as_version=4)).split('\n## ')[0].strip()
        title, summary, *introduction = re.split(r'\n{2,}', beginning)
        arrived = nbformat.read(site/made.relative_to(ROOT/'nbs'), as_version=4)
        # this link goes into the margin, and the page to play with into its place
        introduction = [p for p in introduction if p != HEART and not COLAB.search(p)]
        there = ' '.join(words(prose(arrived)))
        assert introduction and [p for p in introduction if ' '.join(words(p)) not in there] == [], made.name
        front = yaml.safe_load(arrived.cells[0].source.split('---')[1])
        assert front['title'] == title.removeprefix('# '), made.name
        assert words(front['description']) == words(summary.removeprefix('> ')), made.name

def test_quarto_is_the_same_wherever_it_renders():
    "Another one may write other pages than those that were looked at"
    texts = [path.read_text(encoding='utf-8') for path in (ROOT/'.github'/'workflows').glob('*.yaml')]
    rendering = [text for text in texts if 'quarto-actions' in text]
    version = re.compile(r'quarto-actions/setup@v2\n +with:\n +version: ([\d.]+)\n')
    versions = [version.findall(text) for text in rendering]
    assert len(versions) == 2 and versions[0] == versions[1] != []

def test_nothing_is_executed_by_quarto(site):
    assert yaml.safe_load((site/'_quarto.yml').read_text(encoding='utf-8'))['execute'] == {'enabled': False}

def listed(contents) -> list:
    "The pages of a sidebar, those of its sections included"
    found = []
    for item in contents:
        if isinstance(item, str): found.append(item)
        else: found += [item['href']] if 'href' in item else listed(item['contents'])
    return found

def test_sidebar_names_every_page(site):
    sidebar = yaml.safe_load((site/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']
    pages = listed(sidebar['contents'])
    assert pages[0] == 'index.ipynb' and len(set(pages)) == len(pages)
    made = {p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb')
            if '.ipynb_checkpoints' not in p.parts}
    assert {page for page in pages if page.endswith('.ipynb')} == made
    measured = {p.relative_to(ROOT).as_posix() for p in (ROOT/'results').glob('*.md')}
    assert {page for page in pages if page.startswith('results/')} == measured
    assert all((site/page).is_file() for page in pages)

# A cell's last line but for assertions: it prints a sentence, or says it.
SENTENCE = re.compile(r'^(print\(f[\'"]|f[\'"]|Table\().*\s*(^.*assert.*\s*)*\Z', re.M)

def test_pages_hide_what_a_reader_does_not_come_for(site):
    for path in site.rglob('*.ipynb'):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != 'code': continue
            assert cell.source.count('code-fold:') <= 1 and cell.source.count('code-summary:') <= 1
            hidden = 'code-fold: true' in cell.source or 'echo: false' in cell.source
            assert hidden or not TEST.search(cell.source)
            assert hidden or not SENTENCE.search(cell.source)
            assert 'echo: false' in cell.source or 'print(stamp()' not in cell.source
            for output in cell.outputs:
                assert 'text/html' not in output.get('data', {}) # for which Quarto fetches scripts
                assert 'Call self' not in output.get('data', {}).get('text/markdown', '')

def test_a_chapter_opens_with_its_picture(site):
    "Question, finding and figure stand before any code"
    for path in site.glob('[0-9]*.ipynb'):
        cells = nbformat.read(path, as_version=4).cells
        first = next(i for i, c in enumerate(cells) if c.cell_type == 'code')
        assert 'echo: false' in cells[first].source and 'label:' not in cells[first].source, path.name
        assert pictures(cells)[0] == first, path.name
        assert not any(LEAD in c.source for c in cells)

def test_folds_do_not_pile_up(site):
    "Cells that are folded alike, or say the same, and follow each other are one"
    for path in site.rglob('*.ipynb'):
        cells = nbformat.read(path, as_version=4).cells
        folds = [fold_of(cell) for cell in cells]
        assert not any(a and a == b for a, b in zip(folds, folds[1:])), path.name
        assert not any(map(is_said_again, cells, cells[1:])), path.name

def test_code_stays_code(site):
    "also where folds have become one"
    for path in site.rglob('*.ipynb'):
        cells = nbformat.read(path, as_version=4).cells
        assert not any(re.search('^(def|import|from|@torch) ?', c.source, re.M)
            for c in cells if c.cell_type == 'markdown' and '```' not in c.source), path.name

def test_a_fold_without_a_description_says_what_it_defines(site):
    "nbdev describes public names alone"
    folds = [words_of(c) for c in nbformat.read(site/'04_corpus_keys.ipynb', as_version=4).cells]
    assert 'The source of `_prefix_tree`' in folds and 'The source of `_RowFile`' in ' '.join(folds)
    assert 'The source' in folds and not any('__' in words for words in folds)

def test_no_fold_is_called_only_code(site):
    for path in site.rglob('*.ipynb'):
        cells = nbformat.read(path, as_version=4).cells
        assert all(words_of(c) for c in cells if 'code-fold: true' in c.source), path.name

def test_what_a_progress_bar_wiped_away_is_left_out(site):
    cells = nbformat.read(site/'19_cause.ipynb', as_version=4).cells
    outputs = [o for c in cells for o in c.get('outputs', [])]
    printed = [o.text for o in outputs if 'text' in o]
    assert '' not in map(str.strip, printed)

def test_a_command_s_help_is_laid_out(site):
    "an option each, which breaks its lines where the window ends"
    for name in '02_training', '08_explain', '21_explore':
        [shown] = [text for text in shown_by(site, name) if '-h, --help' in text]
        options = re.findall(r'<span class="option"><span>(.*?)</span> <span>(.*?)</span></span>', shown)
        assert ('-h, --help', 'show this help message and exit') in options
        assert '\n' not in shown and any(len(words) > 80 for _, words in options)
    for path in site.glob('*.ipynb'):
        outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get('outputs', [])]
        assert not any(o.output_type == 'stream' and 'usage: ' in o.text for o in outputs), path.name

def test_bars_keep_their_lines(site):
    assert sum('<span class="bars">next  model' in text for text in shown_by(site, '08_explain')) >= 2

def test_the_citation_names_the_authors_as_they_are(site):
    "and does not take them for a person with a family name"
    head = nbformat.read(site/'blog'/'beyond_self_attention.ipynb', as_version=4).cells[0].source
    author = yaml.safe_load(head.split('---')[1])['author']
    assert author == {'name': {'literal': 'shakespeare_ffn contributors'}}

def test_the_article_has_the_page_to_play_with_in_it(site):
    cells = nbformat.read(site/'blog'/'beyond_self_attention.ipynb', as_version=4).cells
    before, after = prose(nbformat.from_dict(dict(cells=cells))).split('<iframe id="heart"')
    assert 'src="../play/index.html?heart"' in after and (site/'play'/'index.html').is_file()
    assert '\n## ' not in before # it stands at the top

def test_a_class_is_called_one(site):
    for path in site.glob('[0-9]*.ipynb'):
        for cell in nbformat.read(path, as_version=4).cells:
            texts = [o.get('data', {}).get('text/markdown', '') for o in cell.get('outputs', [])]
            wrong = re.search(r'^def [A-Z]\w+\(|^class.*\n *\*args, \*\*kwargs', '\n'.join(texts), re.M)
            assert not wrong, path.name

def shown_by(site, name) -> list:
    "What each output of a page is as Markdown, '' if it is none."
    cells = nbformat.read(site/f'{name}.ipynb', as_version=4).cells
    return [o.get('data', {}).get('text/markdown', '') for c in cells for o in c.get('outputs', [])]

def test_a_named_tuple_shows_its_fields(site):
    [nearest] = [text for text in shown_by(site, '07c_nearest_strings') if 'class Nearest(' in text]
    assert '    rows: torch.Tensor, # (n_queries, k) int64\n    cosines: torch.Tensor, # ' in nearest

def test_a_method_is_named_with_its_class(site):
    "also one that is patched into it"
    headings = []
    for path in site.glob('[0-9]*.ipynb'):
        for text in shown_by(site, path.stem): headings += re.findall(r'^#+ (.*)', text, re.M)
    assert r'LastPosition.\_\_call\_\_' in headings
    assert [h for h in headings if h.startswith(r'\_\_')] == []

def test_a_field_is_not_taken_for_a_function(site):
    [examine] = [text for text in shown_by(site, '17_what_it_depends_on') if 'def examine(' in text]
    assert '`matches` (n_layer, n)' in examine

def test_a_similar_string_has_a_line_of_its_own(site):
    "where `explain` prints one, and in its widget: a phone shows it whole"
    texts = shown_by(site, 'index') + shown_by(site, '08_explain')
    assert sum('<span class="string">' in text for text in texts) >= 6
    assert all(len(x) < 60 for text in texts for x in re.findall(r'<span>([^<]*›[^<]*)<', text))

def test_signatures_say_no_type_that_says_nothing(site):
    "nbdev takes a default's own type for one; where modules stand is of no use to a reader"
    for path in site.glob('[0-9]*.ipynb'):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get('outputs', []):
                markdown = output.get('data', {}).get('text/markdown', '')
                signatures = '\n'.join(re.findall('^```python.*?^```', markdown, re.M | re.S))
                assert not re.search(r'NoneType|<lambda>|shakespeare_ffn\.|[^`]`[^`]', signatures), path.name

def test_figures_of_a_table_stay_together(site):
    texts = []
    for path in site.rglob('*.ipynb'):
        outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get('outputs', [])]
        texts += [o.get('data', {}).get('text/markdown', '') for o in outputs]
    tables = [text for text in texts if text.startswith('|')]
    wholes = '\xa0±\xa0', '\xa0to\xa0', '\xa0to\xa0-0', '`\xa00', '\xa0×\xa0', 'e-\u206005'
    for whole in *wholes, '| training\xa0part alone |':
        assert any(whole in table for table in tables), whole
    assert not any(re.search(r'\d%? (±|to|of|×|:) -?\d|` -?\d|\de-\d', table) for table in tables)
    assert any('[(0.1266\xa0to\xa00.1293)]{.interval}' in table for table in tables)
    assert any('\n| ours,\xa0fitted\xa0on the\xa0other\xa0half |' in table for table in tables)
    assert '4\xa0blocks\xa0of width\xa0128' in (site/'results'/'other_models.md').read_text(encoding='utf-8')

def test_pictures_of_the_text_keep_their_words(site):
    text = prose(nbformat.read(site/'index.ipynb', as_version=4))
    pictures = re.findall(r'!\[([^]]+)\]\([^)]+\)(.*?)\]', text)
    assert pictures and all(rest == f'{{fig-alt="{words}"}}' for words, rest in pictures)

def test_a_formula_keeps_its_bracket_and_its_full_stop(site):
    paths = site/'00_data.ipynb', site/'02_training.ipynb'
    data, training = (prose(nbformat.read(path, as_version=4)) for path in paths)
    assert '(\u2060$65^{10}' in data and r'$\ln 65$' + '\u2060.' in training
    assert not re.search(r'[^$]\$[.,]', data + training)

def test_chapters_are_numbered(site):
    sidebar = yaml.safe_load((site/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']
    sections = [section for section in sidebar['contents'] if 'contents' in section]
    pages = [page for section in sections for page in section['contents']]
    named = {page['href']: page['text'] for page in pages if 'href' in page}
    for path in site.glob('[0-9]*.ipynb'): assert named[path.name].startswith(path.name.split('_')[0])
