"`ffn_train`: killed and taken up, in several processes, on a text of one's own; and what bad input gets."
import importlib.util, json, signal, subprocess, sys
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file, save_file
from shakespeare_ffn import training
from shakespeare_ffn.data import UserError
from shakespeare_ffn.explain import main as explain
from shakespeare_ffn.model import Config, Transformer, load_model, save_model
from shakespeare_ffn.training import main

TRAIN = 'from shakespeare_ffn.training import main; main()'

@pytest.fixture
def text(tmp_path, corpus):
    "A text of one's own, with fewer characters than Shakespeare's"
    path = tmp_path/'mine.txt'
    path.write_text(corpus.text[:30_000].lower(), encoding='utf-8')
    return path

def new_run(*args): return training.new_run(training.parser().parse_args([str(a) for a in args]))

def done(checkpoint) -> int: return torch.load(checkpoint)['done']

def refused(capsys, *args, begun=False) -> str:
    "The line that a command ends with; the only one, unless training had begun."
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended: main([str(a) for a in args])
    out, err = capsys.readouterr()
    *before, last = err.splitlines()
    assert (ended.value.code, out) == (2, '') and last.startswith('ffn_train: ') and bool(before) == begun and 'Traceback' not in err, err
    return last

HIT = """
import os, signal, sys
import shakespeare_ffn.training as t
real, sent, t.SAVE_EVERY = t.step, signal.Signals[sys.argv.pop(1)], float(sys.argv.pop(1))
def step(model, optimisers, recipe, number, x, y):
    if number == 12: os.kill(os.getpid(), sent)
    return real(model, optimisers, recipe, number, x, y)
t.step = step
t.main()
"""

@pytest.mark.posix
@pytest.mark.parametrize('sent, save_every, n_done', [('SIGKILL', 180, 10), ('SIGKILL', 0, 12), ('SIGINT', 180, 13)]) # looks at 5, 10, 15, 20
def test_killed_and_taken_up_it_ends_where_an_unbroken_run_ends(text, tmp_path, start, sent, save_every, n_done):
    whole, broken, checkpoint = tmp_path/'whole', tmp_path/'broken', tmp_path/'broken.checkpoint'
    options = ['--text', str(text), '--device', 'cpu', '--output']
    main([*options, str(whole)])
    process = start(HIT, sent, save_every, *options, broken)
    _, err = process.communicate(timeout=100)
    assert process.returncode == (130 if sent == 'SIGINT' else -signal.SIGKILL) and 'Traceback' not in err, err
    assert done(checkpoint) == n_done and not broken.exists()
    main([*options, str(broken), '--resume'])
    one, other = load_file(whole), load_file(broken)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert not checkpoint.exists() and (tmp_path/'broken.png').exists()

def test_time_counts_on(text, tmp_path):
    run = new_run('--text', text, '--device', 'cpu')
    run.began -= 1000
    run.save(tmp_path/'c')
    again = new_run('--text', text, '--device', 'cpu')
    again.load(tmp_path/'c')
    assert 1000 < again.go(tmp_path/'c', quiet=True).kept['seconds'] < 1100

def test_what_it_makes_can_be_explained(text, tmp_path, capsys):
    model = tmp_path/'mine.safetensors'
    main(['--text', str(text), '--output', str(model), '--seed', '3'])
    said = load_model(model).metadata
    assert {'seed', 'steps', 'train_loss', 'val_loss', 'corpus_sha256', 'recipe', 'torch', 'seconds', 'device'} <= said.keys()
    assert said['seed'] == '3' and float(said['val_loss']) < 3.5
    capsys.readouterr()
    explain(['the ', '--text', str(text), '--model', str(model), '--thresholds', '.9,.9', '--weights', '1,1', '--json'])
    assert len(json.loads(capsys.readouterr().out)['blocks']) == 2

HISTORY = """
import json, os, sys
from dataclasses import replace
import torch, torch.distributed as dist
import shakespeare_ffn.training as t
torch.set_num_threads(1)
if sys.argv.pop(1) == 'float32': torch.Tensor.bfloat16 = torch.Tensor.float
t.RECIPES = {name: replace(r, dropout=0., bfloat16=False) for name, r in t.RECIPES.items()} # each process draws its own dropout
if 'RANK' in os.environ: dist.init_process_group('gloo')
run = t.new_run(t.parser().parse_args(sys.argv[2:])).go(sys.argv[1], quiet=True)
if t.ranks()[0] == 0: print(json.dumps(run.history))
if dist.is_initialized(): dist.destroy_process_group()
"""
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']

