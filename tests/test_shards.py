"An index in shards: the same as in one file, whoever builds it, whatever dies, whatever is missing."
import json, os, re, shutil, signal, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path
import pytest, torch
from shakespeare_ffn import shards
from shakespeare_ffn.core import UserError
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.cosine_sims import threshold_attention
from shakespeare_ffn.data import CharTokenizer, Corpus, load_corpus, prompt_ids
from shakespeare_ffn.explain import explain, main, _run_explain
from shakespeare_ffn.model import Config, Transformer, load_model, save_model
from shakespeare_ffn.learned_measure import Measure, MeasuredApproximation
from shakespeare_ffn.nearest_strings import NearestApproximation, Vote, calibrate_nearest
from shakespeare_ffn.nearest_strings import nearest_approximation
from shakespeare_ffn.shards import build_shards, open_shards
from shakespeare_ffn.similar_space import Approximation, calibrate, tuned_approximation
from shakespeare_ffn.text_analysis import next_counts
from conftest import remember
from forked import ranks

SIZE = 1024 # strings of a shard, two chunks

@pytest.fixture(autouse=True)
def full(monkeypatch): monkeypatch.setenv('SHAKESPEARE_FFN_SCALE', 'full')

@pytest.fixture(scope='module')
def files(tmp_path_factory, corpus):
    "A piece of the corpus, and a small model of it"
    folder = tmp_path_factory.mktemp('small')
    (folder/'piece.txt').write_text(corpus.text[:8000], encoding='utf-8', newline='')
    piece = load_corpus(folder/'piece.txt')
    torch.manual_seed(0)
    small = Transformer(Config(len(piece.tokenizer), n_layer=2, n_embed=32, n_head=2))
    save_model(small, folder/'weights.safetensors', dict(corpus_sha256=piece.sha256), piece.tokenizer.chars)
    return folder/'piece.txt', folder/'weights.safetensors'

@pytest.fixture(scope='module')
def piece(files): return load_corpus(files[0])

@pytest.fixture(scope='module')
def model(files): return load_model(files[1])

START = f'''
import os, signal, sys, torch, torch.distributed as dist
torch.set_num_threads(1)
from shakespeare_ffn import core, corpus_keys, shards
from shakespeare_ffn.core import command, joined
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.shards import build_shards, open_shards
corpus_keys._SAVE_EVERY, corpus_keys._next_note = 1, lambda begun, ended: 0 # after each chunk
core._product_rates = None # measured anew, under load, the arithmetic may be another
corpus, model = load_corpus(sys.argv[1]), load_model(sys.argv[2])
def together(do):
    def run(argv):
        with joined(): return do()
    command('test', run)
def build(): return build_shards(corpus, model, size={SIZE}, quiet=True)
'''

BUILD = START + 'together(build)'

# after so many chunks a process ends, without a word
KILLED = START + '''
compute, left = corpus_keys._Build.compute_chunk, int(sys.argv[3])
def compute_chunk(self, i):
    global left
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return compute(self, i)
corpus_keys._Build.compute_chunk = compute_chunk
together(build)
'''

# one dies, the others would go on for ever
LINGER = KILLED.replace('    if left == 0:', '''    if left < 0:
        time.sleep(1)
        self.done = i
        return 0
    if left == 0:''').replace('import os,', 'import time, os,')

def start_all(start, code, world, *args, caches=None, own=None):
    "Processes that compute together, on one disk or several; `own`: of each, a last argument"
    envs = [env | dict(SHAKESPEARE_FFN_CACHE=str(caches[i % len(caches)])) if caches else env
            for i, env in enumerate(ranks(world))]
    return [start(code, *args, *([own[i]] if own else []), env=env) for i, env in enumerate(envs)]

def ended(processes, seconds=100):
    "How each ended, and what it said on standard error"
    messages = [p.communicate(timeout=seconds)[1] for p in processes]
    return [p.returncode for p in processes], messages

def folder_of(piece, model) -> Path:
    return shards._shards_path(shards._wanted(piece, model, 10)[0])

