"""`make reproduce`: it goes on where it stopped, and what it gathers is what the notebooks say.
With `--check` it compares what comes out with what is committed, and writes nothing."""
import importlib.util, json, re
from contextlib import redirect_stdout
from io import StringIO
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
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', 'float32')
    for name, path in dict(ROOT=tmp_path, PACKAGE=tmp_path/'package').items():
        monkeypatch.setattr(tool, name, path)
    (tmp_path/'package').mkdir()
    (tmp_path/'results').mkdir()
    for number, module in ('00', 'data'), ('01', 'model'):
        (tmp_path/'package'/f'{module}.py').write_text(f'# File to edit: ../nbs/{number}_{module}.ipynb.\n',
                                                       encoding='utf-8')
        write(tmp_path/'nbs'/f'{number}_{module}.ipynb', f"print(1, file=open('ran_{module}', 'a'))",
              'print(\'summary: {"name": "x", "ours": 1, "article": 2}\')')
    write(tmp_path/'nbs'/'index.ipynb', "print(1, file=open('ran_index', 'a'))")
    return tmp_path

@pytest.fixture
def without_kernels(tool, monkeypatch):
    "For tests of which notebooks run, and not of how: their cells are run here."
    def run(path):
        nb, names = nbformat.read(path, 4), {}
        with monkeypatch.context() as patch:
            patch.chdir(path.parent)
            for cell in nb.cells:
                with redirect_stdout(StringIO()) as printed: exec(cell.source, names)
                cell.outputs = [nbformat.v4.new_output('stream', name='stdout', text=printed.getvalue())]
        nbformat.write(nb, path)
        return 1.
    monkeypatch.setattr(tool, 'run', run)

def ran(project):
    return {p.name[4:]: len(p.read_text(encoding='utf-8').split()) for p in (project/'nbs').glob('ran_*')}

def test_what_is_done_is_not_run_again(tool, project, without_kernels):
    tool.reproduce([])
    assert ran(project) == dict(data=1, model=1, index=1)
    found = json.loads((project/'results'/'summary.json').read_text(encoding='utf-8'))
    assert [row['notebook'] for row in found['rows']] == ['00_data',
                                                          '01_model'] and found['rows'][0]['article'] == 2
    assert set(found['seconds']) == {'00_data', '01_model', 'index'}
    tool.reproduce([])
    assert ran(project) == dict(data=1, model=1, index=1)
    (project/'package'/'model.py').write_text('# File to edit: ../nbs/01_model.ipynb.\nx = 1\n',
                                              encoding='utf-8')
    tool.reproduce([]) # only what stands on it
    assert ran(project) == dict(data=1, model=2, index=2)
    tool.reproduce([str(project/'nbs'/'00_data.ipynb')])
    assert ran(project) == dict(data=2, model=2, index=2)

def test_a_new_alternate_concerns_only_those_that_read_it(tool, project, without_kernels):
    write(project/'nbs'/'01_model.ipynb', "print(1, file=open('ran_model', 'a'))  # alternates('…')")
    tool.reproduce([])
    write(project/'nbs'/'index.ipynb', "print(1, file=open('ran_index', 'a'))  # summary.json")
    tool.reproduce([])
    (project/'results'/'alternates').mkdir()
    (project/'results'/'alternates'/'seed88.safetensors').write_bytes(b'x')
    tool.reproduce([])
    assert ran(project) == dict(data=1, model=2, index=2) # no figure that the index shows is another

def test_what_shows_figures_runs_again_when_they_change(tool, project, without_kernels):
    write(project/'nbs'/'index.ipynb',
          "print(1, file=open('ran_index', 'a'))  # summary.json, benchmarks.json")
    data = project/'nbs'/'00_data.ipynb'
    tool.reproduce([])
    write(data, "print(1, file=open('ran_data', 'a'))",
          'print(\'summary: {"name": "x", "ours": 3, "article": 2}\')')
    tool.reproduce([str(data)]) # alone, as if what follows had been stopped
    assert ran(project) == dict(data=2, model=1, index=1)
    tool.reproduce([])
    assert ran(project) == dict(data=2, model=1, index=2)
    (project/'results'/'benchmarks.json').write_text('[]', encoding='utf-8')
    tool.reproduce([])
    tool.reproduce([])
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

