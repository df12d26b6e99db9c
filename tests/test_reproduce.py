"`make reproduce`: it goes on where it stopped, runs what has changed, and what it gathers is what the notebooks say."
import importlib.util, json, sys
from pathlib import Path
import nbformat, pytest

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('reproduce', ROOT/'tools'/'reproduce.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def write(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), path)

@pytest.fixture
def project(tool, tmp_path, new_cache, monkeypatch):
    "A project of two notebooks and an index, each of which counts how often it ran."
    monkeypatch.setenv('SHAKESPEARE_FFN_SCALE', 'smoke') # put back afterwards
    for name, text in dict(ROOT=tmp_path, NBS=tmp_path/'nbs', PACKAGE=tmp_path/'package', SUMMARY=tmp_path/'results'/'summary.json').items():
        monkeypatch.setattr(tool, name, text)
    (tmp_path/'package').mkdir(); (tmp_path/'results').mkdir()
    for number, module in ('00', 'data'), ('01', 'model'):
        (tmp_path/'package'/f'{module}.py').write_text(f'# File to edit: ../nbs/{number}_{module}.ipynb.\n', encoding='utf-8')
        write(tmp_path/'nbs'/f'{number}_{module}.ipynb', f"print(1, file=open('ran_{module}', 'a'))", 'print(\'summary: {"name": "x", "ours": 1, "article": 2}\')')
    write(tmp_path/'nbs'/'index.ipynb', "print(1, file=open('ran_index', 'a'))")
    return tmp_path

def ran(project): return {p.name[4:]: len(p.read_text(encoding='utf-8').split()) for p in (project/'nbs').glob('ran_*')}

def test_what_is_done_is_not_run_again(tool, project):
    tool.reproduce([])
    assert ran(project) == dict(data=1, model=1, index=1)
    found = json.loads((project/'results'/'summary.json').read_text(encoding='utf-8'))
    assert [row['notebook'] for row in found['rows']] == ['00_data', '01_model'] and found['rows'][0]['article'] == 2
    assert set(found['seconds']) == {'00_data', '01_model', 'index'}
    tool.reproduce([])
    assert ran(project) == dict(data=1, model=1, index=1)
    (project/'package'/'model.py').write_text('# File to edit: ../nbs/01_model.ipynb.\nx = 1\n', encoding='utf-8')
    tool.reproduce([]) # only what stands on it
    assert ran(project) == dict(data=1, model=2, index=2)
    tool.reproduce([str(project/'nbs'/'00_data.ipynb')])
    assert ran(project) == dict(data=2, model=2, index=2)

def test_a_new_alternate_concerns_only_those_that_read_it(tool, project):
    write(project/'nbs'/'01_model.ipynb', "print(1, file=open('ran_model', 'a'))  # alternates('…')")
    tool.reproduce([])
    write(project/'nbs'/'index.ipynb', "print(1, file=open('ran_index', 'a'))  # summary.json")
    tool.reproduce([])
    (project/'results'/'alternates').mkdir()
    (project/'results'/'alternates'/'seed88.safetensors').write_bytes(b'x')
    tool.reproduce([])
    assert ran(project) == dict(data=1, model=2, index=2) # no figure that the index shows is another

def test_what_shows_figures_runs_again_when_they_change(tool, project):
    write(project/'nbs'/'index.ipynb', "print(1, file=open('ran_index', 'a'))  # summary.json, benchmarks.json")
    data = project/'nbs'/'00_data.ipynb'
    tool.reproduce([])
    write(data, "print(1, file=open('ran_data', 'a'))", 'print(\'summary: {"name": "x", "ours": 3, "article": 2}\')')
    tool.reproduce([str(data)]) # alone, as if what follows had been stopped
    assert ran(project) == dict(data=2, model=1, index=1)
    tool.reproduce([])
    assert ran(project) == dict(data=2, model=1, index=2)
    (project/'results'/'benchmarks.json').write_text('[]', encoding='utf-8')
    tool.reproduce([]); tool.reproduce([])
    assert ran(project) == dict(data=2, model=1, index=3)

def test_it_goes_on_after_a_failure(tool, project):
    path = project/'nbs'/'01_model.ipynb'
    write(path, '1/0')
    before = path.read_bytes()
    with pytest.raises(tool.UserError, match='01_model.ipynb failed'): tool.reproduce([])
    assert ran(project) == dict(data=1) and path.read_bytes() == before
    write(path, "print(1, file=open('ran_model', 'a'))")
    tool.reproduce([])
    assert ran(project) == dict(data=1, model=1, index=1)

def test_progress_bars_are_left_out(tool, project):
    path = project/'nbs'/'00_data.ipynb'
    write(path, "import sys\nfrom tqdm.std import tqdm\nfor _ in tqdm(range(3)): pass", "print('said', file=sys.stderr)")
    tool.reproduce([str(path)])
    assert [o.text for c in nbformat.read(path, 4).cells for o in c.outputs] == ['said\n']

def test_a_notebook_that_is_none(tool, project):
    with pytest.raises(tool.UserError, match='is not one of the notebooks'): tool.reproduce(['nowhere.ipynb'])

def test_the_summary_is_what_the_notebooks_say(tool):
    found = json.loads(tool.SUMMARY.read_text(encoding='utf-8'))
    assert found['rows'] == tool.summary() and {row['notebook'] for row in found['rows']} >= {'00_data', '02_training', '07_similar_space'}