@pytest.mark.parametrize('recipe, muon, tolerance', [('article', 'float32', 1e-5), ('fast', 'float32', 1e-5), ('fast', 'bfloat16', 1e-3)]) # what Muon orthogonalises in
def test_two_processes_learn_what_one_learns(text, tmp_path, recipe, muon, tolerance):
    (tmp_path/'history.py').write_text(HISTORY, encoding='utf-8')
    def history(*python):
        args = ['--text', text, '--recipe', recipe, '--device', 'cpu']
        done = subprocess.run([sys.executable, *python, tmp_path/'history.py', muon, tmp_path/f'{len(python)}.checkpoint', *args],
                              capture_output=True, text=True, encoding='utf-8', timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        return [loss for look in json.loads(done.stdout.splitlines()[-1]) for loss in (look['train'], look['val'])]
    two = history(*TORCHRUN)
    assert two == pytest.approx(history(), abs=tolerance) and two[-1] < two[1]

def test_the_command_in_two_processes(text, tmp_path):
    command = Path(sys.executable).with_name('ffn_train')
    done = subprocess.run([sys.executable, *TORCHRUN, '--no-python', command, '--text', text, '--output', tmp_path/'w', '--device', 'cpu'],
                          capture_output=True, text=True, encoding='utf-8', timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_model(tmp_path/'w').metadata['steps'] == '20' and done.stderr.count('parameters learn from') == 1

def test_bad_text(capsys, tmp_path):
    short, one, binary = tmp_path/'short', tmp_path/'one', tmp_path/'binary'
    short.write_text('ab'*320, encoding='utf-8'); one.write_text('a'*10_000, encoding='utf-8'); binary.write_bytes(b'\xff\xfe')
    assert '640 characters; it needs at least 641' in refused(capsys, '--text', short)
    assert 'one distinct character' in refused(capsys, '--text', one)
    assert 'UTF-8' in refused(capsys, '--text', binary)
    assert 'cannot read' in refused(capsys, '--text', tmp_path/'nowhere')
    short.write_text('ab'*320 + 'a', encoding='utf-8')
    assert len(new_run('--text', short).val) == 65

def test_bad_options(capsys, text, tmp_path, monkeypatch):
    assert "'abacus'" in refused(capsys, '--device', 'abacus')
    for steps in '-4', '0': assert 'at least 1' in refused(capsys, '--text', text, '--steps', steps)
    for seed in '-1', '1.5', str(2**64): assert f"'{seed}' is not a seed" in refused(capsys, '--text', text, '--seed', seed)
    for loss in 'nan', 'inf', '0': assert f"'{loss}' is not a loss" in refused(capsys, '--text', text, '--stop-at', loss)
    assert 'slow' in refused(capsys, '--recipe', 'slow')
    assert 'to go on from' in refused(capsys, '--text', text, '--output', tmp_path/'new', '--resume')
    monkeypatch.setattr(training, 'ranks', lambda: (0, 3))
    assert '3 processes cannot share batches of 8' in refused(capsys, '--text', text)

def test_the_largest_seed(text, tmp_path):
    run = new_run('--text', text, '--seed', 2**63-1)
    run.advance(); run.save(tmp_path/'c'); run.load(tmp_path/'c')

@pytest.mark.parametrize('there', ['w', 'w.png', 'w.checkpoint'])
def test_nothing_is_overwritten(capsys, text, tmp_path, there):
    (tmp_path/there).write_text('precious', encoding='utf-8')
    assert f'{there} is there already' in refused(capsys, '--text', text, '--output', tmp_path/'w')
    assert (tmp_path/there).read_text(encoding='utf-8') == 'precious'

@pytest.mark.posix
def test_places_that_cannot_be_written(capsys, text, tmp_path):
    for place in text/'w', tmp_path/('w'*250), tmp_path/('w'*230), Path('/proc/nowhere/w'):
        assert f'cannot write {place}' in refused(capsys, '--text', text, '--output', place)
    for place in '.', '/', tmp_path: assert 'is there already' in refused(capsys, '--text', text, '--output', place)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']

def test_a_foreign_checkpoint(capsys, text, tmp_path):
    new_run('--text', text, '--seed', '7').save(tmp_path/'w.checkpoint')
    before = (tmp_path/'w.checkpoint').read_bytes()
    assert 'its seed differs' in refused(capsys, '--text', text, '--output', tmp_path/'w', '--resume')
    assert (tmp_path/'w.checkpoint').read_bytes() == before

@pytest.mark.posix
def test_a_full_disk(text, tmp_path, start):
    output, checkpoint = tmp_path/'w', tmp_path/'w.checkpoint'
    args = ['--text', str(text), '--output', str(output)]
    new_run(*args).go(checkpoint, stop_at=99, quiet=True) # to its first look at the losses
    before = checkpoint.read_bytes()
    process = start(f'import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
                    f'resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before)//2},)*2); {TRAIN}', *args, '--resume')
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and 'make room' in err.splitlines()[-1] and 'Traceback' not in err, err
    assert checkpoint.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ['mine.txt', 'w.checkpoint']

def test_the_weights_nearest_to_the_target_are_kept(text, tmp_path):
    run = new_run('--text', text, '--device', 'cpu')
    run.target = 3.6
    run.go(tmp_path/'c', quiet=True)
    assert run.kept['losses'] == min(run.history, key=lambda look: abs(look['train']-3.6)) and run.kept['losses']['step'] < 20

def test_it_says_what_it_does(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training.Run, 'sample', lambda run: 'Speak, speak.')
    main(['--text', str(text), '--output', str(tmp_path/'w')])
    out, err = capsys.readouterr()
    assert '20 steps of 8 × 64 characters' in err and err.count('about 0 minutes to go here') == 5
    for said in 'train', 'validation', '(kept)', 'losses in float32 and over 2 random batches': assert said in err
    assert str(tmp_path/'w') in out and err.index('Speak, speak.') < err.index('step 5:') # a sample before the first look's news

def nan_loss(real, *args): return float('nan')

def nan_weights(real, model, *args):
    loss = real(model, *args)
    with torch.no_grad(): model.lm_head.weight.fill_(float('nan'))
    return loss

@pytest.mark.parametrize('ill, number, save_every, n_done', [(nan_loss, 7, 180, 5),                       # the loss of a step
                                                             (nan_weights, 9, 180, 5),                    # the step before a look
                                                             (nan_weights, 7, 0, 7), (nan_weights, 9, 0, 9)]) # before any checkpoint
def test_numbers_that_are_not_finite(capsys, text, tmp_path, monkeypatch, ill, number, save_every, n_done):
    real, checkpoint = training.step, tmp_path/'w.checkpoint'
    def step(model, o, recipe, n, x, y): return ill(real, model, o, recipe, n, x, y) if n == number else real(model, o, recipe, n, x, y)
    monkeypatch.setattr(training, 'step', step)
    monkeypatch.setattr(training, 'SAVE_EVERY', save_every)
    said = refused(capsys, '--text', text, '--output', tmp_path/'w', begun=True)
    assert f'not finite at step {number + (ill is nan_weights)}; the last good checkpoint is kept' in said
    state = torch.load(checkpoint)
    assert state['done'] == n_done and all(v.isfinite().all() for v in state['model'].values()) and not (tmp_path/'w').exists()
    assert [h['step'] for h in state['history']] == [5] == [state['kept']['losses']['step']]

@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('models', Path(__file__).parents[1]/'tools'/'models.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_only_models_of_the_fast_recipe_count(tool, corpus, tmp_path, new_cache, monkeypatch):
    by = lambda recipe, seed: dict(seed=str(seed), recipe=recipe)
    fast = json.dumps(training.asdict(training.FAST))
    assert tool.kept(1337) # the package's
    assert all(tool.kept(seed) for seed in tool.SEEDS) # the alternates' in results/
    monkeypatch.setattr(tool, 'distributions', lambda seed: tmp_path/f'{seed}')
    for said, fits in (by(fast, 88), True), (by('{}', 88), False), (by(fast, 1442), False):
        save_file(dict(probs=torch.ones(1, 65)), tmp_path/'88', said)
        assert tool.kept(88) == fits
    assert not tool.kept(99999)
    output = training.default_output(corpus, 'fast', 88)
    save_model(Transformer(Config(n_layer=1, n_head=1, n_embed=8)), output, by('{}', 88), corpus.tokenizer.chars)
    with pytest.raises(UserError, match=f'{output} is not the model of seed 88'): tool.make(88, 'cpu', corpus)