def changed_file(path, how): # how: somebody else does it while the notebook runs
    if how == 'edited': write(path, "print('new')")
    elif how == 'half merged': path.write_text('<<<<<<< HEAD', encoding='utf-8')
    elif how == 'removed': path.unlink()
    else: # outputs and metadata
        nb = nbformat.read(path, 4)
        for cell in nb.cells: cell.outputs, cell.metadata = [], {'tags': ['x']}
        nbformat.write(nb, path)

@pytest.fixture
def meanwhile(tool, monkeypatch):
    "Have something done while notebooks run."
    def do(what):
        execute = tool.NotebookClient.execute
        monkeypatch.setattr(tool.NotebookClient, 'execute', lambda client: (execute(client), what()))
    return do

@pytest.mark.parametrize('how', ['edited', 'half merged', 'removed', 'cleaned'])
def test_a_notebook_that_changes_while_it_runs_is_left_as_it_is(tool, project, meanwhile, capsys, how):
    path, found = project/'nbs'/'00_data.ipynb', []
    sources = tool.sources(path)
    def change():
        changed_file(path, how)
        found.append(tool.content(path))
    meanwhile(change)
    with pytest.raises(SystemExit) as end: tool.command('reproduce', tool.reproduce, [])
    line = end.value.code # which Python prints, with exit code 1
    assert re.fullmatch('reproduce: 00_data.ipynb was changed while it ran.* 00_data.ipynb.ran .*', line)
    assert [tool.content(path)] == found
    ran = path.with_name('00_data.ipynb.ran')
    assert tool.rows(ran)[0]['ours'] == 1 and tool.sources(ran) == sources
    assert ran not in tool.notebooks(project) and capsys.readouterr().out.count('\n') == 2 # what is to come
    assert not (project/'cache'/'reproduced.json').exists() # it is to be run again

def test_what_others_note_meanwhile_is_kept(tool, project, meanwhile):
    summary, kept = project/'results'/'summary.json', project/'cache'/'reproduced.json'
    def note():
        found = json.loads(summary.read_text(encoding='utf-8'))
        summary.write_text(json.dumps(found | dict(seconds={'01_model': 77})), encoding='utf-8')
        kept.write_text('{"another": {"fingerprint": "x"}}', encoding='utf-8')
    meanwhile(note)
    tool.reproduce([str(project/'nbs'/'00_data.ipynb')])
    assert json.loads(summary.read_text(encoding='utf-8'))['seconds'].get('01_model') == 77
    assert {'another', '00_data'} == set(json.loads(kept.read_text(encoding='utf-8')))

def test_progress_bars_are_left_out(tool, project):
    path = project/'nbs'/'00_data.ipynb'
    write(path, "import sys\nfrom tqdm.std import tqdm\nfor _ in tqdm(range(3)): pass",
          "print('said', file=sys.stderr)")
    tool.reproduce([str(path)])
    assert [o.text for c in nbformat.read(path, 4).cells for o in c.outputs] == ['said\n']

def test_a_notebook_that_is_none(tool, project):
    with pytest.raises(tool.UserError, match='is not one of the notebooks'): tool.reproduce(['nowhere.ipynb'])

def test_the_summary_is_what_the_notebooks_say(tool):
    found = json.loads(tool.summary_file(ROOT).read_text(encoding='utf-8'))
    assert found['rows'] == tool.summary(ROOT)
    assert {row['notebook'] for row in found['rows']} >= {'00_data', '02_training', '07_similar_space'}

def test_it_computes_in_float32_on_every_machine(tool, project, monkeypatch):
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', 'bfloat16')
    write(project/'nbs'/'00_data.ipynb',
          "import os; print(os.environ['SHAKESPEARE_FFN_ARITHMETIC'], os.environ['SHAKESPEARE_FFN_SCALE'])")
    tool.reproduce([str(project/'nbs'/'00_data.ipynb')])
    assert [o.text for c in nbformat.read(project/'nbs'/'00_data.ipynb', 4).cells
            for o in c.outputs] == ['float32 full\n']

def record(path, **rows):
    "A notebook that records figures and counts how often it ran."
    summary = ''.join(f'print({"summary: " + json.dumps(dict(name=name, ours=ours, article=None))!r})\n'
                      for name, ours in rows.items())
    write(path, f"print(1, file=open('ran_{path.stem[3:]}', 'a'))", summary)

def checked(tool, capsys, *args):
    "What `--check` prints, and its exit code."
    try: return tool.reproduce(['--check', *args]), 0
    except SystemExit as e: return capsys.readouterr().out, e.code

