"`make gpu`: its stages go on where they stopped, and a table says what held. Here on the CPU."
import sys
from pathlib import Path
import gpu, nbformat, pytest, torch

ROOT = Path(__file__).resolve().parents[1]

def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.ipynb':
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text)]), path)
    else: path.write_text(text, encoding='utf-8')

def counting(path, then=''):
    "Code that counts how often it ran, and what follows."
    names = 'SHAKESPEARE_FFN_SCALE', 'CUDA_VISIBLE_DEVICES', 'SHAKESPEARE_FFN_ARITHMETIC'
    return (f"import os\nwith open({str(path)!r}, 'a') as f: "
            f"print(*map(os.environ.get, {names}), file=f)\n{then}")

@pytest.fixture
def project(tmp_path, new_cache, monkeypatch):
    "A notebook, two tests, a benchmark and something heavy, each of which counts how often it ran."
    for name, before in dict(SHAKESPEARE_FFN_SCALE='smoke', CUDA_VISIBLE_DEVICES='').items():
        monkeypatch.setenv(name, before)
    root, ran = tmp_path/'project', tmp_path/'ran'
    ran.mkdir()
    for name in 'nbs/index.ipynb', 'benchmarks/gpu.py', 'shakespeare_ffn/data.py':
        write(root/name, counting(ran/Path(name).stem))
    for name in 'gpu', 'other':
        write(root/'tests'/f'test_{name}.py', f'def test_it():\n    exec({counting(ran/f"test_{name}")!r})\n')
    monkeypatch.setattr(gpu, 'HEAVY', dict(heavy=counting(ran/'heavy')))
    monkeypatch.setattr(gpu, 'IMPORTS', '')
    return root

def go(project, capsys, *args):
    "Exit code and output of a dry run."
    try: text, code = gpu.gpu(['--dry-run', '--root', str(project), *args]), 0
    except SystemExit as e: text, code = '', e.code
    return code, capsys.readouterr().out + text

def ran(project):
    return {p.name: len(p.read_text(encoding='utf-8').splitlines()) for p in (project.parent/'ran').iterdir()}

def test_what_becomes_of_a_stage_is_kept(project, tmp_path):
    ran, then = tmp_path/'begun', dict(one='', two='1/0', three='time.sleep(60)')
    def stage(name):
        code = f"import os, time\nprint(os.environ['NAME'], file=open({str(ran)!r}, 'a'))\n{then[name]}"
        return gpu.Stage(name, [sys.executable, '-c', code], b'', dict(NAME=name))
    some = [*map(stage, then)]
    def results():
        found = gpu.run_stages(some, project, tmp_path/'kept', 'smoke', 2)
        return [x['result'] for x in found.values()]
    assert results() == results() == ['held', 'failed', 'not yet']
    assert ran.read_text(encoding='utf-8').split() == ['one', 'two', 'three', 'two', 'three']
    before = [gpu.fingerprint(x, project) for x in some]
    write(project/'shakespeare_ffn'/'data.py', 'x = 1') # all stand on the package
    assert not {*before} & {gpu.fingerprint(x, project) for x in some}

