"`make explain PROMPT=…` hands the prompt over as it was typed."
import os, shutil, subprocess, sys
from pathlib import Path
import pytest

pytestmark = pytest.mark.skipif(os.name != 'posix' or not shutil.which('make'), reason='there is no make')
ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ['And only l', "o'er the l", 'say "no', """both ' and " here""", ' she may l', '  \t two blanks',
           'trailing  ', '   ', '',
           '--top', '-h', '$HOME $(shell echo x) $$ `id`', r"KING:\nO, my", r"\\nu and \alpha \\\\",
           'ends in \\', 'a#b;c&d|e>f*', 'a=b PROMPT=c', 'two\nlines']

@pytest.fixture(scope='module')
def venv(tmp_path_factory):
    "An environment that make takes for finished, whose `ffn_explain` prints its arguments"
    venv = tmp_path_factory.mktemp('venv')
    (venv/'bin').mkdir()
    (venv/'bin'/'python').symlink_to(sys.executable)
    stub = venv/'bin'/'ffn_explain'
    stub.write_text(f'#!{sys.executable}\nimport sys\nprint(ascii(sys.argv[1:]))\n', encoding='utf-8')
    stub.chmod(0o755)
    (venv/'run.ok').write_text(f'{ROOT}\n', encoding='utf-8')
    return venv

def run_make(venv, *args):
    env = {k: v for k, v in os.environ.items() if not k.startswith(('MAKE', 'MFLAGS', 'PROMPT'))}
    return subprocess.run(['make', f'VENV={venv}', *args], cwd=ROOT, env=env, capture_output=True, text=True,
                          encoding='utf-8')

def make(venv, *args):
    done = run_make(venv, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip('\n')

@pytest.mark.parametrize('prompt', PROMPTS, ids=ascii)
def test_prompt_arrives_whole(venv, prompt):
    assert make(venv, 'explain', f'PROMPT={prompt}') == ascii(['--', prompt])

def test_default_prompt_and_further_options(venv):
    assert make(venv, 'explain') == ascii(['--', 'And only l'])
    assert make(venv, 'explain', 'ARGS=--top 3 --json',
                'PROMPT= she may l') == ascii(['--top', '3', '--json', '--', ' she may l'])

def test_an_environment_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path/'bin').mkdir()
    (tmp_path/'bin'/'python').symlink_to(sys.executable)
    done = run_make(tmp_path, f'{tmp_path}/run.ok', 'PYTHON=false')
    assert done.returncode == 2 and 'make did not make it' in done.stderr
    assert [*tmp_path.rglob('*')] == [tmp_path/'bin', tmp_path/'bin'/'python']

def install(venv, script):
    "What make says while it installs into an environment whose Python is a shell script"
    (venv/'bin').mkdir()
    (venv/'run.ok').write_text(f'{ROOT}\n', encoding='utf-8')
    stub = venv/'bin'/'python'
    stub.write_text(f'#!/bin/sh\n{script}\n', encoding='utf-8')
    stub.chmod(0o755)
    return make(venv, f'{venv}/dev.ok')

def test_a_pip_too_old_is_replaced_first(tmp_path):
    "pip 21.2, which some Pythons bring, cannot install a checkout; 23 takes twice as long as 25"
    install(tmp_path, f'echo "$*" >>{tmp_path}/asked')
    first, then = [line for line in (tmp_path/'asked').read_text(encoding='utf-8').splitlines()
                   if '-m pip install' in line]
    assert first.endswith(' pip>=25') and '-e .[test]' in then

@pytest.mark.parametrize('collected, hints', [(['nvidia-cublas', 'nvidia-cudnn-cu13'], 1), ([], 0)])
def test_cuda_is_said_once_before_it_is_downloaded(tmp_path, collected, hints):
    "and with it where the small build is"
    of_pip = ['Collecting torch>=2.9', *(f'Collecting {name}==13' for name in collected),
              '  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (527.0 MB)']
    output = install(tmp_path, f'case "$*" in *-e*) printf "%s\\n" {" ".join(map(repr, of_pip))};; esac')
    before, torch, _ = output.partition('  torch-2.13.0-')
    assert torch and output.count('whl/cpu') == before.count('whl/cpu') == hints, output
