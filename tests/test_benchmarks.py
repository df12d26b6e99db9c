"Tables in results/ name the processor and keep what other kinds measured."
import json, subprocess
from pathlib import Path
import pytest, torch

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture
def common(monkeypatch, tmp_path):
    "benchmarks/common.py, writing elsewhere, at full scale."
    monkeypatch.syspath_prepend(ROOT/'benchmarks')
    import common
    monkeypatch.setattr(common, 'RESULTS', tmp_path)
    monkeypatch.setenv('SHAKESPEARE_FFN_SCALE', 'full')
    return common

def on(monkeypatch, **capabilities):
    "Let the processor be another one."
    monkeypatch.setattr(torch.cpu, 'get_capabilities',
                        lambda: dict(architecture='x86_64', avx2=True) | capabilities)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability',
                        lambda: 'AVX512' if capabilities else 'AVX2')

BF16, AMX = dict(avx512_f=True, avx512_bf16=True), dict(avx512_f=True, avx512_bf16=True, amx_bf16=True)

def test_kinds_of_processors(common, monkeypatch):
    kinds = ({}, 'AVX2'), (dict(avx512_f=True), 'AVX512'), (BF16, 'AVX512-BF16'), (AMX, 'AMX')
    for capabilities, kind in kinds:
        on(monkeypatch, **capabilities)
        assert common.processor() == kind
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX2')
    assert common.processor() == 'AVX2 on AMX' # an imitation is not taken for the real one
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(architecture='arm64'))
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'DEFAULT')
    assert common.processor() == 'arm64'

def test_a_table_for_each_kind_of_processor(common, monkeypatch, tmp_path):
    on(monkeypatch, **BF16)
    common.report('x', 'X', ['what', 'seconds'], [('a', 1)], 'A note.')
    on(monkeypatch)
    common.report('x', 'X', ['what', 'seconds'], [('a', 3)])
    on(monkeypatch, **BF16)
    common.report('x', 'X', ['what', 'seconds'], [('a', 2)], 'Another.')
    common.report('x', 'X', ['what', 'seconds'], [('a', .1)], kind='some GPU')
    text = (tmp_path/'x.md').read_text(encoding='utf-8')
    headings = [line[3:] for line in text.splitlines() if line.startswith('## ')]
    assert headings == ['AVX2', 'AVX512-BF16', 'some GPU']
    rows = [line for line in text.splitlines() if line.startswith('| a')]
    assert rows == ['| a | 3 |', '| a | 2 |', '| a | 0.1 |']
    assert 'Another.' in text and 'A note.' not in text and text.count(common.where()) == 3

def test_not_measured_does_not_replace_a_measurement(common, tmp_path):
    common.report('x', 'X', ['what'], [], 'Not measured.')
    assert 'Not measured.' in (tmp_path/'x.md').read_text(encoding='utf-8')
    common.report('x', 'X', ['what'], [(1,)], kind='some GPU')
    common.report('x', 'X', ['what'], [], 'Not measured.')
    text = (tmp_path/'x.md').read_text(encoding='utf-8')
    assert 'Not measured.' not in text and '| 1 |' in text

def test_ratios_of_each_kind_of_processor(common, monkeypatch, tmp_path):
    for capabilities, seconds in (AMX, 5), ({}, 2), (AMX, 4):
        on(monkeypatch, **capabilities)
        common.compare('counts', 'FAISS', 1, seconds, keys=3)
    common.compare('counts', 'a product', 1, 7)
    rows = json.loads((tmp_path/'benchmarks.json').read_text(encoding='utf-8'))
    ratios = [(r['peer'], r['kind'], r['ratio']) for r in rows]
    assert ratios == [('FAISS', 'AVX2', 2), ('FAISS', 'AMX', 4), ('a product', 'AMX', 7)]

def test_smoke_scale_keeps_nothing(common, monkeypatch, tmp_path):
    monkeypatch.setenv('SHAKESPEARE_FFN_SCALE', 'smoke')
    common.report('x', 'X', ['what'], [(1,)])
    common.compare('x', 'y', 1, 2)
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('path', sorted((ROOT/'results').glob('*.md')), ids=lambda p: p.stem)
def test_tables_are_what_was_measured(common, path):
    kept = ROOT/'results'/'benchmarks'/f'{path.stem}.json'
    tables, text = json.loads(kept.read_text(encoding='utf-8')), path.read_text(encoding='utf-8')
    assert text == common.as_markdown(text.splitlines()[0][2:], tables)
    assert all(t['where'] and t['kind'] for t in tables)

def test_make_bench_says_how_long_it_takes(common, monkeypatch, capsys):
    import run
    for fast, most in ('float32', 30), ('bfloat16', 40):
        monkeypatch.setattr(run, 'FAST', fast)
        assert 0 < run.about(run.chosen([])) <= most
    assert run.chosen([])[0] == 'index'
    results = {p.stem for p in (ROOT/'results').glob('*.md')}
    assert {*run.chosen([]), *run.BY_NAME} == results and run.chosen(run.BY_NAME) == run.BY_NAME
    with pytest.raises(run.UserError, match='is not a benchmark'): run.chosen(['nothing'])
    monkeypatch.setattr(run.subprocess, 'run', lambda command: subprocess.CompletedProcess(command, 0))
    assert run.run(['explain', 'gpu']).startswith('All of it took')
    output = capsys.readouterr().out
    assert output.startswith('2 benchmarks on') and 'explain took' in output
    assert f'about {run.about(["explain", "gpu"])} minutes' in output