@pytest.mark.slow('a quarter of a minute; stages that import nothing do the same')
def test_stages_go_on_and_a_table_says_what_held(project, capsys):
    write(project/'nbs'/'index.ipynb',
          counting(project.parent/'ran'/'index', "raise ValueError('no such thing')"))
    code, text = go(project, capsys)
    once = dict.fromkeys(['test_gpu', 'gpu', 'heavy', 'index', 'test_other'], 1)
    assert code == 1 and ran(project) == once, text
    what_ran = lambda name: (project.parent/'ran'/name).read_text(encoding='utf-8')
    # on the CPU, at smoke scale
    assert what_ran('heavy') == what_ran('index') == 'smoke  float32\n' and what_ran('gpu') == 'smoke  None\n'
    lines = text.splitlines()[-8:-2]
    assert [line.split()[:2] for line in lines[1:4]] == [['tests/test_gpu.py', 'held'],
                                                         ['benchmarks/gpu.py', 'held'], ['heavy', 'held']]
    assert [line for line in lines if 'failed' in line
            and line.endswith('ValueError: no such thing')] and '4 of 5 held' in text
    write(project/'nbs'/'index.ipynb', counting(project.parent/'ran'/'index'))
    code, text = go(project, capsys) # only what failed
    assert code == 0 and ran(project) == once | dict(index=2) and '5 of 5 held' in text, text
    gpu.HEAVY['heavy'] += 'import time; time.sleep(60)'
    code, text = go(project, capsys, '--limit', '2')
    assert code == 1 and ran(project) == once | dict(index=2, heavy=2)
    assert [line.split()[:3] for line in text.splitlines()
            if 'stopped after 2 seconds' in line][-1] == ['heavy', 'not', 'yet']
    before = {stage.name: gpu.fingerprint(stage, project) for stage in gpu.stages(project, True)}
    write(project/'shakespeare_ffn'/'data.py', 'x = 1') # all stand on the package
    assert all(gpu.fingerprint(stage, project) != before[stage.name] for stage in gpu.stages(project, True))

def test_what_others_note_meanwhile_is_kept(project, tmp_path, monkeypatch):
    kept = tmp_path/'smoke.json'
    def run_stage(*_):
        kept.write_text('{"another": {"result": "held"}}', encoding='utf-8')
        return dict(result='held', seconds=1, why='')
    monkeypatch.setattr(gpu, 'run_stage', run_stage)
    [first, *_] = gpu.stages(project, True)
    assert gpu.run_stages([first], project, tmp_path, 'smoke', 9)[first.name]['result'] == 'held'
    assert set(gpu.reproduce.read_json(kept)) == {'another', first.name}

def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available(): pytest.skip('there is one')
    with pytest.raises(gpu.UserError, match='there is no GPU here'): gpu.gpu([])

@pytest.mark.parametrize('args, says', [
    (['--limit', 'nan'], 'out of range'), (['--limit', 'inf'], 'out of range'),
    (['--limit', '1e12'], 'no time'), (['--limit', '0'], 'no time'), (['--limit=-3'], 'no time'),
    (['--root', ''], 'empty text'),
    (['--root', 'nowhere'], 'no checkout'), (['--notebook', ''], 'empty text'),
    (['--notebook', 'README.md'], 'not one of the notebooks')], ids=' '.join)
def test_what_makes_no_sense_is_said_in_a_line(tmp_path, monkeypatch, capsys, args, says):
    for run in 'run_stages', 'notebook': monkeypatch.setattr(gpu, run, lambda *_: pytest.fail('it begins'))
    for name in 'SHAKESPEARE_FFN_SCALE', 'CUDA_VISIBLE_DEVICES': monkeypatch.setenv(name, '')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end: gpu.command('gpu', gpu.gpu, ['--dry-run', *args])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count('\n')) == (2, '', 1) and says in err, err

def test_stages_of_this_project():
    names = [stage.name for stage in gpu.stages(ROOT, dry=False)]
    assert names[:2] == ['tests/test_gpu.py', 'benchmarks/gpu.py'] and len(set(names)) == len(names)
    assert {'nbs/05_cosine_sims.ipynb', 'nbs/blog/beyond_self_attention.ipynb', 'tests/test_index.py',
            'learned embeddings, stage 1'} <= set(names)

def test_what_failed_is_found_in_a_log():
    failed = 'F\n    def test(): assert f(1) == 2\nE       assert 3 == 2\nFAILED tests/test_a.py'
    assert gpu.why(failed) == 'E       assert 3 == 2'
    raised = 'Traceback …\n  File x\nRuntimeError: tensors on two devices\n\n'
    assert gpu.why(raised) == 'RuntimeError: tensors on two devices'
    assert gpu.why('') == 'no output' and gpu.why('one\ntwo\n') == 'two'
