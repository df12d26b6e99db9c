"`ffn_train`: killed and taken up, in several processes, on a text of one's own; and what bad input gets."
import importlib.util, io, json, os, re, signal, subprocess, sys, threading
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from shakespeare_ffn import training
from shakespeare_ffn.alternate_models import load_distributions
from shakespeare_ffn.core import Processes, UserError
from shakespeare_ffn.learned_measure import calibrate_measure
from shakespeare_ffn.nearest_strings import calibrate_nearest
from shakespeare_ffn.similar_space import calibrate
from shakespeare_ffn.explain import calibrate_main, main as explain
from shakespeare_ffn.model import Config, Transformer, load_model, save_model
from shakespeare_ffn.training import main, mean_loss
from forked import python, ranks

@pytest.fixture
def text(tmp_path, corpus):
    "A text of one's own, with fewer characters than Shakespeare's"
    path = tmp_path/'mine.txt'
    path.write_text(corpus.text[:10_000].lower(), encoding='utf-8')
    return path

def new_run(*args): return training._new_run(training._parser().parse_args([str(a) for a in args]))

def done(checkpoint) -> int: return torch.load(checkpoint)['done']

def refused(capsys, *args, begun=False) -> str:
    "The line that a command ends with; the only one, unless training had begun."
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended: main([str(a) for a in args])
    out, err = capsys.readouterr()
    *before, last = err.splitlines()
    assert (ended.value.code, out) == (2, '') and last.startswith('ffn_train: '), err
    assert bool(before) == begun and 'Traceback' not in err, err
    return last

HIT = """
import os, signal, sys
import shakespeare_ffn.training as t
real, sent, t._SAVE_EVERY = t.step, signal.Signals[sys.argv.pop(1)], float(sys.argv.pop(1))
def step(model, optimisers, recipe, number, x, y):
    if number == 12: os.kill(os.getpid(), sent)
    return real(model, optimisers, recipe, number, x, y)
t.step = step
t.main()
"""

# what hits, how often a checkpoint is written, the steps in the last one; evaluations at 5, 10, 15, 20
HITS = {'SIGKILL at a look': ('SIGKILL', 180, 10), 'SIGKILL between': ('SIGKILL', 0, 12),
        'SIGINT': ('SIGINT', 180, 13)}

@pytest.fixture(scope='module')
def hit(corpus, tmp_path_factory):
    "Runs that are hit, all at once, and the weights of one that is not."
    folder, processes = tmp_path_factory.mktemp('hit'), {}
    (folder/'mine.txt').write_text(corpus.text[:10_000].lower(), encoding='utf-8')
    options = ['--text', str(folder/'mine.txt'), '--device', 'cpu', '--output']
    for name, (sent, save_every, _) in HITS.items():
        args = [sent, str(save_every), *options, str(folder/name)]
        processes[name] = python(HIT, *args)
    main([*options, str(folder/'whole')])
    yield options, folder, processes, load_file(folder/'whole')
    for p in processes.values(): p.kill()

@pytest.mark.posix
@pytest.mark.parametrize('name', HITS)
def test_killed_and_taken_up_it_ends_where_an_unbroken_run_ends(hit, name):
    (options, folder, processes, whole), (sent, _, n_done) = hit, HITS[name]
    broken, checkpoint = folder/name, folder/f'{name}.checkpoint'
    _, err = processes[name].communicate(timeout=200)
    expected = 130 if sent == 'SIGINT' else -signal.SIGKILL
    assert processes[name].returncode == expected and 'Traceback' not in err, err
    assert done(checkpoint) == n_done and not broken.exists()
    main([*options, str(broken), '--resume'])
    other = load_file(broken)
    assert whole.keys() == other.keys() and all(torch.equal(whole[k], other[k]) for k in whole)
    assert not checkpoint.exists() and (folder/f'{name}.png').exists()

def test_time_counts_on(text, tmp_path):
    run = new_run('--text', text, '--device', 'cpu')
    run.began -= 1000
    run.save(tmp_path/'c')
    again = new_run('--text', text, '--device', 'cpu')
    again.load(tmp_path/'c')
    assert 1000 < again.train(tmp_path/'c', quiet=True).kept['seconds'] < 1100