def check_same(piece, model, single):
    "The shards that are there are the index in one file, bit for bit"
    index, n = open_shards(piece, model), 0
    for shard in index.shards:
        rows = torch.from_numpy(single.row_of[single.strings.ids[shard.strings.first[shard.ids]]])
        assert torch.equal(shard.keys.view(torch.int16), single.keys[:, rows].view(torch.int16))
        values = next_counts(single.strings, len(piece.tokenizer))[single.ids][rows]
        assert torch.equal(shard.values.to_dense().int(), values.to_dense().int())
        shard.verify()
        n += len(shard)
    assert n == len(single)
    return index

@pytest.fixture(scope='module')
def single(piece, model, tmp_path_factory):
    "The index in one file, in a cache of its own"
    before, threads = os.environ['SHAKESPEARE_FFN_CACHE'], torch.get_num_threads()
    scale, os.environ['SHAKESPEARE_FFN_SCALE'] = os.environ['SHAKESPEARE_FFN_SCALE'], 'full'
    os.environ['SHAKESPEARE_FFN_CACHE'] = str(remember(Path(before), tmp_path_factory.mktemp('single')))
    torch.set_num_threads(1)
    try: return corpus_index(piece, model, quiet=True)
    finally:
        os.environ.update(SHAKESPEARE_FFN_CACHE=before, SHAKESPEARE_FFN_SCALE=scale)
        torch.set_num_threads(threads)