@pytest.fixture
def committed(tool, project, without_kernels):
    "Figures of a full run, in the notebooks and in the summary."
    record(project/'nbs'/'00_data.ipynb', n_chars=1000, name='to be')
    record(project/'nbs'/'01_model.ipynb', distance=.1597, n_similar=661, seconds_it_took=3.2,
           curve=[1., None, ['a', .5]])
    tool.reproduce([])
    return project

def files(project):
    return {p: p.read_bytes() for p in project.rglob('*') if p.is_file() and project/'cache' not in p.parents}

FOUND = {('00_data', 'n_chars'): 1000, ('00_data', 'name'): 'to be', ('01_model', 'distance'): .1597,
         ('01_model', 'n_similar'): 661,
         ('01_model', 'seconds_it_took'): 3.2, ('01_model', 'curve'): [1., None, ['a', .5]]}

@pytest.mark.parametrize('rows, n_lines, out', [
    (dict(), 0, ''),
    (dict(distance=.1599, n_similar=663, seconds_it_took=90., curve=[1.001, None, ['a', .5]]), 4, ''),
    (dict(distance=.1697), 1,
     'OUT 01_model: distance\n       committed 0.1597\n       here      0.1697\n'
     '       tolerance 0.001 or 0.5%'),
    (dict(n_similar=671), 1, 'OUT 01_model: n_similar'),
    (dict(n_chars=1001), 1,
     'OUT 00_data: n_chars\n       committed 1000\n       here      1001\n       tolerance exact'),
    (dict(curve=[1., None, ['b', .5]]), 1, 'OUT 01_model: curve'),
    (dict(curve=[1., ['a', .5]]), 1, 'OUT 01_model: curve'),
    (dict(curve=[1., .3, ['a', .5]]), 1, 'OUT 01_model: curve'),
    (dict(name='not to be'), 1, 'OUT 00_data: name'),
    (dict(another=1), 1, 'OUT 01_model: another\n       committed –\n       here      1'),
    (dict(distance='gone'), 1, 'OUT 01_model: distance\n       committed 0.1597\n       here      –')],
    ids=['the same', 'in tolerance', 'float', 'count', 'fact of the corpus', 'text in a list', 'shorter list',
         'number for none', 'text',
         'further row', 'missing row'])
def test_rows_are_compared(tool, rows, n_lines, out):
    new = {key: rows.get(key[1], x) for key, x in FOUND.items()}
    new |= {('01_model', k): x for k, x in rows.items() if k == 'another'}
    as_rows = lambda found: [dict(notebook=n, name=name, ours=x, article=None) for (n, name),
                             x in found.items() if x != 'gone']
    lines, n_out = tool.compare(as_rows(FOUND), as_rows(new))
    assert (len(lines), n_out) == (n_lines, bool(out)) and out in '\n'.join(lines), lines

def test_stages_that_are_not_in_the_cache_may_be_missing(tool):
    stage = dict(notebook='12_svd_helpers',
                 name='directions and means that say their token, stage 2, 20 embeddings', ours=[42, 56])
    own = dict(notebook='14_approximation_details', name='criterion_own_stage', ours=[2681., None])
    alone = dict(notebook='14a_two_disagreements', name='thresholds best alone, own stage', ours=[.152, None])
    assert tool.compare([stage, own, alone], [own | dict(ours=[2690., 15335.])])[1] == 0
    assert tool.compare([stage, own], [stage | dict(ours=[2, 56]), own | dict(ours=[99., None])])[1] == 2

def test_a_check_writes_nothing_here_and_goes_on(tool, committed, capsys):
    there, model = committed/'cache'/'checked', committed/'nbs'/'01_model.ipynb'
    before = files(committed)
    text, code = checked(tool, capsys, str(model))
    assert code == 0 and '4 rows' in text and ran(there) == dict(model=1)
    assert '6 rows' in checked(tool, capsys)[0] and ran(there) == dict(data=1, model=1, index=1)
    assert checked(tool, capsys)[1] == 0 and ran(there) == dict(data=1, model=1, index=1)
    assert files(committed) == before
    record(model, distance=.1597) # its cells change
    text, code = checked(tool, capsys)
    assert code == 1 and 'OUT 01_model: n_similar' in text

def test_every_figure_has_a_tolerance_that_it_keeps(tool):
    for row in tool.summary(ROOT):
        assert tool.agrees(row['notebook'], row['name'], row['ours'], row['ours'])[0]
    assert not tool.agrees('07_similar_space', 'Hellinger distance, fitted on other strings', [.1597, .1207],
                           [.1697, .1207])[0]