def test_what_it_makes_can_be_explained(text, tmp_path, capsys):
    model = tmp_path/'mine.safetensors'
    main(['--text', str(text), '--output', str(model), '--seed', '3'])
    metadata = load_model(model).metadata
    assert {'seed', 'steps', 'train_loss', 'val_loss', 'corpus_sha256'} <= metadata.keys()
    assert {'recipe', 'torch', 'seconds', 'device'} <= metadata.keys()
    assert metadata['seed'] == '3' and float(metadata['val_loss']) < 3.5
    capsys.readouterr()
    own = ['--text', str(text), '--model', str(model)]
    explain(['the ', *own, '--thresholds', '.9,.9', '--weights', '1,1', '--json'])
    assert len(json.loads(capsys.readouterr().out)['blocks']) == 2

def test_what_it_makes_can_be_tuned(text, tmp_path, capsys, new_cache, monkeypatch):
    monkeypatch.setattr('shakespeare_ffn.explain.calibrate', partial(calibrate, n=50))
    few = partial(calibrate_nearest, n=50, betas=(10,))
    monkeypatch.setattr('shakespeare_ffn.explain.calibrate_nearest', few)
    model = tmp_path/'mine.safetensors'
    main(['--text', str(text), '--output', str(model)])
    own = ['--text', str(text), '--model', str(model)]
    capsys.readouterr()
    with pytest.raises(SystemExit): explain(['the ', *own])
    assert 'run ffn_calibrate' in capsys.readouterr().err
    calibrate_main(own)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('thresholds: ') and lines[0].count(',') == 1 and 'tuned on' in lines[1]
    assert lines[2].startswith('1,000 nearest, block ') and len(lines) == 4
    for rule in [], ['--thresholds', 'tuned']:
        explain(['the ', *own, '--json', *rule])
        assert len(json.loads(capsys.readouterr().out)['blocks']) == 2

MEASURED = 'the nearest by a learned measure'

def test_a_measure_of_what_it_makes(text, tmp_path, capsys, new_cache, monkeypatch):
    monkeypatch.setattr('shakespeare_ffn.explain.calibrate', partial(calibrate, n=50))
    few = partial(calibrate_nearest, n=50, betas=(10,))
    monkeypatch.setattr('shakespeare_ffn.explain.calibrate_nearest', few)
    short = partial(calibrate_measure, rounds=1, n=64, size=8)
    monkeypatch.setattr('shakespeare_ffn.explain.calibrate_measure', short)
    model = tmp_path/'mine.safetensors'
    main(['--text', str(text), '--output', str(model)])
    own = ['--text', str(text), '--model', str(model)]
    def rules(*options):
        capsys.readouterr()
        explain(['the ', *own, '--json', *options])
        return [b['rule'] for b in json.loads(capsys.readouterr().out)['blocks']]
    capsys.readouterr()
    calibrate_main([*own, '--measure'])
    assert re.match(r'mean distance to the model: 0\.\d{4} by the measure\n', capsys.readouterr().out)
    assert rules() == [MEASURED]
    calibrate_main(own)
    by_cosine = rules('--cosine')
    assert rules() == [MEASURED] and MEASURED not in by_cosine
    # one that is nearer is kept, another is not
    for away, learned in (dict(measure=.1, cosine=.2), [MEASURED]), (dict(measure=.2, cosine=.1), by_cosine):
        def distance_apart(rule, *_): return away['measure' if hasattr(rule, 'measure') else 'cosine']
        monkeypatch.setattr('shakespeare_ffn.explain.distance_apart', distance_apart)
        calibrate_main([*own, '--measure'])
        said = capsys.readouterr().out
        assert ' by the measure, ' in said and ('not kept' in said) == (learned == by_cosine)
        assert rules() == learned

