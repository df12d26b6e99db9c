"Faults of the machine and its surroundings: one line that says what to do, exit code 2, nothing lost."
import http.client, json, os, re, ssl, subprocess, sys, threading
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
import pytest, torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save_file
from shakespeare_ffn import core, data, explain, explore, learned_embeddings, nearest_strings, similar_space
from shakespeare_ffn import training
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import similar, threshold_attention, threshold_attention_loop
from shakespeare_ffn.core import Told, UserError, told_processes
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.explain import cache_main, main
from shakespeare_ffn.model import Config, Transformer, load_model, save_model, weights_hash

ROOT = Path(__file__).resolve().parents[1]
EXPLAIN = 'from shakespeare_ffn.explain import main; main()'

def refused(capsys, run, *args) -> str:
    "The one line of a command that ends with exit code 2."
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended: run([str(a) for a in args])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count('\n')) == (2, '', 1) and 'Traceback' not in err, err
    return err

# ---- small files of the cache: emptied, cut short, filled with zeros, overwritten

@st.composite
def damages(draw):
    "A function that damages the content of a file, at places between 0 and 1 of its length"
    kind, a, b = draw(st.sampled_from(['empty', 'cut', 'zeros',
                                       'other'])), *sorted(draw(st.tuples(*[st.floats(0, 1)]*2)))
    other = draw(st.binary(min_size=1, max_size=8))
    def damage(content: bytes) -> bytes:
        begin, end = int(a*len(content)), max(int(b*len(content)), int(a*len(content))+1)
        if kind == 'empty': return b''
        if kind == 'cut': return content[:begin]
        if kind == 'zeros': return content[:begin] + bytes(end-begin) + content[end:]
        return content[:begin] + other + content[begin+len(other):]
    damage.kind = kind
    return damage

drawn = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A text of one's own, and an untrained model of it that is small enough to be asked often"
    folder = tmp_path_factory.mktemp('small')
    (folder/'text.txt').write_text(load_corpus().text[:3000], encoding='utf-8')
    corpus, torch_state = load_corpus(folder/'text.txt'), torch.random.get_rng_state()
    torch.manual_seed(0)
    model = Transformer(Config(len(corpus.tokenizer), 16, 2, 2, 12))
    torch.random.set_rng_state(torch_state)
    save_model(model, folder/'model.safetensors', dict(corpus_sha256=corpus.sha256), corpus.tokenizer.chars)
    return corpus, load_model(folder/'model.safetensors'), folder

def answer_from(file: Path, sound: bytes, damage, ask, expected):
    "What is asked gives the sound answer, whatever has happened to the file, and leaves it sound"
    file.write_bytes(damage(sound))
    found = ask()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert core.kept(file) is not None

@drawn
@given(damage=damages())
def test_damaged_counts(small, new_cache, damage):
    corpus, model, _ = small
    index = corpus_index(corpus, model, quiet=True)
    ask = lambda: similar_space.prompt_counts(corpus, model, [.5, .25], 5, index, progress=False)
    expected = ask()
    [file] = (new_cache/'counts').rglob('block1*')
    answer_from(file, file.read_bytes(), damage, ask, expected)

LEARNED = learned_embeddings.LearnedEmbeddings(torch.rand(1, 2, 12), torch.rand(1, 2),
                                               torch.ones(1, 2).long(),
                                    torch.ones(1).long(), torch.zeros(()))

@drawn
@given(damage=damages())
def test_damaged_embeddings(small, new_cache, damage):
    model = small[1]
    with mock.patch.object(learned_embeddings, 'learn_embeddings', lambda *args, **kwargs: LEARNED):
        ask = lambda: learned_embeddings.stage_embeddings(model, 2, [0], 2, progress=False)
        expected = ask()
        [file] = (new_cache/'embeddings').iterdir()
        sound = file.read_bytes()
        file.write_bytes(damage(sound))
        # what is damaged has not been learned
        assert (learned_embeddings._sizes_in_cache(model, 2,
                                                   tokens=[0]) == [2]) == (file.read_bytes() == sound)
        answer_from(file, sound, damage, ask, expected)

@settings(drawn, max_examples=20)
@given(damage=damages())
def test_damaged_checkpoint_of_embeddings(small, tmp_path, damage):
    begin = lambda: learned_embeddings.LearningRun(small[1], 2, torch.tensor([0, 1]), 2, 10, 1e-4, 0)
    run, file, anew = begin(), tmp_path/'state', begin()
    run.advance(3)
    learned_embeddings._write_state(run, file)
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    learned_embeddings._read_state(anew, file)
    whole = file.read_bytes() == sound
    assert anew.done == whole*30 and torch.equal(anew.e, run.e if whole else begin().e)

