"`ffn_train`: killed and taken up, in several processes, on a text of one's own; and what bad input gets."
import json, signal, subprocess, sys, time
import pytest, torch
from safetensors.torch import load_file
from shakespeare_ffn import training
from shakespeare_ffn.explain import main as explain
from shakespeare_ffn.model import load_model
from shakespeare_ffn.training import main

TRAIN = 'from shakespeare_ffn.training import main; main()'

@pytest.fixture
def text(tmp_path, corpus):
    "A text of one's own, with fewer characters than Shakespeare's"
    path = tmp_path/'mine.txt'
    path.write_text(corpus.text[:30_000].lower())
    return path

def refused(capsys, *args) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended: main([str(a) for a in args])
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert (ended.value.code, out) == (2, '') and last.startswith('ffn_train: ') and 'Traceback' not in err, err
    return last

def test_killed_and_taken_up_it_ends_where_an_unbroken_run_ends(text, tmp_path, start, monkeypatch):
    whole, broken = tmp_path/'whole.safetensors', tmp_path/'broken.safetensors'
    main(['--text', str(text), '--output', str(whole)])
    process = start(TRAIN, '--text', text, '--output', broken)
    checkpoint = tmp_path/'broken.safetensors.checkpoint'
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(.005)
    process.send_signal(signal.SIGKILL); process.wait()
    assert not broken.exists()
    main(['--text', str(text), '--output', str(broken), '--resume'])
    one, other = load_file(whole), load_file(broken)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert not checkpoint.exists() and broken.with_suffix('.png').exists()

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
t.RECIPES = {name: replace(r, dropout=0., bfloat16=False) for name, r in t.RECIPES.items()} # each process draws its own dropout
if 'RANK' in os.environ: dist.init_process_group('gloo')
run = t.new_run(t.parser().parse_args(sys.argv[2:])).go(sys.argv[1], quiet=True)
if t.ranks()[0] == 0: print(json.dumps(run.history))
if dist.is_initialized(): dist.destroy_process_group()
"""

@pytest.mark.parametrize('recipe, tolerance', [('article', 1e-5), ('fast', 1e-3)]) # Muon orthogonalises in bfloat16
def test_two_processes_learn_what_one_learns(text, tmp_path, recipe, tolerance):
    (tmp_path/'history.py').write_text(HISTORY)
    def history(*python):
        args = ['--text', text, '--recipe', recipe]
        done = subprocess.run([sys.executable, *python, tmp_path/'history.py', tmp_path/f'{len(python)}.checkpoint', *args], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        return [loss for look in json.loads(done.stdout.splitlines()[-1]) for loss in (look['train'], look['val'])]
    two = history('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    assert two == pytest.approx(history(), abs=tolerance) and two[-1] < two[1]

def test_bad_text(capsys, tmp_path):
    short, one, binary = tmp_path/'short', tmp_path/'one', tmp_path/'binary'
    short.write_text('To be, or not to be'); one.write_text('a'*10_000); binary.write_bytes(b'\xff\xfe')
    assert 'needs more than' in refused(capsys, '--text', short)
    assert 'one distinct character' in refused(capsys, '--text', one)
    assert 'UTF-8' in refused(capsys, '--text', binary)
    assert 'cannot read' in refused(capsys, '--text', tmp_path/'nowhere')

def test_bad_options(capsys, text, tmp_path):
    assert "'abacus'" in refused(capsys, '--device', 'abacus')
    assert 'at least 1' in refused(capsys, '--text', text, '--steps', '-4')
    assert 'slow' in refused(capsys, '--recipe', 'slow')
    assert 'to go on from' in refused(capsys, '--text', text, '--output', tmp_path/'new', '--resume')

def test_nothing_is_overwritten(capsys, text, tmp_path):
    there = tmp_path/'there.safetensors'
    there.write_text('precious')
    assert 'is there already' in refused(capsys, '--text', text, '--output', there)
    assert there.read_text() == 'precious'

def test_a_foreign_checkpoint(capsys, text, tmp_path):
    output, run = tmp_path/'w', training.new_run(training.parser().parse_args(['--text', str(text), '--seed', '7']))
    run.save(tmp_path/'w.checkpoint')
    before = (tmp_path/'w.checkpoint').read_bytes()
    assert 'its seed differs' in refused(capsys, '--text', text, '--output', output, '--resume')
    assert (tmp_path/'w.checkpoint').read_bytes() == before

def test_a_full_disk(text, tmp_path, start):
    output, checkpoint = tmp_path/'w', tmp_path/'w.checkpoint'
    args = ['--text', str(text), '--output', str(output)]
    training.new_run(training.parser().parse_args(args)).go(checkpoint, stop_at=99, quiet=True) # to its first look at the losses
    before = checkpoint.read_bytes()
    process = start(f'import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
                    f'resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before)//2},)*2); {TRAIN}', *args, '--resume')
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and 'make room' in err.splitlines()[-1] and 'Traceback' not in err, err
    assert checkpoint.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ['mine.txt', 'w.checkpoint']

def test_it_says_what_it_does(text, tmp_path, capsys):
    main(['--text', str(text), '--output', str(tmp_path/'w')])
    out, err = capsys.readouterr()
    assert '20 steps of 8 × 64 characters' in err and 'about 0 minutes to go here' in err
    for said in 'train', 'validation', '(kept)': assert said in err
    assert str(tmp_path/'w') in out

def test_a_loss_that_is_not_a_number(capsys, text, tmp_path, monkeypatch):
    real = training.step
    monkeypatch.setattr(training, 'step', lambda model, o, r, number, x, y: float('nan') if number == 7 else real(model, o, r, number, x, y))
    assert 'nan at step 7' in refused(capsys, '--text', text, '--output', tmp_path/'w')
    assert (tmp_path/'w.checkpoint').exists() and not (tmp_path/'w').exists()
