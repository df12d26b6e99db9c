"The wheel, installed in a clean environment away from the checkout, explains a prompt."
import json, os, subprocess, sys, sysconfig, venv, zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
import pytest

ROOT = Path(__file__).resolve().parents[1]

def scripts(env): return env/('Scripts' if os.name == 'nt' else 'bin')

def run(*cmd, **kwargs):
    done = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, encoding='utf-8', **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "Built from a copy, so that nothing is left in the checkout"
    src, out = tmp_path_factory.mktemp('src'), tmp_path_factory.mktemp('wheel')
    names = 'settings.ini setup.py pyproject.toml MANIFEST.in README.md LICENSE constraints.txt'
    for name in names.split(): copy(ROOT/name, src)
    copytree(ROOT/'shakespeare_ffn', src/'shakespeare_ffn', ignore=ignore_patterns('__pycache__'))
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', out, src)
    return next(out.glob('*.whl'))

@pytest.fixture(scope='module')
def env(wheel, tmp_path_factory):
    "An environment with the wheel; what the wheel needs is lent by the one that runs the tests"
    env = tmp_path_factory.mktemp('env')
    venv.create(env, with_pip=False)
    python = scripts(env)/'python'
    site = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip())
    lent = dict.fromkeys([sysconfig.get_path('purelib'), sysconfig.get_path('platlib')])
    (site/'lent.pth').write_text('\n'.join(lent), encoding='utf-8')
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', wheel)
    return env

@pytest.fixture
def elsewhere(tmp_path):
    "Arguments for a process that cannot see the checkout, but for the corpus beside it"
    environ = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    environ['SHAKESPEARE_FFN_SCALE'] = 'smoke'
    corpus = ROOT.parent/'shared'/'tinyshakespeare.txt'
    if corpus.exists(): environ.setdefault('SHAKESPEARE_FFN_TEXT', str(corpus))
    return dict(cwd=tmp_path, env=environ)

def test_wheel_carries_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = ROOT/'shakespeare_ffn'
    carried = '*.json', 'weights/*.safetensors', 'weights/*.kept', 'page/*'
    data = [p.relative_to(ROOT).as_posix() for pattern in carried for p in package.glob(pattern)]
    assert data and set(data) <= set(names)
    assert not [n for n in names if not n.startswith('shakespeare_ffn')]

def test_package_comes_from_the_wheel(env, elsewhere):
    python = scripts(env)/'python'
    file = run(python, '-c', 'import shakespeare_ffn; print(shakespeare_ffn.__file__)', **elsewhere).strip()
    assert Path(file).is_relative_to(env)
    if os.name == 'posix':
        assert str(env) in (scripts(env)/'ffn_explain').read_text(encoding='utf-8').splitlines()[0]

COMMANDS = 'ffn_explain', 'ffn_train', 'ffn_calibrate', 'ffn_counts', 'ffn_shards', 'ffn_cache', 'ffn_explore'
HELP = """
from importlib.metadata import entry_points
for command in entry_points(group='console_scripts'):
    if command.value.startswith('shakespeare_ffn'):
        try: command.load()(['--help'])
        except SystemExit as ended: assert not ended.code
"""

def test_every_command_is_there(env, elsewhere):
    "A script for each (that of `ffn_explain` runs below), and what each calls has help."
    for name in COMMANDS: assert [p for p in scripts(env).iterdir() if p.stem == name]
    output = run(scripts(env)/'python', '-c', HELP, **elsewhere)
    assert all(f'usage: {name}' in output for name in COMMANDS) and output.count('usage: ') == len(COMMANDS)

def test_explains_a_prompt(env, elsewhere):
    "One of two characters, as its index is soon made."
    explanation = json.loads(run(scripts(env)/'ffn_explain', '--json', 'to', **elsewhere))
    assert (explanation['prompt'], explanation['length']) == ('to', 2)
    assert (explanation['scale'], len(explanation['blocks'])) == ('smoke', 1)
    assert abs(sum(explanation['model'].values()) - 1) < 1e-3 and 0 <= explanation['hellinger'] <= 1

def test_a_folder_of_its_name_where_one_stands(tmp_path):
    "as a clone is for who stands beside it: the package's files are not looked for there"
    (tmp_path/'shakespeare_ffn').mkdir()
    ask = 'from shakespeare_ffn.core import WEIGHTS; print(WEIGHTS.exists())'
    assert run(sys.executable, '-c', ask, cwd=tmp_path) == 'True\n'