@drawn
@given(damage=damages())
def test_damaged_approximation(small, new_cache, damage):
    model, wanted = small[1], similar_space.Approximation((.9, .8), (1., 2.), 'tuned', 10)
    file = similar_space.approximation_file(model)
    core.keep(file, json.dumps(vars(wanted)).encode())
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    if file.read_bytes() == sound: assert similar_space.tuned_approximation(model) == wanted
    else:
        with pytest.raises(UserError, match='nothing is tuned'): similar_space.tuned_approximation(model)

@drawn
@given(damage=damages())
def test_damaged_arithmetic(new_cache, damage):
    (file := new_cache/'arithmetic.json').unlink(missing_ok=True)
    with mock.patch.object(core, '_product_rates', lambda device: dict(float32=2., bfloat16=1., int8=4.)):
        core._worth.cache_clear()
        expected = core._worth('cpu', file)
        sound = file.read_bytes()
        file.write_bytes(damage(sound))
        core._worth.cache_clear()
        assert core._worth('cpu', file) == expected
    core._worth.cache_clear()

def test_what_the_processor_answers_asks_for_no_gpu(small, new_cache, capsys, monkeypatch):
    "or PyTorch says at length that the driver of one is too old"
    monkeypatch.setattr(torch.cuda, 'is_available', failing(AssertionError('asked')))
    core._worth.cache_clear()
    main(['to', '--model', str(small[2]/'model.safetensors'), '--text', str(small[2]/'text.txt'),
          '--thresholds', '.5,.5', '--weights', '1,1', '--json'])
    assert json.loads(capsys.readouterr().out)['prompt'] == 'to'

@settings(drawn, max_examples=15)
@given(damage=damages())
def test_damaged_corpus_is_fetched_again(corpus, tmp_path, damage):
    raw, file = corpus.text.encode(), tmp_path/'cache'/'tinyshakespeare.txt'
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(damage(raw))
    (tmp_path/'lib').mkdir(exist_ok=True) # no checkout near by
    with (mock.patch.dict(os.environ, SHAKESPEARE_FFN_CACHE=str(file.parent), SHAKESPEARE_FFN_TEXT=''),
          mock.patch.object(data, 'PACKAGE', tmp_path/'lib')):
        with mock.patch.object(data.urllib.request, 'urlopen',
                               lambda *args, **kwargs: open(ROOT/'nowhere', 'rb')):
            try: assert data.corpus_bytes() == raw # as good as it was
            except UserError as e: assert str(file) in str(e) and 'cannot fetch' in str(e)
        with mock.patch.object(data.urllib.request, 'urlopen', lambda *args, **kwargs: answering(raw)):
            assert data.corpus_bytes() == raw
    assert file.read_bytes() == raw

@pytest.mark.parametrize('content', ['', '{"half', '[]', '3', '{}', 'null'])
def test_damaged_approximations_of_the_package(small, new_cache, tmp_path, monkeypatch, content):
    (tmp_path/'approximations.json').write_text(content, encoding='utf-8')
    monkeypatch.setattr(core, 'PACKAGE', tmp_path)
    with pytest.raises(UserError, match='damaged|nothing is tuned') as e:
        similar_space.tuned_approximation(small[1])
    assert '\n' not in str(e.value)

LOUD = dict(k=3, votes=[dict(block=0, loud=3)], source='', length=10)
NO_VOTES = [1], dict(k=3), dict(k=3, votes=[4]), LOUD

@pytest.mark.parametrize('found', [[1], *(dict(nearest=wrong) for wrong in NO_VOTES)])
def test_votes_of_the_package_of_another_shape(small, new_cache, tmp_path, monkeypatch, found):
    (tmp_path/'approximations.json').write_text(json.dumps({small[1].hash: found}), encoding='utf-8')
    monkeypatch.setattr(core, 'PACKAGE', tmp_path)
    with pytest.raises(UserError, match='damaged'): nearest_strings.nearest_approximation(small[1])

@pytest.mark.parametrize('found',
                         [dict(thresholds=[.9]), dict(thresholds=3, weights=[1], source='', length=10), [1],
                          'high'])