HISTORIES = """
import json, os, sys
from dataclasses import replace
import torch, torch.distributed as dist
import shakespeare_ffn.training as t
torch.set_num_threads(1)
# each process draws its own dropout
t.RECIPES = {name: replace(r, dropout=0.) for name, r in t.RECIPES.items()}

def losses(checkpoint):
    "The losses on the way of a run in each arithmetic, and of the article's recipe."
    found = []
    for recipe, arithmetic in ('article', 'float32'), ('fast', 'float32'), ('fast', 'bfloat16'):
        os.environ['SHAKESPEARE_FFN_ARITHMETIC'] = arithmetic
        run = t._new_run(t._parser().parse_args([*sys.argv[2:], '--recipe', recipe, '--steps', '10']))
        run.train(f'{checkpoint}-{recipe}-{arithmetic}', quiet=True)
        found.append([now[part] for now in run.history for part in ('train', 'val')])
    return found

first = os.environ['RANK'] == '0'
alone = losses(f'{sys.argv[1]}-alone') if first else None # nothing has joined them yet
dist.init_process_group('gloo')
together = losses(f'{sys.argv[1]}-together')
if first: print(json.dumps([alone, together]))
dist.destroy_process_group()
"""
TORCHRUN = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
CAPTURED = dict(capture_output=True, text=True, encoding='utf-8')

def test_two_processes_learn_what_one_learns(text, tmp_path, start):
    args = tmp_path/'checkpoint', '--text', text, '--device', 'cpu'
    both = [start(HISTORIES, *args, env=rank) for rank in ranks(2)]
    (output, error), _ = [p.communicate(timeout=200) for p in both]
    assert [p.returncode for p in both] == [0, 0], error[-2000:]
    # bfloat16 rounds what differs in order
    for one, two, tolerance in zip(*json.loads(output), (1e-5, 1e-5, 3e-3), strict=True):
        assert two == pytest.approx(one, abs=tolerance) and two[-1] < two[1]

@pytest.mark.slow('half a minute; two processes that are started alike learn what one learns')
def test_the_command_in_two_processes(text, tmp_path):
    "And with a backend of matplotlib in the environment that is none."
    command = Path(sys.executable).with_name('ffn_train')
    args = [command, '--text', text, '--output', tmp_path/'w', '--device', 'cpu']
    done = subprocess.run([sys.executable, *TORCHRUN, '--no-python', *args], timeout=200,
                          env=os.environ | dict(MPLBACKEND='nonsense'), **CAPTURED)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_model(tmp_path/'w').metadata['steps'] == '20'
    assert done.stderr.count('parameters learn from') == 1

def test_bad_text(capsys, tmp_path):
    short, one, binary = tmp_path/'short', tmp_path/'one', tmp_path/'binary'
    short.write_text('ab'*320, encoding='utf-8')
    one.write_text('a'*10_000, encoding='utf-8')
    binary.write_bytes(b'\xff\xfe')
    assert '640 characters; it needs at least 641' in refused(capsys, '--text', short)
    assert 'one distinct character' in refused(capsys, '--text', one)
    assert 'UTF-8' in refused(capsys, '--text', binary)
    assert 'cannot read' in refused(capsys, '--text', tmp_path/'nowhere')
    short.write_text('ab'*320 + 'a', encoding='utf-8')
    assert len(new_run('--text', short).val_tokens) == 65

def test_bad_options(capsys, text, tmp_path, monkeypatch):
    assert "'abacus'" in refused(capsys, '--device', 'abacus')
    for steps in '-4', '0': assert 'at least 1' in refused(capsys, '--text', text, '--steps', steps)
    for seed in '-1', '1.5', str(2**64):
        assert f"'{seed}' is not a seed" in refused(capsys, '--text', text, '--seed', seed)
    for loss in 'nan', 'inf', '0':
        assert f"'{loss}' is not a loss" in refused(capsys, '--text', text, '--stop-at', loss)
    assert 'slow' in refused(capsys, '--recipe', 'slow')
    assert 'to go on from' in refused(capsys, '--text', text, '--output', tmp_path/'new', '--resume')
    monkeypatch.setattr(training, 'processes', lambda: Processes(3, 0))
    assert '3 processes cannot share batches of 8' in refused(capsys, '--text', text)

def test_the_largest_seed(text, tmp_path):
    run = new_run('--text', text, '--seed', 2**63-1)
    run.advance()
    run.save(tmp_path/'c')
    run.load(tmp_path/'c')

@pytest.mark.parametrize('there', ['w', 'w.png', 'w.checkpoint'])
def test_nothing_is_overwritten(capsys, text, tmp_path, there):
    (tmp_path/there).write_text('precious', encoding='utf-8')
    assert f'{there} is there already' in refused(capsys, '--text', text, '--output', tmp_path/'w')
    assert (tmp_path/there).read_text(encoding='utf-8') == 'precious'