@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_build_what_one_builds(new_cache, start, files, piece, model, single, world):
    codes, messages = ended(start_all(start, BUILD, world, *files))
    assert codes == [0]*world, messages
    index = check_same(piece, model, single)
    assert len(index.shards) == -(-len(single)//SIZE) > 3

# Each process measures something else, as under load; what they make is one.

MEASURE = '''
import os, time
from shakespeare_ffn import core, shards, training
fast = int(os.environ['RANK']) % 2 == int(sys.argv[-1])
def rates(device):
    time.sleep(.5) # so that all of them would be at it
    return dict(float32=1., bfloat16=2.*fast, int8=2.*fast)
core._product_rates = rates
def answers(): return core.fast_arithmetic(), training.arithmetic(training.FAST, 'cpu')
'''
ALONE = f'import sys{MEASURE}print(*answers(), core.fast_integers())'
JOINED = f'''import sys{MEASURE}
def join(argv):
    with core.joined(): return answers()
core.command('test', join)
'''

def said(processes) -> list: # what each prints
    outputs = [p.communicate(timeout=100) for p in processes]
    assert [p.returncode for p in processes] == [0]*len(processes), outputs
    return [output for output, _ in outputs]

@pytest.fixture
def unmeasured(new_cache, disks, monkeypatch): # nobody has said what is fast, or measured it
    for folder in new_cache, *disks: (folder/'arithmetic.json').unlink()
    monkeypatch.delenv('SHAKESPEARE_FFN_ARITHMETIC', raising=False)

def test_of_processes_that_start_at_once_one_measures(unmeasured, start):
    found = said(start_all(start, ALONE, 4, 0))
    assert found[0] and len(set(found)) == 1

@pytest.mark.parametrize('first', ['bfloat16', 'float32'])
def test_the_first_process_decides(unmeasured, start, disks, first):
    found = said(start_all(start, JOINED, 3, 0 if first == 'bfloat16' else 1, caches=disks))
    assert found == [f"('{first}', '{first}')\n"]*3

@pytest.mark.parametrize('size', [0, -512, 2**17, 5*10**21])
def test_a_size_that_no_shard_has(new_cache, piece, model, size):
    with pytest.raises(UserError, match='strings is out of range: of this text 1 to 65,536'):
        build_shards(piece, model, size=size, quiet=True)
    assert not (new_cache/'keys').exists()

def copied(caches, target):
    "All that some disks hold, on one"
    for cache in caches: shutil.copytree(cache/'keys', target/'keys', dirs_exist_ok=True)

@pytest.fixture
def disks(cache, tmp_path): # one for each of three processes
    found = [tmp_path/f'disk{i}' for i in range(3)]
    for disk in found:
        disk.mkdir()
        remember(cache, disk)
    return found

def test_each_on_its_own_disk(new_cache, start, files, piece, model, single, disks):
    codes, messages = ended(start_all(start, BUILD, 2, *files, caches=disks))
    assert codes == [0, 0], messages
    built = [sorted(p.name for p in disk.glob('keys/*-shards/*/')) for disk in disks[:2]]
    assert built[0] and built[1] and not set(built[0]) & set(built[1])
    copied(disks[:2], new_cache)
    check_same(piece, model, single)

@pytest.mark.posix
@pytest.mark.parametrize('first, then', [(2, 1), (2, 3), (3, 2)])
def test_a_build_is_taken_up_by_another_number(new_cache, start, files, piece, model, single, first, then):
    codes, messages = ended(start_all(start, KILLED, first, *files, own=[3]*first))
    assert -signal.SIGKILL in codes, messages
    found = shards._shards_seen(folder_of(piece, model))[1]
    assert 0 < sum(min(n, 2) for n in found.values()) < len(single)/512 # chunks; some shards are half-built
    whole = {p: p.stat().st_mtime_ns for p in folder_of(piece, model).glob('*/manifest.json')}
    codes, messages = ended(start_all(start, KILLED, then, *files, own=[99]*then))
    assert codes == [0]*then, messages
    assert all(p.stat().st_mtime_ns == changed for p, changed in whole.items())
    check_same(piece, model, single)

@pytest.mark.posix
def test_finished_chunks_are_not_computed_again(new_cache, start, files, piece, model, single):
    codes, _ = ended(start_all(start, KILLED, 1, *files, own=[5]))
    assert codes == [-signal.SIGKILL]
    left = -(-len(single)//512) - 5
    # whoever has one chunk fewer to compute than are left is killed, whoever has as many is not
    for n, ends in (left-1, -signal.SIGKILL), (1, 0):
        codes, messages = ended(start_all(start, KILLED, 1, *files, own=[n]))
        assert codes == [ends], messages
    check_same(piece, model, single)

@pytest.mark.posix
def test_local_disks_are_taken_up_by_another_number(new_cache, start, files, piece, model, single, disks):
    ended(start_all(start, KILLED, 2, *files, caches=disks, own=[3, 3]))
    codes, messages = ended(start_all(start, BUILD, 3, *files, caches=disks))
    assert codes == [0]*3, messages
    copied(disks, new_cache)
    check_same(piece, model, single)

@pytest.mark.posix
@pytest.mark.parametrize('dies', [0, 1])
def test_when_one_dies_the_others_end(new_cache, start, files, dies):
    processes = start_all(start, LINGER, 3, *files, own=[1 if i == dies else -1 for i in range(3)])
    assert processes[dies].wait(100) == -signal.SIGKILL
    died = time.monotonic()
    codes, messages = ended(p for i, p in enumerate(processes) if i != dies)
    assert time.monotonic() - died < 10
    assert all(s.startswith(f'test: process {dies} of 3 ended') for s in messages), messages
    assert all(s.count('\n') == 1 for s in messages), messages

# What cannot be used is said in one line, and left as it is.

OPEN = START + 'together(lambda: open_shards(corpus, model))'

def contents(folder): # but for locks
    files = [p for p in folder.rglob('*') if p.is_file() and p.suffix != '.lock']
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in files}

def refused(start, files, code, world, says, folder):
    before = contents(folder)
    codes, messages = ended(start_all(start, code, world, *files))
    assert codes == [2]*world and all(says in s and s.count('\n') == 1 for s in messages), messages
    assert contents(folder) == before

@pytest.fixture(scope='module')
def built_once(cache, piece, model, tmp_path_factory):
    built = remember(cache, tmp_path_factory.mktemp('built'))
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SHAKESPEARE_FFN_CACHE', str(built))
        m.setenv('SHAKESPEARE_FFN_SCALE', 'full')
        build_shards(piece, model, size=SIZE, quiet=True)
    return built

@pytest.fixture
def built(built_once, new_cache, piece, model):
    "The folder of a build that is whole"
    copied([built_once], new_cache)
    return folder_of(piece, model)

@pytest.mark.parametrize('world', [1, 2])
def test_a_missing_shard(built, start, files, world):
    shutil.rmtree(sorted(built.glob('*-of-*/'))[2])
    refused(start, files, OPEN, world, 'these are missing: 2; build them with ffn_shards', built)

@pytest.mark.parametrize('world', [1, 2])
@pytest.mark.parametrize('changed', [dict(arithmetic='float16'), dict(weights_sha256='0'*64),
                                     dict(shard=[0, 1024, 99])], ids=str)
def test_a_shard_of_another_build(built, start, files, world, changed):
    manifest = sorted(built.glob('*-of-*/manifest.json'))[1]
    content = json.loads(manifest.read_text(encoding='utf-8'))
    manifest.write_text(json.dumps(content | changed), encoding='utf-8')
    [name] = changed
    refused(start, files, OPEN, world, f'its {name} is', built)
    refused(start, files, BUILD, world, f'belongs to another build: its {name} is', built)

def test_a_shard_in_the_place_of_another(built, start, files):
    first, second, *_ = sorted(built.glob('*-of-*/'))
    shutil.rmtree(second)
    shutil.copytree(first, second)
    refused(start, files, OPEN, 1, 'do not add up to one index', built)
    refused(start, files, BUILD, 2, 'belongs to another build', built)

def test_another_division(built, start, files):
    smaller = BUILD.replace(f'size={SIZE}', 'size=512')
    refused(start, files, smaller, 2, 'holds shards of another build', built)
    (built/'00001-of-00099').mkdir()
    refused(start, files, OPEN, 2, 'holds shards of 2 builds', built)
    refused(start, files, BUILD, 2, 'another build, one of 99, not', built)

def test_processes_with_different_texts(new_cache, start, files, tmp_path):
    (other := tmp_path/'other.txt').write_bytes(files[0].read_bytes()[:-1])
    a, b = ranks(2)
    processes = [start(BUILD, files[0], files[1], env=a), start(BUILD, other, files[1], env=b)]
    codes, messages = ended(processes)
    assert codes == [2, 2] and all('process 1 has another text' in s for s in messages), messages

def test_damage_is_built_again(built, start, files, piece, model, single):
    "by whoever builds; who asks only, says so"
    first, second, third, *_ = sorted(built.glob('*-of-*/'))
    (first/'strings.kept').write_bytes(b'nothing')
    (second/'manifest.json').write_bytes(b'{}')
    os.truncate(third/'keys.bfloat16', 100)
    with pytest.raises(UserError, match='cannot be used with the other shards'): open_shards(piece, model)
    codes, messages = ended(start_all(start, BUILD, 2, *files))
    assert codes == [0, 0], messages
    check_same(piece, model, single)

# The commands find shards.

MATRIX = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(0)) # of two blocks
MEASURE = Measure((0, 1), MATRIX, torch.full((2, 32), .01))
RULES = {'measured': MeasuredApproximation(MEASURE, NearestApproximation(30, (Vote(0, False, 9., 1.1),))),
         'thresholds': Approximation((.6, .9), (1., 2.)),
         'nearest': NearestApproximation(30, (Vote(0, False, 9., 1.1, .4), Vote(1, True, 7., 1., .6)))}
