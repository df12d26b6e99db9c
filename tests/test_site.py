"The notebooks pass through nbdev on their way to the site: all that can be seen of it without Quarto."
import os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, pytest, yaml

ROOT = Path(__file__).resolve().parents[1]

def build(copy: Path, *first) -> Path: # first: folders that stand first on the PATH
    "Make a copy of the project, and its site there; the copy"
    left_out = '.git', '.venv', '.hypothesis', '*.egg-info', '_proc', '_docs', '__pycache__'
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    env['PATH'] = os.pathsep.join([*map(str, first), env['PATH']])
    done = subprocess.run([sys.executable, copy/'tools'/'docs.py'], cwd=copy, env=env,
                          capture_output=True, text=True, encoding='utf-8')
    assert done.returncode == 0 and (copy/'_docs').is_dir(), done.stderr[-3000:]
    return copy

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder that Quarto is given, made in a copy of the project"
    folder = tmp_path_factory.mktemp('site')
    quarto = folder/'bin'/'quarto' # which renders nothing
    quarto.parent.mkdir()
    quarto.write_text('#!/bin/sh\nmkdir -p _docs\n', encoding='utf-8')
    quarto.chmod(0o755)
    return build(folder/'project', quarto.parent)/'_proc'

def test_without_quarto_it_says_how_to_get_it():
    done = subprocess.run([sys.executable, ROOT/'tools'/'docs.py'], env=dict(os.environ, PATH=''),
                          capture_output=True, text=True, encoding='utf-8')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == 'docs: the site needs Quarto; install it from https://quarto.org/docs/get-started\n'

def test_every_notebook_arrives_with_its_pictures(site):
    for made in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in made.parts: continue
        arrived = nbformat.read(site/made.relative_to(ROOT/'nbs'), as_version=4)
        pictures = lambda nb: sum('image/png' in o.get('data', {}) for c in nb.cells
                                  if c.cell_type == 'code' for o in c.outputs)
        assert pictures(arrived) == pictures(nbformat.read(made, as_version=4)), made.name

def words(text) -> list: return re.findall(r'\w+', re.sub(r'\]\([^)]*\)', ']', text)) # links are rewritten

def prose(nb) -> str: return '\n\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')

def test_every_page_keeps_its_introduction(site):
    "nbdev drops the first cell but for title and summary: what stands before the first heading must arrive"
    for made in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in made.parts: continue
        beginning = prose(nbformat.read(made, as_version=4)).split('\n## ')[0].strip()
        title, summary, *introduction = re.split(r'\n{2,}', beginning)
        arrived = nbformat.read(site/made.relative_to(ROOT/'nbs'), as_version=4)
        there = ' '.join(words(prose(arrived)))
        assert introduction and [p for p in introduction if ' '.join(words(p)) not in there] == [], made.name
        front = yaml.safe_load(arrived.cells[0].source.split('---')[1])
        assert front['title'] == title.removeprefix('# '), made.name
        assert words(front['description']) == words(summary.removeprefix('> ')), made.name

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
    assert all((site/page).is_file() for page in pages)

def test_pages_hide_what_a_reader_does_not_come_for(site):
    from docs import TEST
    for path in site.rglob('*.ipynb'):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != 'code': continue
            assert cell.source.count('code-fold:') <= 1 and cell.source.count('code-summary:') <= 1
            hidden = 'code-fold: true' in cell.source or 'echo: false' in cell.source
            assert hidden or not TEST.search(cell.source)
            for output in cell.outputs:
                assert 'text/html' not in output.get('data', {}) # for which Quarto fetches scripts
                assert 'Call self' not in output.get('data', {}).get('text/markdown', '')