@pytest.mark.posix
def test_places_that_cannot_be_written(capsys, text, tmp_path):
    for place in text/'w', tmp_path/('w'*250), tmp_path/('w'*230), Path('/proc/nowhere/w'):
        assert f'cannot write {place}' in refused(capsys, '--text', text, '--output', place)
    for place in '.', '/', tmp_path:
        assert 'is there already' in refused(capsys, '--text', text, '--output', place)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']

def test_a_foreign_checkpoint(capsys, text, tmp_path):
    new_run('--text', text, '--seed', '7').save(tmp_path/'w.checkpoint')
    before = (tmp_path/'w.checkpoint').read_bytes()
    assert 'its seed differs' in refused(capsys, '--text', text, '--output', tmp_path/'w', '--resume')
    assert (tmp_path/'w.checkpoint').read_bytes() == before

@contextmanager
def files_up_to(n_bytes):
    "As on a full disk, no file can be larger."
    resource = pytest.importorskip('resource')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)

@pytest.mark.posix
def test_a_full_disk(capsys, text, tmp_path):
    output, checkpoint = tmp_path/'w', tmp_path/'w.checkpoint'
    args = ['--text', str(text), '--output', str(output)]
    new_run(*args).train(checkpoint, stop_at=99, quiet=True) # to its first look at the losses
    before = checkpoint.read_bytes()
    with files_up_to(len(before)//2): message = refused(capsys, *args, '--resume', begun=True)
    assert 'make room' in message
    assert checkpoint.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mine.txt', 'w.checkpoint']

def test_a_disk_that_is_full_at_the_end(capsys, text, tmp_path, monkeypatch):
    args = ['--text', text, '--output', tmp_path/'w', '--stop-at', 99] # to its first evaluation
    def full(*_): raise UserError('cannot write the weights: No space left on device; make room')
    with monkeypatch.context() as m:
        m.setattr(training, 'save_model', full)
        assert 'make room' in refused(capsys, *args, begun=True)
    assert done(tmp_path/'w.checkpoint') == 5 and not (tmp_path/'w').exists()
    main([*map(str, args), '--resume'])
    assert load_model(tmp_path/'w').metadata['steps'] and not (tmp_path/'w.checkpoint').exists()

def test_the_weights_nearest_to_the_target_are_kept(text, tmp_path):
    run = new_run('--text', text, '--device', 'cpu')
    run.target = 3.6
    run.train(tmp_path/'c', quiet=True)
    assert run.kept['losses'] == min(run.history, key=lambda now: abs(now['train']-3.6))
    assert run.kept['losses']['step'] < 20

def test_it_says_what_it_does(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training.Run, 'sample', lambda run: 'Speak, speak.')
    main(['--text', str(text), '--output', str(tmp_path/'w')])
    out, err = capsys.readouterr()
    assert '20 steps of 8 × 64 characters' in err and err.count('about 0 minutes to go here') == 5
    for message in 'train', 'validation', '(kept)', 'losses in float32 and over 2 random batches':
        assert message in err
    assert str(tmp_path/'w') in out
    assert err.index('Speak, speak.') < err.index('step 5:') # a sample before the first news

def test_a_sample_sends_nothing_raw(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training.Run, 'sample', lambda run: 'Speak,\n\x1b[31m\u202espeak.\x07')
    main(['--text', str(text), '--output', str(tmp_path/'w')])
    err = capsys.readouterr().err
    assert 'Speak,\n' in err and '[31m' in err and not {*'\x1b\u202e\x07'} & {*err}

def test_losses_leave_every_module_in_its_mode(corpus):
    model, tokens = Transformer(Config(n_layer=1, n_head=1, n_embed=8, block_size=16)), corpus.split()[1][:99]
    model.train()
    model.blocks[0].eval()
    losses = [[mean_loss(model, tokens), training.estimate(model, tokens, 1, False, 1, 2)] for _ in range(2)]
    assert losses[0] == losses[1] and model.training and not model.blocks[0].training
    with pytest.raises(ValueError, match='16 tokens are too few'): mean_loss(model, tokens[:16])

def nan_loss(real, *args): return float('nan')

def nan_weights(real, model, *args):
    loss = real(model, *args)
    with torch.no_grad(): model.lm_head.weight.fill_(float('nan'))
    return loss

ILL = [(nan_loss, 7, 180, 5),    # the loss of a step
       (nan_weights, 9, 180, 5), # the step before an evaluation
       (nan_weights, 7, 0, 7),   # the step before a checkpoint
       (nan_weights, 9, 0, 9)]   # before both

@pytest.mark.parametrize('ill, number, save_every, n_done', ILL)
def test_numbers_that_are_not_finite(capsys, text, tmp_path, monkeypatch, ill, number, save_every, n_done):
    real, checkpoint = training.step, tmp_path/'w.checkpoint'
    def step(model, optimisers, recipe, n, x, y):
        args = model, optimisers, recipe, n, x, y
        return ill(real, *args) if n == number else real(*args)
    monkeypatch.setattr(training, 'step', step)
    monkeypatch.setattr(training, '_SAVE_EVERY', save_every)
    message = refused(capsys, '--text', text, '--output', tmp_path/'w', begun=True)
    assert f'not finite at step {number + (ill is nan_weights)}; the last good checkpoint is kept' in message
    state = torch.load(checkpoint)
    assert state['done'] == n_done and all(v.isfinite().all() for v in state['model'].values())
    assert not (tmp_path/'w').exists()
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
    for metadata, fits in (by(fast, 88), True), (by('{}', 88), False), (by(fast, 1442), False):
        save_file(dict(probs=torch.ones(1, 65)/65), tmp_path/'88', metadata)
        assert tool.kept(88) == fits
    assert not tool.kept(99999)
    output = training.default_output(corpus, 'fast', 88)
    small = Transformer(Config(n_layer=1, n_head=1, n_embed=8))
    save_model(small, output, by('{}', 88), corpus.tokenizer.chars)
    with pytest.raises(UserError, match=f'{output} is not the model of seed 88'): tool.make(88, 'cpu', corpus)

def nonsense(*_):
    raise ValueError("Key backend: 'nonsense' is not a valid value for backend;\nsupported values are …")

def no_room(path, content):
    if path.suffix == '.png': raise UserError(f'cannot write {path}: No space left on device')
    path.write_bytes(content)

CAUSES = dict(MPLBACKEND=('plot_history', nonsense), memory=('plot_history', lambda *_: bytes(2**60)),
              room=('write_atomically', no_room), matplotlib=None)

@pytest.mark.parametrize('why', CAUSES)
def test_weights_are_written_whatever_keeps_the_curves(text, tmp_path, capsys, monkeypatch, why):
    if CAUSES[why]: monkeypatch.setattr(training, *CAUSES[why])
    else: monkeypatch.setitem(sys.modules, 'matplotlib.figure', None) # cannot be imported
    main(['--text', str(text), '--output', str(tmp_path/'w'), '--stop-at', '99']) # to its first evaluation
    out, err = capsys.readouterr()
    assert 'Traceback' not in err and 'no curves: ' in out and len(out.splitlines()) == 1
    assert load_model(tmp_path/'w').metadata['steps']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['mine.txt', 'w']

@pytest.fixture(scope='module')
def a_checkpoint(corpus, tmp_path_factory):
    "A run's options, and the bytes of its checkpoint."
    folder = tmp_path_factory.mktemp('run')
    (folder/'mine.txt').write_text(corpus.text[:10_000].lower(), encoding='utf-8')
    args = ['--text', folder/'mine.txt']
    new_run(*args).train(folder/'c', stop_at=99, quiet=True)
    return args, (folder/'c').read_bytes()

def cut(raw, at, n): return raw[:at]
def zeroed(raw, at, n): return raw[:at] + bytes(min(n, len(raw)-at)) + raw[at+n:]
def flipped(raw, at, n): return raw[:at] + bytes([raw[at] ^ 1]) + raw[at+1:]

def numbers(run): # all tensors that a run has
    states = [state for o in run.optimisers for state in o.state.values()]
    return [*run.model.parameters(), *(v for state in states for v in state.values())]

def same(a, b) -> bool: return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

@settings(max_examples=40, deadline=None)
@given(st.sampled_from([cut, zeroed, flipped]), st.floats(0, 1, exclude_max=True), st.integers(1, 5000))
def test_a_damaged_checkpoint_is_refused_or_is_the_same(a_checkpoint, tmp_path_factory, harm, where, n):
    "Zeros in a tensor, as a power cut leaves them, are read by PyTorch as if they were numbers."
    args, raw = a_checkpoint
    path = tmp_path_factory.mktemp('damaged')/'w'
    path.write_bytes(harm(raw, int(where*len(raw)), n))
    run = new_run(*args)
    try: run.load(path)
    except UserError as e:
        assert 'not a readable checkpoint; remove it' in str(e)
        return
    path.write_bytes(raw) # only the space between two tensors was hit
    sound = new_run(*args)
    sound.load(path)
    assert same(numbers(run), numbers(sound)) and run.history == sound.history

def test_zeros_in_the_middle_of_a_checkpoint(a_checkpoint, tmp_path):
    args, raw = a_checkpoint
    weights = torch.load(io.BytesIO(raw), map_location='cpu')['model']['blocks.0.ffwd.fc.weight']
    (tmp_path/'w').write_bytes(zeroed(raw, raw.index(weights.numpy().tobytes()), 4096))
    assert (torch.load(tmp_path/'w')['model']['blocks.0.ffwd.fc.weight'] == 0).any() # PyTorch takes it
    with pytest.raises(UserError, match='not a readable checkpoint'): new_run(*args).load(tmp_path/'w')

@pytest.mark.parametrize('error', [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize('where', ['torch.load', 'shakespeare_ffn.training.Run._set_state'])
def test_a_sound_checkpoint_is_not_blamed_for_lack_of_memory(a_checkpoint, tmp_path, monkeypatch,
                                                             where, error):
    args, raw = a_checkpoint
    (tmp_path/'w').write_bytes(raw)
    def fail(*args, **kwargs): raise error
    run = new_run(*args)
    monkeypatch.setattr(where, fail)
    with pytest.raises(type(error)): run.load(tmp_path/'w')

LACKS = [dict(model={}), dict(optimisers=[]), dict(optimisers=None), dict(generator=torch.zeros(3)),
         dict(seconds='long'), dict(identity=None), dict(done=...)]

@pytest.mark.parametrize('change', LACKS)
def test_a_checkpoint_that_lacks_something(a_checkpoint, tmp_path, change, recwarn):
    args, raw = a_checkpoint
    state = {k: v for k, v in (torch.load(io.BytesIO(raw)) | change).items() if v is not ...}
    torch.save(state, tmp_path/'w')
    with pytest.raises(UserError, match='not a readable checkpoint'): new_run(*args).load(tmp_path/'w')
    for other in [], torch.ones(3), 'text':
        torch.save(other, tmp_path/'w')
        with pytest.raises(UserError, match='not a readable checkpoint'): new_run(*args).load(tmp_path/'w')
    with pytest.raises(UserError, match='cannot read'): new_run(*args).load(tmp_path)
    assert [str(w.message) for w in recwarn] == [] # a tensor is not asked for what a dictionary has

DISTRIBUTIONS = torch.rand(50, 65, generator=torch.Generator().manual_seed(0)).double().softmax(-1)

# tensors and metadata of a file
NONE = [(dict(probs=DISTRIBUTIONS), None), (dict(other=DISTRIBUTIONS), {}),
        (dict(probs=torch.tensor(1.)), {}), (dict(probs=DISTRIBUTIONS[0]), {}),
        (dict(probs=DISTRIBUTIONS*0), {}), (dict(probs=DISTRIBUTIONS*torch.nan), {})]

@pytest.mark.parametrize('tensors, metadata', NONE)
def test_distributions_that_are_none(tmp_path, tensors, metadata):
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path/'d', metadata or None)
    with pytest.raises(UserError, match='make models'): load_distributions(tmp_path/'d')

@pytest.mark.parametrize('harm', [cut, zeroed])
@pytest.mark.parametrize('where', [0, .001, .01, .3, .99])
def test_damaged_distributions_are_refused(tmp_path, harm, where):
    save_file(dict(probs=DISTRIBUTIONS.half()), tmp_path/'d', dict(seed='88'))
    probs, metadata = load_distributions(tmp_path/'d')
    assert metadata == dict(seed='88') and (probs - DISTRIBUTIONS).abs().max() < 1e-3
    raw = (tmp_path/'d').read_bytes()
    (tmp_path/'d').write_bytes(harm(raw, int(where*len(raw)), 500))
    with pytest.raises(UserError, match='make models'): load_distributions(tmp_path/'d')

def test_processes_that_do_not_find_each_other(text, tmp_path, capsys, monkeypatch):
    for name, value in ranks(2)[1].items(): monkeypatch.setenv(name, value)
    why = 'The client socket has timed out after 60000ms'
    def lost(*args, **kwargs): raise torch.distributed.DistNetworkError(f'{why}\nand more')
    monkeypatch.setattr(training.dist, 'rendezvous', lost)
    message = refused(capsys, '--text', text, '--output', tmp_path/'w')
    assert f'do not find each other ({why})' in message

class Broken(io.StringIO):
    "A stream that nobody reads any more, or whose disk is full."
    def write(self, *_): raise OSError(28, 'No space left on device')
    flush = write

@pytest.mark.parametrize('stream', ['none', 'closed', 'broken'])
def test_messages_that_nobody_can_read(text, tmp_path, monkeypatch, stream):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, 'stderr', dict(none=None, closed=closed, broken=Broken())[stream])
    assert str(tmp_path/'w') in training.run_train(['--text', str(text), '--output', str(tmp_path/'w')])
    assert load_model(tmp_path/'w').metadata['steps'] == '20'

@pytest.mark.parametrize('size,why', [(('--layers', 10**12), 'not enough memory'),
                                      (('--width', 64*10**12), 'not enough memory'),
                                      (('--width', 64*10**30), 'out of range')])
def test_a_model_that_no_machine_holds_is_refused_at_once(capsys, text, size, why):
    assert why in refused(capsys, '--text', text, *size)

def test_training_in_another_thread(text, tmp_path):
    "Also with a caller who draws random numbers meanwhile: neither changes what the other draws."
    def trained(name): # to its first evaluation
        return numbers(new_run('--text', text).train(tmp_path/name, stop_at=99, quiet=True))
    alone, there = trained('alone'), []
    torch.manual_seed(5)
    expected = torch.rand(1000)
    torch.manual_seed(5)
    thread, drawn = threading.Thread(target=lambda: there.extend(trained('there'))), []
    thread.start()
    while thread.is_alive() and len(drawn) < 1000:
        drawn.append(torch.rand(1))
        thread.join(.001)
    thread.join()
    assert torch.equal(torch.cat(drawn), expected[:len(drawn)]) and len(drawn) > 9
    assert same(alone, there)

@contextmanager
def as_set(name, value):
    before = getattr(torch, f'get_{name}')()
    getattr(torch, f'set_{name}')(value)
    try: yield
    finally: getattr(torch, f'set_{name}')(before)

def state_of_the_caller() -> tuple:
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled('cpu')
    defaults = torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_default_device()
    return *modes, *defaults, torch.get_rng_state().tolist()

STATES = dict(nothing=nullcontext, no_grad=torch.no_grad, inference=torch.inference_mode,
              device=lambda: torch.device('meta'), autocast=lambda: torch.autocast('cpu', torch.bfloat16),
              precision=lambda: as_set('float32_matmul_precision', 'medium'),
              dtype=lambda: as_set('default_dtype', torch.float64),
              attention=lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION))