def test_approximations_of_the_package_of_another_shape(small, new_cache, tmp_path, monkeypatch, found):
    (tmp_path/'approximations.json').write_text(json.dumps({small[1].hash: found}), encoding='utf-8')
    monkeypatch.setattr(core, 'PACKAGE', tmp_path)
    with pytest.raises(UserError, match='damaged'): similar_space.tuned_approximation(small[1])

@settings(drawn, max_examples=25)
# a digit of the metadata may change unseen, numbers may not
@given(damage=damages().filter(lambda d: d.kind != 'other'))
def test_damaged_weights(small, tmp_path, damage):
    sound = (small[2]/'model.safetensors').read_bytes()
    file = tmp_path/'damaged.safetensors'
    file.write_bytes(damage(sound))
    try: model = load_model(file)
    except UserError as e: assert '\n' not in str(e)
    else: assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small[1].parameters()))

def test_written_to_the_disk_before_it_is_named(tmp_path, monkeypatch):
    "A power cut leaves the old file or the new one"
    done, replace, fsync = [], Path.replace, os.fsync
    monkeypatch.setattr(Path, 'replace', lambda self, to: done.append('named') or replace(self, to))
    monkeypatch.setattr(os, 'fsync', lambda number: done.append('synced') or fsync(number))
    core.write_atomically(tmp_path/'file', b'content')
    assert done == ['synced', 'named', 'synced'][:2 + (os.name == 'posix')]