EXPLAIN = '''
import sys
from functools import partial
from shakespeare_ffn import explain
explain.calibrate = partial(explain.calibrate, n=100)
explain.calibrate_nearest = partial(explain.calibrate_nearest, n=20, k=40, betas=(8, 16))
explain.calibrate_main(sys.argv[2:]) if sys.argv[1] == '--calibrate' else explain.main(sys.argv[1:])
'''

def close(a, b):
    "Are two explanations the same, but for the last digits of numbers?"
    if isinstance(a, float): return abs(a - b) < 1e-5
    if isinstance(a, dict): return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(close, a, b))
    return a == b

@pytest.mark.parametrize('rule', RULES.values(), ids=RULES)
@pytest.mark.parametrize('exclude', [False, True])
def test_an_explanation_is_the_same(built, single, piece, model, monkeypatch, rule, exclude):
    for prompt in piece.text[400:410], 'to the hou', 'Speak':
        found = explain(prompt, piece, model, rule, exclude_self=exclude, quiet=True)
        with monkeypatch.context() as m:
            m.setenv('SHAKESPEARE_FFN_CACHE', str(single.path.parents[1]))
            expected = explain(prompt, piece, model, rule, exclude_self=exclude, quiet=True)
        assert close(found.to_dict(), expected.to_dict())
        assert all(len(block.similar) > 0 for block in found.blocks)