@pytest.mark.parametrize('arithmetic', ['float32', 'bfloat16'])
def test_what_the_caller_has_set_is_neither_used_nor_changed(text, tmp_path, monkeypatch, arithmetic):
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', arithmetic)
    def a_few_steps():
        run, again = (new_run('--text', text) for _ in range(2))
        run.advance()
        run.save(tmp_path/'c')
        again.load(tmp_path/'c')
        again.advance()
        again.evaluate()
        again.sample(9)
        metadata = again.finish(tmp_path/'w', 1)
        return numbers(again), {k: v for k, v in metadata.items() if k != 'seconds'}
    results = {}
    for name, state in STATES.items():
        with state():
            before = state_of_the_caller()
            results[name] = a_few_steps()
            assert state_of_the_caller() == before, name
    plain, told = results['nothing']
    for name, (there, metadata) in results.items():
        assert same(plain, there) and metadata == told, name

@pytest.mark.parametrize('asked', ['float32', 'bfloat16'])
def test_the_arithmetic_that_pays(text, tmp_path, monkeypatch, capsys, asked):
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', asked)
    met, real = set(), torch.nn.functional.linear
    def linear(x, w, b=None):
        y = real(x, w, b)
        met.add(str(y.dtype))
        return y
    monkeypatch.setattr(torch.nn.functional, 'linear', linear)
    orthogonalise = training._orthogonalised
    def orthogonalised(matrices, dtype, *options):
        met.add(f'Muon {dtype}')
        return orthogonalise(matrices, dtype, *options)
    monkeypatch.setattr(training, '_orthogonalised', orthogonalised)
    run = new_run('--text', text)
    run.advance()
    assert met == {f'torch.{asked}', f'Muon torch.{asked}'}
    met.clear()
    run.evaluate()
    assert met == {f'torch.{asked}'}
    metadata = run.finish(tmp_path/'w', 1) # its losses are taken in float32
    assert met == {f'torch.{asked}', 'torch.float32'} and json.loads(metadata['computed']) == {asked: 1}