def test_threads_that_write_one_file(tmp_path):
    errors, both = [], threading.Barrier(4)
    def write(content):
        both.wait()
        for _ in range(30):
            try: core.write_atomically(tmp_path/'file', content)
            except UserError as e: errors.append(e)
    threads = [threading.Thread(target=write, args=(bytes([i])*100_000,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert errors == [] and [p.name for p in tmp_path.iterdir()] == ['file']
    assert len(set((tmp_path/'file').read_bytes())) == 1

def test_thresholds_that_differ_late_have_files_of_their_own(small, new_cache):
    index = mock.Mock(path=Path('an-index'))
    files = {similar_space._counts_file(index, 5, 0, threshold) for threshold in (.1234561, .1234564)}
    assert len(files) == 2

# ---- weights that are none

def other_weights(small, **change):
    "Tensors and metadata of the small model, some changed; None takes one out"
    tensors = {k: v.half().contiguous() for k, v in small[1].state_dict().items()}
    metadata = {k: v for k, v in (small[1].metadata | change.pop('metadata', {})).items() if v is not None}
    return tensors | change, metadata

FAULTS = {
    'a scalar more': dict(step=torch.tensor(3.)),
    'a scalar for a matrix': {'lm_head.weight': torch.tensor(1.)},
    'whole numbers': {'lm_head.bias': torch.ones(45).long()},
    'truth values': {'lm_head.bias': torch.ones(45).bool()},
    'NaN': {'ln_f.bias': torch.full((12,), torch.nan)},
    'infinity': {'ln_f.bias': torch.full((12,), torch.inf)},
    'beyond float32': {'ln_f.bias': torch.full((12,), 1e300, dtype=torch.float64)},
    'no heads': dict(metadata=dict(n_head=None)),
    'heads in words': dict(metadata=dict(n_head='two')),
    'heads that are none': dict(metadata=dict(n_head='0')),
    'heads that do not divide': dict(metadata=dict(n_head='5')),
    'no vocabulary': dict(metadata=dict(chars=None)),
    'too short a vocabulary': dict(metadata=dict(chars='ab')),
}

@pytest.mark.parametrize('change', FAULTS.values(), ids=FAULTS)
def test_weights_that_are_none(small, tmp_path, capsys, change):
    tensors, metadata = other_weights(small, **dict(change))
    if 'lm_head.bias' in change:
        tensors['lm_head.bias'] = tensors['lm_head.bias'][:1].repeat(small[1].config.vocab_size)
    hashed = {k: v.reshape(1) if v.dim() == 0 else v for k, v in tensors.items()}
    try: metadata['weights_sha256'] = weights_hash(tensors)
    except RuntimeError: metadata['weights_sha256'] = weights_hash(hashed)
    save_file(tensors, tmp_path/'w.safetensors', metadata)
    assert 'w.safetensors' in refused(capsys, main, 'to', '--model', tmp_path/'w.safetensors', '--text',
                                      small[2]/'text.txt')

def test_weights_without_metadata(small, tmp_path, capsys):
    save_file(other_weights(small)[0], tmp_path/'w.safetensors')
    assert 'w.safetensors' in refused(capsys, main, 'to', '--model', tmp_path/'w.safetensors')

# ---- a download that is cut off

@contextmanager
def answering(raw): yield mock.Mock(read=lambda *args: raw)

def failing(e): return mock.Mock(side_effect=e)

def broken(e): # while it is read
    @contextmanager
    def answer(*args, **kwargs): yield mock.Mock(read=failing(e))
    return answer

@pytest.mark.parametrize('urlopen',
                         [broken(http.client.IncompleteRead(b'First', 1_115_389)),
                          failing(http.client.RemoteDisconnected('closed')),
                          broken(TimeoutError('timed out')),
                                     broken(ConnectionResetError(104, 'reset')),
                                     failing(ssl.SSLError(1, 'wrong version')),
                                     failing(http.client.InvalidURL('no port')),
                                     failing(ValueError('unknown url type')),
                                     failing(http.client.BadStatusLine('')),
                                     lambda *a, **k: answering(b'First'),
                                     lambda *a, **k: answering(b'<html>Log in first</html>'),
                                     lambda *a, **k: answering(b'')],
                         ids=['cut off', 'disconnected', 'timed out', 'reset', 'ssl', 'url', 'proxy',
                              'no answer', 'short', 'a page', 'empty'])
def test_a_download_that_fails(tmp_path, monkeypatch, urlopen):
    monkeypatch.setattr(data.urllib.request, 'urlopen', urlopen)
    with pytest.raises(UserError, match='cannot fetch the corpus') as e:
        data._download(tmp_path/'new'/'text.txt')
    assert '\n' not in str(e.value) and str(tmp_path/'new'/'text.txt') in str(e.value)
    assert list(tmp_path.iterdir()) == []

# ---- what a process inherits

COMMANDS = [main, cache_main, explain.calibrate_main, explain.counts_main, explain.shards_main, explore.main,
            training.main]
WORDS = ['', ' ', '0', ' 1', '2 ', '3', '02', '-1', '1.0', '1e3', '0x2', '٣', 'two', '65535', '65536',
         '9'*400, '1\n2', 'localhost', 'tcp://10.3.3.1:80', 'full', 'smoke', 'float32', 'int8,bfloat16', ',']
# what an environment can hold
words = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'))

def refused_by(run, capsys, monkeypatch) -> str:
    "What a command says that is refused before it reads its arguments"
    with monkeypatch.context() as m:
        m.setattr(core.Parser, 'parse_args', failing(AssertionError('the environment comes first')))
        return refused(capsys, run).split(': ', 1)[1].strip()

TORCHRUN = ['WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT']
whole = dict(zip(TORCHRUN, ['3', '1', '0', 'localhost', '29500']))

changes = st.dictionaries(st.sampled_from(TORCHRUN), words, max_size=3)

@settings(drawn, max_examples=150)
@given(base=st.sampled_from([{}, whole]), change=changes, run=st.sampled_from(COMMANDS))
def test_any_number_of_processes_is_said(capsys, monkeypatch, base, change, run):
    "Either it can be so, or each command says in a line which variable is what, before anything else"
    said = dict.fromkeys(TORCHRUN, '') | base | change
    with mock.patch.dict(os.environ, said):
        try: world, rank, local = told_processes()
        except UserError as e:
            message, there = str(e), [name for name in TORCHRUN if said[name].strip()]
            assert message.split()[0] in there and f'unset {" ".join(there)}, or' in message
            assert len(message) < 300 and refused_by(run, capsys, monkeypatch) == message
        else:
            assert 0 <= local <= rank < world
            assert world == 1 or all(value.strip() for value in said.values())
            assert [int(said[name].strip() or 0) for name in TORCHRUN[1:3]] == [rank, local]

@pytest.mark.parametrize('run', COMMANDS, ids=lambda run: run.__module__ + '.' + run.__name__)
@pytest.mark.parametrize('name, value, says',
                         [('WORLD_SIZE', '2', 'RANK is not set'), ('RANK', '1', 'below 1'),
                          ('WORLD_SIZE', '0', 'above 0'), ('LOCAL_RANK', 'first', 'up to 0')])
def test_leftovers_of_a_torchrun(capsys, monkeypatch, run, name, value, says):
    for other in TORCHRUN: monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    line = refused_by(run, capsys, monkeypatch)
    assert line.startswith(f'{name} is ') and says in line and f'unset {name}, or start' in line

@pytest.mark.parametrize('run', COMMANDS, ids=lambda run: run.__module__ + '.' + run.__name__)
@pytest.mark.parametrize('name', ['RANK', 'SHAKESPEARE_FFN_SCALE', 'SHAKESPEARE_FFN_ARITHMETIC'])
@pytest.mark.parametrize('option', ['-h', '--help'])
def test_help_whatever_the_environment_says(capsys, monkeypatch, run, name, option):
    monkeypatch.setenv(name, 'wrong')
    # as on a machine with a GPU
    for asked, said in dict(is_available=True, device_count=1, set_device=None).items():
        monkeypatch.setattr(torch.cuda, asked, mock.Mock(return_value=said))
    with pytest.raises(SystemExit) as e: run([option])
    assert e.value.code == 0 and capsys.readouterr().out.startswith('usage: ')

def test_wrong_options_are_told_before_others_are_waited_for(capsys, monkeypatch):
    for name, value in whole.items(): monkeypatch.setenv(name, value)
    monkeypatch.setattr(core, 'join_processes', failing(AssertionError('it waits')))
    assert '--depth' in refused(capsys, training.main, '--depth', '3')

def test_a_port_of_kubernetes(monkeypatch):
    "Where a service is called `master`, each process is told of it"
    for name in TORCHRUN: monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MASTER_PORT', 'tcp://10.3.3.1:80')
    assert told_processes() == Told(1, 0, 0)

@settings(drawn, max_examples=60)
@given(name=st.sampled_from(['SHAKESPEARE_FFN_SCALE', 'SHAKESPEARE_FFN_ARITHMETIC']), value=words,
       run=st.sampled_from(COMMANDS))
def test_any_scale_and_arithmetic(capsys, monkeypatch, name, value, run):
    read = dict(SHAKESPEARE_FFN_SCALE=core.scale, SHAKESPEARE_FFN_ARITHMETIC=core.asked_arithmetic)[name]
    with mock.patch.dict(os.environ, {name: value}):
        try: assert read() in ('full', 'smoke', 'float32', 'bfloat16', '')
        except UserError as e:
            assert str(e).startswith(f'{name} is ') and len(str(e)) < 300
            assert refused_by(run, capsys, monkeypatch) == core.show_text(str(e), signed=True)

@pytest.mark.parametrize('run', COMMANDS, ids=lambda run: run.__module__ + '.' + run.__name__)
@pytest.mark.parametrize('below', ['', 'cache'])
def test_a_file_for_a_cache(capsys, monkeypatch, tmp_path, run, below):
    (tmp_path/'file').write_bytes(b'')
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(tmp_path/'file'/below))
    line = refused_by(run, capsys, monkeypatch)
    assert line.startswith('SHAKESPEARE_FFN_CACHE is ') and line.endswith('name a folder')

@pytest.mark.posix
@pytest.mark.parametrize('name', ['x'*300, '/proc/nothing', '/proc' + '/x'*3000], ids=len)
@pytest.mark.parametrize('run, args', [(main, ['to', '--thresholds', '.5,.5', '--weights', '1,1']),
                                       (explain.shards_main, []), (training.main, [])])
def test_a_cache_that_cannot_be_written(small, capsys, monkeypatch, tmp_path, name, run, args):
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(tmp_path/name))
    model = [] if run is training.main else ['--model', small[2]/'model.safetensors']
    assert 'cannot write' in refused(capsys, run, *args, '--text', small[2]/'text.txt', *model)

@pytest.mark.posix
@pytest.mark.parametrize('name', ['', 'none', '~nobody-at-all/text', '/dev/null', 'x'*300], ids=len)
def test_a_named_text_that_is_none(capsys, monkeypatch, tmp_path, name):
    monkeypatch.setenv('SHAKESPEARE_FFN_TEXT', name if name[:1] in '~/' and name else str(tmp_path/name))
    assert 'ffn_explain: SHAKESPEARE_FFN_TEXT' in refused(capsys, main, 'to')

@pytest.mark.parametrize('value, expected',
                         [('~/kept', Path.home()/'kept'), ('kept', Path.cwd()/'kept'), ('', None)],
                         ids=['home', 'relative', 'empty'])
def test_paths_in_the_environment(monkeypatch, value, expected):
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', value)
    monkeypatch.setenv('XDG_CACHE_HOME', str(Path.cwd()))
    assert core.cache_dir() == (expected or Path.cwd()/'shakespeare_ffn')

def test_a_text_in_the_home_folder(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    monkeypatch.setenv('SHAKESPEARE_FFN_TEXT', '~/text.txt')
    (tmp_path/'text.txt').write_bytes(corpus.text.encode())
    assert data.corpus_bytes() == corpus.text.encode()

NOBODY = '''
import os, sys, pwd
def getpwuid(uid): raise KeyError('getpwuid(): uid not found')
pwd.getpwuid = getpwuid
''' + EXPLAIN

@pytest.mark.posix
def test_a_user_without_home_or_entry(cache, start):
    env = {k: v for k,
           v in os.environ.items()
           if k not in ('HOME', 'USER', 'LOGNAME', 'LNAME', 'USERNAME', 'XDG_CACHE_HOME')}
    process = start(NOBODY, 't', '--top', '1', env=env)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and 'Hellinger' in out, err

@pytest.mark.posix
def test_no_home_and_no_cache_named(capsys, monkeypatch):
    monkeypatch.delenv('HOME', raising=False)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr('pwd.getpwuid', failing(KeyError('uid not found')))
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', '')
    monkeypatch.setenv('SHAKESPEARE_FFN_TEXT', '')
    assert 'set SHAKESPEARE_FFN_CACHE' in refused(capsys, main, 'to')

def test_a_backend_that_is_none(cache, tmp_path, start):
    figure = tmp_path/'f.png'
    process = start(EXPLAIN, 't', '--top', '1', '--figure', figure,
                    env=os.environ | dict(MPLBACKEND='nonsense'))
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0 and figure.exists(), err

@pytest.mark.parametrize('value, expected', [('0', 'full'), ('', 'full'), ('1', 'smoke')])
def test_in_test_says_yes_or_no(monkeypatch, value, expected):
    monkeypatch.delenv('SHAKESPEARE_FFN_SCALE')
    monkeypatch.setenv('IN_TEST', value)
    assert core.scale() == expected

# ---- closed streams

@pytest.mark.posix
@pytest.mark.parametrize('closing, code', [('2>&-', 2), ('2>/dev/full', 2)])
def test_messages_that_nobody_reads(closing, code):
    done = subprocess.run(['sh', '-c', f'"$@" {closing}', 'sh', sys.executable, '-c', EXPLAIN, 'caf\u00e9'],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding='utf-8')
    assert (done.returncode, done.stdout, done.stderr) == (code, '', '')

@pytest.mark.posix
def test_an_answer_for_which_there_is_no_room(cache):
    done = subprocess.run(['sh', '-c', '"$@" >/dev/full', 'sh', sys.executable, '-c', EXPLAIN, 't', '--top',
                           '1'], stderr=subprocess.PIPE, text=True, encoding='utf-8')
    assert done.returncode == 2, done.stderr
    assert 'No space left' in done.stderr.splitlines()[-1] and 'Traceback' not in done.stderr, done.stderr

def test_an_index_is_built_without_standard_error(small, new_cache, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', None)
    main(['to', '--model', str(small[2]/'model.safetensors'), '--text', str(small[2]/'text.txt'),
          '--thresholds', '.5,.5', '--weights', '1,1', '--json'])
    assert json.loads(capsys.readouterr().out)['prompt'] == 'to'

def test_messages_that_get_lost_lose_no_answer(small, new_cache, capsys, monkeypatch):
    gone = mock.Mock(write=failing(BrokenPipeError()), flush=failing(BrokenPipeError()), encoding='utf-8',
                     isatty=lambda: False, fileno=lambda: 2)
    monkeypatch.setattr(sys, 'stderr', gone)
    main(['to', '--model', str(small[2]/'model.safetensors'), '--text', str(small[2]/'text.txt'),
          '--thresholds', '.5,.5', '--weights', '1,1', '--json'])
    assert json.loads(capsys.readouterr().out)['prompt'] == 'to'

# ---- memory

@pytest.mark.parametrize('e',
                         [MemoryError(),
                          RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory: you tried …'),
                          RuntimeError('std::bad_alloc'), OSError(12, 'Cannot allocate memory'),
                          RuntimeError("can't start new thread"),
                          torch.OutOfMemoryError('CUDA out of memory.')], ids=str)
def test_lacking_memory(capsys, monkeypatch, e):
    monkeypatch.setattr(explain, 'open_model', failing(e))
    assert 'not enough memory' in refused(capsys, main, 'to be')

LITTLE = '''
import resource, sys
from shakespeare_ffn.explain import main
used = int(open('/proc/self/statm').read().split()[0])*4096 + int(sys.argv.pop(1))*2**20
resource.setrlimit(resource.RLIMIT_AS, (used, used))
main()
'''

@pytest.mark.posix
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='says nothing about its address space')
@pytest.mark.parametrize('room', [20, 100])
def test_little_address_space(cache, start, room):
    process = start(LITTLE, room, 'to be')
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (2, ''), err
    assert 'not enough memory' in err.splitlines()[-1] and 'Traceback' not in err, err

# ---- threshold attention is given something odd

ROWS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
VALUES = torch.arange(18).view(6, 3) % 4

@pytest.mark.parametrize('n_queries, n_keys', [(0, 6), (3, 0), (0, 0)])
@pytest.mark.parametrize('thresholds', [[.3, .2], [[.3, .9], [.2, -1.]]])
@pytest.mark.parametrize('excluding', [False, True])
def test_no_queries_or_no_keys(n_queries, n_keys, thresholds, excluding):
    exclude = torch.full((n_queries,), -1) if excluding else None
    counts, n_matches = threshold_attention(ROWS[:, :n_queries], ROWS[:, :n_keys], VALUES[:n_keys],
                                            thresholds, exclude)
    shape = (2, n_queries) if isinstance(thresholds[0], float) else (2, 2, n_queries)
    assert counts.shape == (*shape,
                            3) and n_matches.shape == shape and not counts.any() and not n_matches.any()

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_rows_that_carry_gradients(dtype):
    rows, thresholds = ROWS.to(dtype), [[.3, -.2], [.2, -1.]]
    growing = rows.clone().requires_grad_()
    expected = threshold_attention_loop(rows, rows, VALUES, thresholds)
    t = torch.tensor(thresholds, dtype=torch.float64).requires_grad_()
    for found in (threshold_attention(growing, growing*1, VALUES, t),
                  threshold_attention(rows, growing, VALUES, thresholds)):
        assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(found, expected))
    for a, b in zip(similar(growing[0, 0], growing[0], .1), similar(rows[0, 0], rows[0], .1)):
        assert torch.equal(a, b) and not a.requires_grad

def test_counts_beyond_what_float64_holds():
    thresholds, most = [-1., -1.], 2**53//6 - 1
    below = threshold_attention(ROWS, ROWS, torch.full((6, 3), most), thresholds)[0]
    assert (below == 6*most).all()
    for thresholds in thresholds, [[-1., .2]]*2:
        with pytest.raises(ValueError, match='2\\*\\*53'):
            threshold_attention(ROWS, ROWS, torch.full((6, 3), 2**53//6 + 1), thresholds)

def test_no_keys_to_search(): assert [len(x) for x in similar(ROWS[0, 0], ROWS[0, :0], .5)] == [0, 0]

def test_a_device_without_float64_leaves_the_search_to_the_processor():
    for a, b in zip(similar(ROWS[0, 0], ROWS[0], -.2, device='meta'), similar(ROWS[0, 0], ROWS[0], -.2)):
        assert torch.equal(a, b) # as 'mps' is, a device that cannot decide

@pytest.mark.parametrize('queries, keys, exclude',
                         [(ROWS[:1], ROWS, None), (ROWS, ROWS[..., :7], None), (ROWS[0], ROWS, None),
                          (ROWS, ROWS, [0, 1]), (ROWS, ROWS, [.5]*6)],
                         ids=['fewer blocks', 'shorter rows', 'one block', 'too few to exclude',
                              'halves to exclude'])
def test_sizes_that_do_not_fit(queries, keys, exclude):
    with pytest.raises(ValueError): threshold_attention(queries, keys, VALUES, [.3, .2], exclude)

@pytest.mark.parametrize('thresholds', [[[], []], [[.1], [.1, .2]], 'high', ['a', 'b'], .5, [[[.1]], [[.2]]]],
                         ids=str)
def test_thresholds_that_are_none(thresholds):
    with pytest.raises(UserError): threshold_attention(ROWS, ROWS, VALUES, thresholds)

# ---- what the cache keeps

HELD = '''
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)
'''

def listed(capsys, *args):
    capsys.readouterr()
    cache_main([*args, '--json'])
    return {e['name']: e for e in json.loads(capsys.readouterr().out)}

def test_cache_lists_what_is_there_and_removes_what_is_named(small, new_cache, capsys):
    corpus, model, _ = small
    index = corpus_index(corpus, model, quiet=True)
    similar_space.prompt_counts(corpus, model, [.5, .25], 5, index, progress=False)
    (new_cache/'mine.txt').write_text('precious', encoding='utf-8')
    there = listed(capsys)
    assert {e['kind'] for e in there.values()} >= {'corpus', 'index', 'counts'} and 'mine.txt' not in there
    others = ('models/variant-deeper-full.safetensors', 'variants/deeper.safetensors',
              'approximations/0-measure.checkpoint', 'checked', 'gpu')
    (new_cache/'models').mkdir(exist_ok=True)
    (new_cache/'models'/'mine.safetensors').write_bytes(b'precious')
    for other in others:
        (new_cache/other).parent.mkdir(exist_ok=True)
        if '.' in other: (new_cache/other).write_bytes(b'')
        else: (new_cache/other).mkdir()
    assert {*others} < {*listed(capsys)}
    assert {*listed(capsys, 'remove', *others)} == {*others} and not {*others} & {*listed(capsys)}
    assert (new_cache/'models'/'mine.safetensors').exists()
    found = there[f'keys/{index.path.name}']
    assert found['n_bytes'] == sum(p.stat().st_size for p in index.path.iterdir()) and 0 <= found['age'] < 600
    assert found['of'] == dict(scale='smoke', length='10', arithmetic=index.identity['arithmetic'],
                               weights=model.hash[:12], corpus=corpus.sha256[:12])
    cache_main([])
    assert re.search(rf'index +keys/{index.path.name}\n +smoke, length 10, ', capsys.readouterr().out)
    removed = {name for name in there if name.startswith(('counts/', 'keys/'))}
    assert set(listed(capsys, 'remove', 'counts', 'keys/*length10*')) == removed
    assert not index.path.exists()
    assert (new_cache/'mine.txt').exists() and (new_cache/'tinyshakespeare.txt').exists()

def test_nothing_asked_for_is_nothing(small, new_cache):
    "0 is a number like any other, not the default"
    corpus, model, _ = small
    index = corpus_index(corpus, model, quiet=True)
    counts, n_matches = similar_space.prompt_counts(corpus, model, [.5, .25], 0, index, progress=False)
    assert counts.shape == (2, 0, len(corpus.tokenizer)) and n_matches.shape == (2, 0)
    vote = nearest_strings.Vote(1, True)
    assert nearest_strings.prompt_neighbours(index, vote, 3, 0, progress=False).rows.shape == (0, 3)

@pytest.mark.parametrize('name', ['nothing', '..', '../*', 'mine.txt', '/etc/*', '[', ''])
def test_cache_removes_nothing_else(new_cache, capsys, name):
    (new_cache/'mine.txt').write_text('precious', encoding='utf-8')
    (new_cache.parent/'beside.txt').write_text('precious', encoding='utf-8')
    assert 'ffn_cache' in refused(capsys, cache_main, 'remove', name)
    refused(capsys, cache_main, 'remove')
    left = new_cache/'mine.txt', new_cache.parent/'beside.txt', new_cache/'tinyshakespeare.txt'
    assert all(path.exists() for path in left)

def test_cache_does_not_remove_what_is_being_built(small, new_cache, capsys, start):
    index = corpus_index(*small[:2], quiet=True)
    holder = start(HELD, index.path.with_name(index.path.name + '.lock'))
    assert holder.stdout.readline() == 'held\n'
    assert 'is being built' in refused(capsys, cache_main, 'remove', 'corpus', 'index')
    assert index.path.exists() and (new_cache/'tinyshakespeare.txt').exists() # nothing goes unless all can
    holder.kill()
    holder.wait()
    cache_main(['remove', 'index'])
    assert not index.path.exists()

def test_cache_is_listed_while_others_replace_files(small, new_cache, capsys, monkeypatch):
    index = corpus_index(*small[:2], quiet=True)
    assert (index.path/'manifest.json').exists()
    there = {*listed(capsys)}
    real = Path.stat
    def stat(path, **kwargs):
        if path.name in ('manifest.json', 'tinyshakespeare.txt'): raise FileNotFoundError(2, 'gone meanwhile')
        return real(path, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'stat', stat)
        assert {*listed(capsys)} == there - {'tinyshakespeare.txt'}

def test_cache_is_removed_where_there_are_no_locks(small, new_cache, capsys, monkeypatch):
    index = corpus_index(*small[:2], quiet=True)
    def acquire(*args, **kwargs): raise NotImplementedError
    monkeypatch.setattr(FileLock, 'acquire', acquire)
    cache_main(['remove', 'index'])
    assert not index.path.exists()

def test_cache_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(tmp_path/'nowhere'))
    assert listed(capsys) == {} and not (tmp_path/'nowhere').exists()