def as_by_torchrun(start, *args):
    processes = start_all(start, EXPLAIN, 2, *args)
    outputs = [p.communicate(timeout=200) for p in processes]
    return max(p.returncode for p in processes), *outputs[0], outputs[1][0]

def by_torchrun(start, *args):
    torchrun = sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'
    done = subprocess.run([*torchrun, '--no-python', sys.executable, '-c', EXPLAIN, *map(str, args)],
                          capture_output=True, text=True, encoding='utf-8', timeout=200)
    return done.returncode, done.stdout, done.stderr, ''

torchrun_itself = pytest.param(by_torchrun, marks=pytest.mark.slow('processes as it starts them do the same'))

@pytest.mark.parametrize('together', [as_by_torchrun, torchrun_itself])
def test_two_processes_tune_and_explain(built, single, files, piece, model, start, monkeypatch, together):
    options = '--model', str(files[1]), '--text', str(files[0])
    code, output, error, other = together(start, '--calibrate', *options)
    assert code == 0 and 'nearest' in output and other.strip() == '', error
    code, shown, error, other = together(start, 'to the hou', *options, '--json')
    assert code == 0 and other.strip() == '', error
    tuned, tuned_nearest = tuned_approximation(model), nearest_approximation(model)
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(single.path.parents[1]))
    by_thresholds = calibrate(piece, model, single, n=100, progress=False)
    assert asdict(tuned) == asdict(by_thresholds)
    nearest = calibrate_nearest(piece, model, single, n=20, k=40, betas=(8, 16), progress=False)
    assert close(json.loads(json.dumps(asdict(tuned_nearest))), json.loads(json.dumps(asdict(nearest))))
    assert close(json.loads(shown), json.loads(_run_explain(['to the hou', *options, '--json'])))

def test_a_large_vocabulary_is_tuned_in_shards(built, single, piece, model, monkeypatch):
    "Only tokens that follow a string are told apart; what is found is the same."
    index, cache = open_shards(piece, model), os.environ['SHAKESPEARE_FFN_CACHE']
    def tuned(index, where):
        monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', where)
        found = (calibrate(piece, model, index, n=100, progress=False),
                 calibrate_nearest(piece, model, index, n=20, k=40, betas=(8, 16), progress=False))
        return [json.loads(json.dumps(asdict(x))) for x in found]
    assert index.counted_tokens(index.next_counts()) is None
    small = tuned(single, str(single.path.parents[1]))
    monkeypatch.setattr(shards, 'LARGE', 10)
    told = index.counted_tokens(index.next_counts())
    assert len(told) and torch.equal(told, single.counted_tokens(single.next_counts()))
    for large in tuned(index, cache), tuned(single, str(single.path.parents[1])):
        assert close(small, large)

def test_one_token_that_follows_nothing(new_cache, piece, monkeypatch):
    "What is counted of all others is as wide as what is counted of all tokens, and is not taken for it."
    text = Corpus('#' + piece.text[:2000], CharTokenizer(''.join(sorted({'#', *piece.text[:2000]}))), '1'*64)
    torch.manual_seed(0)
    small = Transformer(Config(len(text.tokenizer), n_layer=2, n_embed=32, n_head=2))
    small.tokenizer = text.tokenizer
    monkeypatch.setattr(shards, 'LARGE', 10)
    build_shards(text, small, size=SIZE, quiet=True)
    index, single = open_shards(text, small), corpus_index(text, small, quiet=True)
    assert len(index.counted_tokens(index.next_counts())) == len(text.tokenizer)
    found = [asdict(calibrate(text, small, i, n=50, progress=False)) for i in (index, single)]
    assert close(*json.loads(json.dumps(found)))

def test_a_missing_shard_is_said_by_the_command(built, files, capsys, piece, model):
    shutil.rmtree(sorted(built.glob('*-of-*/'))[0])
    with pytest.raises(SystemExit) as end:
        main(['to the hou', '--model', str(files[1]), '--text', str(files[0]), '--thresholds', '.5,.5',
              '--weights', '1,1'])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == '' and err.count('\n') == 1 and 'missing: 0' in err