def test_a_run_goes_on_in_another_arithmetic(text, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', 'bfloat16')
    run = new_run('--text', text)
    for _ in range(3): run.advance()
    run.save(tmp_path/'c')
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', 'float32')
    run = new_run('--text', text)
    run.load(tmp_path/'c')
    assert run.train(tmp_path/'c', quiet=True).computed == dict(float32=17, bfloat16=3)
    assert sum(run.kept['computed'].values()) == run.kept['losses']['step']

def test_the_forecast_names_the_arithmetic(text, monkeypatch):
    for asked, message in ('float32', 'in float32 (bfloat16 is slow here): '), ('bfloat16', 'in bfloat16: '):
        monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', asked)
        assert message in new_run('--text', text, '--recipe', 'fast').forecast(1.)
    assert 'in float32: ' in new_run('--text', text, '--recipe', 'article').forecast(1.)

def test_parts_give_the_gradient_of_the_batch(monkeypatch):
    g = torch.Generator().manual_seed(0)
    model = Transformer(Config(block_size=64, n_layer=2, n_head=2, n_embed=32)).eval()
    x, y = torch.randint(65, (2, 10, 64), generator=g)
    def gradient(part):
        monkeypatch.setattr(training, '_PART', part)
        model.zero_grad()
        losses = list(training._part_losses(model, x, y))
        for loss in losses: loss.backward()
        return len(losses), sum(losses).item(), torch.cat([p.grad.flatten() for p in model.parameters()])
    (n, loss, parts), (one, whole_loss, whole) = gradient(192), gradient(10_000) # three windows at a time
    assert (n, one) == (4, 1) and loss == pytest.approx(whole_loss, abs=1e-6)
    assert (parts - whole).norm() < 1e-5*whole.norm()

@pytest.mark.parametrize('shape', [(16, 48), (48, 16), (24, 24)])
def test_muon_is_pytorchs_but_for_the_arithmetic(shape):
    def moved(optimiser, **options):
        g = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape, generator=g)) for _ in range(3)]
        o = optimiser(params, lr=.1, weight_decay=.1, **options)
        for _ in range(4):
            for p in params: p.grad = torch.randn(shape, generator=g)
            o.step()
        return torch.stack([p.detach() for p in params]), o.state_dict()
    theirs, their_state = moved(torch.optim.Muon, adjust_lr_fn='match_rms_adamw')
    low, state = moved(training.Muon)
    full, _ = moved(training.Muon, dtype=torch.float32)
    assert (low - theirs).norm() < 1e-2*theirs.norm()
    assert 0 < (full - theirs).norm() < 3e-2*theirs.norm()
    assert state['param_groups'] == their_state['param_groups']
    assert state['state'].keys() == their_state['state'].keys()

def test_muon_in_float32_is_pytorchs_with_nothing_rounded(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'bfloat16', torch.Tensor.float) # PyTorch's has no other arithmetic
    p, q = (torch.nn.Parameter(torch.eye(16, 48)) for _ in range(2))
    p.grad = q.grad = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    torch.optim.Muon([p], lr=.1, adjust_lr_fn='match_rms_adamw').step()
    training.Muon([q], torch.float32, lr=.1).step()
    assert torch.allclose(p, q, atol=1e-6)