COUNT = START + '''
queries, thresholds, own, expected = torch.load(sys.argv[3], weights_only=False)
def count():
    index = open_shards(corpus, model)
    mine = torch.from_numpy(index.rows_of(index.strings.tokens(own)))
    found = index.count(queries, index.next_counts(), thresholds, mine)
    assert all(map(torch.equal, found, expected))
    return index
together(count)
'''

@pytest.mark.parametrize('world', [1, 2, 3])
def test_counts_are_the_same(built, single, start, files, piece, tmp_path, world):
    own = prompt_ids(single.strings, 20)
    queries, thresholds = single.queries(single.strings.tokens(own)), [[.6, .9], [.7, .8]]
    values, rows = single.next_counts(), torch.from_numpy(single.row_of[own])
    expected = threshold_attention(queries, single.keys, values, thresholds, rows)
    assert expected[1].sum() > 0
    torch.save((queries, thresholds, own, expected), tmp_path/'case.pt')
    codes, messages = ended(start_all(start, COUNT, world, *files, tmp_path/'case.pt'))
    assert codes == [0]*world, messages

def ip(*args): subprocess.run(['ip', *args], check=True, capture_output=True)

@pytest.fixture
def hosts():
    "Two network namespaces that see each other, as two machines do"
    names = [f'ffn{os.getpid()}{i}' for i in range(2)]
    try:
        for name in names: ip('netns', 'add', name)
        ends = [end for name in names for end in ('netns', name)]
        ip('link', 'add', 'eth0', *ends[:2], 'type', 'veth', 'peer', 'name', 'eth0', *ends[2:])
        for i, name in enumerate(names):
            ip('-n', name, 'addr', 'add', f'10.77.0.{i+1}/24', 'dev', 'eth0')
            for link in 'eth0', 'lo': ip('-n', name, 'link', 'set', link, 'up')
        yield names
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f'network namespaces are not to be had here: {e}')
    finally:
        for name in names: subprocess.run(['ip', 'netns', 'del', name], capture_output=True)

def on_hosts(hosts, code, *args, caches) -> list: # processes, one on each
    there = dict(MASTER_ADDR='10.77.0.1', GLOO_SOCKET_IFNAME='eth0')
    return [subprocess.Popen(['ip', 'netns', 'exec', host, sys.executable, '-c', code, *map(str, args)],
                             env=env | there | dict(SHAKESPEARE_FFN_CACHE=str(cache)), encoding='utf-8',
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for host, env, cache in zip(hosts, ranks(2), caches)]

@pytest.mark.posix
@pytest.mark.slow('two processes on one machine, each on its own disk, do the same')
def test_two_hosts(hosts, new_cache, files, piece, model, single, disks):
    codes, messages = ended(on_hosts(hosts, BUILD, *files, caches=disks))
    assert codes == [0, 0], messages
    assert all(list(disk.glob('keys/*-shards/*/manifest.json')) for disk in disks[:2])
    copied(disks[:2], new_cache)
    check_same(piece, model, single)

# both work for ever; the systems are asked after 2 seconds, and 4 times
SILENT = START.replace('corpus_keys._SAVE', 'import time\nfrom shakespeare_ffn import cosine_sims\n'
                       'cosine_sims._SILENT = 2, 1, 4\ncorpus_keys._SAVE', 1) + '''
def work():
    with shards.Peers().watched() as check:
        print('working', flush=True)
        while True:
            time.sleep(.1)
            check()
together(work)
'''

@pytest.mark.posix
@pytest.mark.slow('a process that dies is noticed by the same means')
def test_a_host_that_vanishes(hosts, new_cache, files):
    processes = on_hosts(hosts, SILENT, *files, caches=[new_cache]*2)
    try:
        assert [p.stdout.readline() for p in processes] == ['working\n']*2
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(9) # who is halted is still there
        assert processes[0].poll() is None
        processes[1].send_signal(signal.SIGCONT)
        ip('-n', hosts[1], 'link', 'set', 'eth0', 'down')
        vanished = time.monotonic()
        codes, messages = ended(processes)
    finally:
        for p in processes: p.kill()
    assert codes == [2, 2] and time.monotonic() - vanished < 30
    assert all(re.search(f'^test: process {1-i} of 2 ended before .* or its machine vanished', s, re.M)
               for i, s in enumerate(messages)), messages
