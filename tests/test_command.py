"""`ffn_explain`: what it answers, and what bad input gets.

That is one line that says what to do, exit code 2, and nothing else."""
import importlib, json, os, re, shutil, signal, subprocess, sys, threading
from contextlib import contextmanager
from pathlib import Path
import gpu, pytest, reproduce, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save_file
from shakespeare_ffn import commands, training
from shakespeare_ffn.core import WEIGHTS, UserError, read_file
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.explain import _cache_parser, _calibrate_parser, _counts_parser, _explain_parser
from shakespeare_ffn.explain import _shards_parser, explain, main
from shakespeare_ffn.explore import _explore_parser
from shakespeare_ffn.model import Config, Transformer, load_model, save_model, weights_hash
from forked import ranks

MAIN = 'from shakespeare_ffn.explain import main; main()'

def refused(capsys, *args, run=main, name='ffn_explain') -> str: # name: of the command that is run
    "The line on standard error of a command that ends with exit code 2 and prints nothing else."
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended: run([str(a) for a in args])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count('\n')) == (2, '', 1), err
    assert err.startswith(f'{name}: ') and 'Traceback' not in err
    return err

def answer(capsys, *args) -> str:
    capsys.readouterr()
    main([str(a) for a in args])
    return capsys.readouterr().out

FAULTS = {
    'unknown character': (['caf\u00e9'], ["'\u00e9' at position 3"]),
    'another one first': (['To \u2014 be'], ["'\u2014' at position 3"]),
    'empty prompt': ([''], ['empty']),
    'longer than the context': (['a'*257], ['257', '256']),
    'no prompt': ([], ['prompt']),
    'two prompts': (['To', 'be'], ['be']),
    'unknown option': (['To be', '--depth', '3'], ['--depth', '--help']),
    'threshold above one': (['To be', '--thresholds', '.9,.9,.9,.9,.9,1.5'], ['1.5']),
    'threshold that is none': (['To be', '--thresholds', '.9,.9,.9,.9,.9,nan'], ['nan']),
    'too few thresholds': (['To be', '--thresholds', '.9,.9'], ['2 thresholds', '6 blocks']),
    'too many weights': (['To be', '--weights', '1,1,1,1,1,1,1'], ['7 weights', '6 blocks']),
    'negative weight': (['To be', '--weights=-1,1,1,1,1,1'], ['from 0 to 1e100']),
    'weights without an end': (['To be', '--thresholds', '0,0,0,0,0,0', '--weights', '1e308,1e308,1,1,1,1'],
                               ['from 0 to 1e100']),
    'sums without an end': (['To be', '--thresholds', '0,0,0,0,0,0', '--weights', '1e305,1,1,1,1,1'],
                            ['from 0 to 1e100']),
    'weights all zero': (['To be', '--weights', '0,0,0,0,0,0'], ['not all 0']),
    'not numbers': (['To be', '--thresholds', 'high,low'], ["'high,low'"]),
    'article and own': (['To be', '--article', '--weights', '1,1,1,1,1,1'], ['either']),
    'article and cosine': (['To be', '--article', '--cosine'], ['either']),
    'cosine and thresholds': (['To be', '--cosine', '--thresholds', 'tuned'], ['either']),
    'length beyond the prompt': (['To be', '--length', '6'], ['1 to 5']),
    'length zero': (['To be', '--length', '0'], ['1 to 5']),
    'length in words': (['To be', '--length', 'ten'], ['ten']),
    'top in words': (['To be', '--top', 'some'], ["'all'"]),
    'top negative': (['To be', '--top=-1'], ["'-1'"]),
    'no such device': (['To be', '--device', 'abacus'], ["'abacus'"]),
    'no such text': (['To be', '--text', 'nowhere.txt'], ['nowhere.txt']),
    'no such weights': (['To be', '--model', 'nowhere.safetensors'], ['nowhere.safetensors']),
    'figure of no kind': (['To be', '--figure', 'figure.xyz'], ['.png']),
    'figure nowhere': (['To be', '--figure', 'nowhere/figure.png'], ['nowhere/figure.png']),
}

PARSERS = [_explain_parser, _calibrate_parser, _counts_parser, _shards_parser, _cache_parser, _explore_parser,
           training._parser, gpu._parser, reproduce._parser]

@pytest.mark.parametrize('parser', PARSERS, ids=lambda p: p().prog)
def test_no_argument_is_an_empty_text(parser, tmp_path):
    "of any command; those that are required are given"
    (tmp_path/'config.json').touch()
    given = dict(prompt=['To be'], model=['--model', str(tmp_path)])
    actions = [a for a in parser()._actions if a.nargs != 0]
    assert actions
    for action in actions:
        others = [a.dest for a in actions if a.required and a is not action]
        rest = sum([given.get(name, []) for name in others], [])
        empty = [action.option_strings[0], ''] if action.option_strings else ['']
        if action.dest == 'names': empty = ['list', '']
        with pytest.raises(UserError, match="''|empty"): parser().parse_args([*rest, *empty])

def numbers(parser): return [a.option_strings[0] for a in parser()._actions if a.type in (int, float)]
NUMBERS = [(parser, option) for parser in PARSERS for option in numbers(parser)]
# what somebody may type for a number, most of it out of all bounds
TYPED = st.one_of(st.integers().map(str), st.integers(1, 5000).map(lambda n: '1' + '0'*n),
                  st.floats().map(str), st.text(max_size=5),
                  st.sampled_from(['-inf', '1e999', '٣', '1_0', '0x10', '--', '1,5']))

@pytest.mark.parametrize('parser, option', NUMBERS, ids=lambda x: x if isinstance(x, str) else x().prog)
@settings(deadline=None)
@given(typed=TYPED)
def test_a_number_is_one_that_counts(parser, option, typed):
    "Whatever is typed, a command gets a number of a possible size, or says what is wrong in one line."
    p = parser()
    for action in p._actions: action.required = False
    try: found = vars(p.parse_args([f'{option}={typed}']))[option[2:]]
    except UserError as e: assert option in str(e) and len(str(e)) < 350
    else: assert abs(found) <= 2**53

@pytest.mark.parametrize('args, says', FAULTS.values(), ids=FAULTS)
def test_fault(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *args)
    assert all(s in line for s in says), line
    assert list(tmp_path.iterdir()) == [] # nothing half-written

SETTINGS = (Path(__file__).resolve().parents[1]/'settings.ini').read_text(encoding='utf-8')
COMMANDS = {name: (module, run) for name, module, run in re.findall(r'(ffn_\w+)=([\w.]+):(\w+)', SETTINGS)}

BEGIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's background jobs ignore it
sys.path.insert(0, sys.argv[1])
from {0} import {1}
{1}()
"""

@pytest.mark.posix
@pytest.mark.parametrize('name', COMMANDS)
def test_interrupted_while_it_is_imported(name, tmp_path):
    "PyTorch takes seconds; to stop a command meanwhile is no error."
    slow = "import time; print('importing', flush=True); time.sleep(60)"
    (tmp_path/'torch.py').write_text(slow, encoding='utf-8')
    command = [sys.executable, '-c', BEGIN.format(*COMMANDS[name]), tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          encoding='utf-8') as process:
        assert process.stdout.readline() == 'importing\n'
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ('', '')
    assert process.returncode == -signal.SIGINT

def test_a_command_that_cannot_be_imported(monkeypatch, capsys):
    def fail(name): raise ImportError('libtorch_cpu.so: failed to map segment from shared object')
    monkeypatch.setattr(commands, 'import_module', fail)
    for name, (_, run) in COMMANDS.items():
        assert 'failed to map segment' in refused(capsys, run=getattr(commands, run), name=name)

def test_a_command_in_a_thread(capsys):
    "where nobody may say what Ctrl-C does"
    before, ended = signal.getsignal(signal.SIGINT), []
    def ask():
        try: commands.ffn_cache(['--help'])
        except SystemExit as e: ended.append(e.code)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert ended == [0] and signal.getsignal(signal.SIGINT) is before

@contextmanager
def as_another_user():
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try: yield
    finally: os.seteuid(0)

def no_files(folder, ending) -> list: # names
    "What an option that names a file must not be given."
    names = {kind: folder/f'{kind}{ending}' for kind in ('folder', 'pipe', 'device')}
    names['folder'].mkdir()
    os.mkfifo(names['pipe'])
    names['device'].symlink_to('/dev/zero')
    return ['', *names.values()]

@pytest.mark.posix
@pytest.mark.parametrize('name', COMMANDS)
def test_options_that_name_no_file(capsys, tmp_path, name):
    module, run = COMMANDS[name]
    run = getattr(importlib.import_module(module), run)
    def wrong(option, value):
        line = refused(capsys, f'{option}={value}', run=run, name=name)
        assert option in line and (str(value) or "''") in line
    with pytest.raises(SystemExit): run(['--help'])
    options = re.findall(r'^  (--\w+) FILE', capsys.readouterr().out, re.M)
    assert options or name in ('ffn_cache', 'ffn_counts')
    for option in options:
        ending = {'--figure': '.png', '--model': '.pt'}.get(option, '.txt')
        folder = tmp_path/option
        folder.mkdir()
        for value in no_files(folder, ending):
            may_be_sent = option == '--text' and value == folder/f'pipe{ending}'
            if not may_be_sent: wrong(option, value)
        if option in ('--output', '--figure'): continue # they are made
        wrong(option, folder/f'nowhere{ending}')
        secret = folder/f'secret{ending}'
        secret.touch(0o000)
        with as_another_user(): wrong(option, secret)

@pytest.mark.posix
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path/'pipe.safetensors')
    for path in tmp_path/'pipe.safetensors', '/dev/zero':
        for read in read_file, load_model:
            with pytest.raises(UserError, match='it is a pipe or a device'): read(path)
    with pytest.raises(UserError, match='it is a pipe or a device'): load_corpus('/dev/zero')
    with pytest.raises(UserError, match='is empty'): load_corpus(tmp_path/'pipe.safetensors') # nobody writes

@contextmanager
def sent(content: bytes):
    "The name of a pipe through which it comes, as the shell makes one for `<(…)`."
    reads, writes = os.pipe()
    def send():
        with os.fdopen(writes, 'wb') as f: f.write(content)
    thread = threading.Thread(target=send)
    thread.start()
    yield f'/dev/fd/{reads}'
    thread.join()
    os.close(reads)

@pytest.mark.posix
def test_a_text_may_come_through_a_pipe(tmp_path, monkeypatch):
    content = 'To be, or not to be. '.encode()*20_000 # more than a pipe holds
    with sent(content) as pipe:
        first, again = load_corpus(pipe), load_corpus(pipe) # as for a checkpoint without a vocabulary
    assert (first.text.encode(), again.text) == (content, first.text)
    with sent(b'another text') as pipe: assert load_corpus(pipe).text == 'another text' # of the same name
    with sent(b'') as pipe, pytest.raises(UserError, match='is empty'): load_corpus(pipe)
    for name, value in ranks(2)[0].items(): monkeypatch.setenv(name, value)
    with sent(b'x') as pipe:
        with pytest.raises(UserError, match='several processes.*give a file'): load_corpus(pipe)

@pytest.mark.posix
def test_commands_take_a_text_from_a_pipe(capsys):
    with sent(b'To be, or not to be. '*50) as pipe: # read, and then found to be another text
        assert 'was trained on another text' in refused(capsys, 'To be', '--text', pipe)

def test_a_device_that_is_not_there(capsys):
    if torch.cuda.is_available(): pytest.skip('it is there')
    assert "'cuda'" in refused(capsys, 'To be', '--device', 'cuda')

def test_corpus_that_differs(capsys, corpus, tmp_path, monkeypatch):
    other = tmp_path/'other.txt'
    other.write_text(corpus.text.replace('First', 'Third', 1), encoding='utf-8')
    monkeypatch.setenv('SHAKESPEARE_FFN_TEXT', str(other))
    assert 'other.txt is not the expected corpus' in refused(capsys, 'To be')
    monkeypatch.delenv('SHAKESPEARE_FFN_TEXT')
    assert 'another text' in refused(capsys, 'To be', '--text', other)

def test_a_text_that_is_none(capsys, tmp_path):
    binary, empty = tmp_path/'binary', tmp_path/'empty'
    binary.write_bytes(b'\xff\xfe\x00')
    empty.write_bytes(b'')
    assert 'UTF-8' in refused(capsys, 'To be', '--text', binary)
    assert 'empty' in refused(capsys, 'To be', '--text', empty)
    assert 'cannot read' in refused(capsys, 'To be', '--text', tmp_path)

def test_weights_that_fail_their_check(capsys, tmp_path):
    file, sound = tmp_path/'w.safetensors', WEIGHTS.read_bytes()
    file.write_bytes(sound[:-100])
    assert 'not a readable safetensors file' in refused(capsys, 'To be', '--model', file)
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert 'fails its check' in refused(capsys, 'To be', '--model', file)
    file.write_text('not weights at all', encoding='utf-8')
    assert 'not a readable safetensors file' in refused(capsys, 'To be', '--model', file)
    assert 'cannot read' in refused(capsys, 'To be', '--model', tmp_path)

def test_weights_of_another_architecture(capsys, tmp_path, corpus):
    file = tmp_path/'w.safetensors'
    tensors = {'wte.weight': torch.zeros(65, 384)}
    save_file(tensors, file, {'weights_sha256': weights_hash(tensors)})
    assert 'this architecture' in refused(capsys, 'To be', '--model', file)
    tensors = {k: v for k, v in Transformer().state_dict().items() if 'blocks.3.ffwd' not in k}
    metadata = {'weights_sha256': weights_hash(tensors), 'n_head': '6', 'chars': corpus.tokenizer.chars}
    save_file(tensors, file, metadata)
    assert 'this architecture' in refused(capsys, 'To be', '--model', file)

def test_a_sound_model_for_which_nothing_is_tuned(capsys, tmp_path, corpus):
    file = tmp_path/'small.safetensors'
    small = Transformer(Config(n_layer=2, n_embed=12, n_head=2))
    save_model(small, file, dict(corpus_sha256=corpus.sha256), corpus.tokenizer.chars)
    assert 'nothing is tuned' in refused(capsys, 'To be', '--model', file)
    by_hand = '--thresholds', '.9,.9', '--weights', '1,1'
    explanation = json.loads(answer(capsys, 'To be', '--model', file, *by_hand, '--json'))
    assert len(explanation['blocks']) == 2

def test_no_network(tmp_path):
    "From a copy with no corpus anywhere near, behind a proxy that is not there"
    import shakespeare_ffn
    shutil.copytree(Path(shakespeare_ffn.__file__).parent, tmp_path/'lib'/'shakespeare_ffn')
    env = {k: v for k, v in os.environ.items() if k != 'SHAKESPEARE_FFN_TEXT'}
    env |= dict(PYTHONPATH=str(tmp_path/'lib'), SHAKESPEARE_FFN_CACHE=str(tmp_path/'cache'))
    env |= dict(https_proxy='http://127.0.0.1:9', no_proxy='')
    done = subprocess.run([sys.executable, '-c', MAIN, 'To be'],
                          cwd=tmp_path, env=env, capture_output=True, text=True, encoding='utf-8')
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1), done.stderr
    assert 'cannot fetch the corpus' in done.stderr
    assert str(tmp_path/'cache'/'tinyshakespeare.txt') in done.stderr
    assert not (tmp_path/'cache').exists()

def test_json(capsys):
    explanation = json.loads(answer(capsys, 'And only l', '--json', '--top', 'all'))
    assert list(explanation) == ['prompt', 'length', 'scale', 'weights', 'hellinger', 'empty',
                                 'model', 'approximation', 'blocks']
    assert (explanation['prompt'], explanation['length'], explanation['scale']) == ('And only l', 10, 'smoke')
    assert not explanation['empty'] and [b['blocks'] for b in explanation['blocks']] == [[0, 1, 2, 3, 4, 5]]
    for p in explanation['model'], explanation['approximation']:
        assert abs(sum(p.values()) - 1) < 1e-5 and all(len(c) == 1 for c in p)
    for b in explanation['blocks']:
        assert list(b) == ['blocks', 'rule', 'share', 'n_similar', 'similar', 'counts', 'says']
        assert b['n_similar'] == len(b['similar']) == 1500
        total, in_all = {}, sum(b['counts'].values())
        for s in b['similar']:
            assert list(s) == ['string', 'cosine', 'weight', 'next', 'positions']
            n_next = sum(s['next'].values())
            for c, n in s['next'].items(): total[c] = total.get(c, 0) + s['weight']*in_all*n/n_next
        assert total == pytest.approx(b['counts']) # all strings are listed, so they explain the counts
        cosines = [s['cosine'] for s in b['similar']]
        assert cosines == sorted(cosines, reverse=True)
    assert sum(b['share'] for b in explanation['blocks']) == pytest.approx(1)
    for c, p in explanation['approximation'].items():
        assert p == pytest.approx(sum(b['share']*b['says'].get(c, 0) for b in explanation['blocks']))

def test_json_by_thresholds(capsys):
    explanation = json.loads(answer(capsys, 'And only l', '--json', '--top', 'all', '--thresholds', 'tuned'))
    assert [b['blocks'] for b in explanation['blocks']] == [[b] for b in range(6)]
    for b in explanation['blocks']:
        total, threshold = {}, float(b['rule'].removeprefix('cosine above '))
        assert b['n_similar'] == len(b['similar'])
        for s in b['similar']:
            assert s['cosine'] > threshold
            for c, n in s['next'].items(): total[c] = total.get(c, 0) + n
        assert total == b['counts']

def test_positions_are_where_the_string_stands(capsys, corpus):
    explanation = json.loads(answer(capsys, 'th', '--json', '--top', 'all'))
    listed = [s for b in explanation['blocks'] for s in b['similar']]
    assert listed
    for s in listed:
        assert all(corpus.text[i:i+2] == s['string'] for i in s['positions'])
        following = [corpus.text[i+2:i+3] for i in s['positions']]
        assert sum(c in s['next'] for c in following) == sum(s['next'].values())

def test_newline(capsys):
    assert json.loads(answer(capsys, r':\n', '--json'))['prompt'] == ':\n'

def test_a_longer_prompt_says_what_is_explained(capsys):
    text = answer(capsys, 'That is the question')
    assert 'e question' in text and 'last 10' in text
    explanation = json.loads(answer(capsys, 'That is the question', '--json'))
    assert (explanation['prompt'], explanation['length']) == ('That is the question', 10)

def test_leading_dash(capsys):
    assert "'--And only'" in answer(capsys, '--top', '1', '--', '--And only')

def test_figure(capsys, tmp_path):
    answer(capsys, 'And only l', '--figure', tmp_path/'figure.png')
    assert (tmp_path/'figure.png').read_bytes().startswith(b'\x89PNG')

def test_nothing_passes_is_said(capsys):
    text = answer(capsys, 'zq$zq$zq$3', '--thresholds', '1,1,1,1,1,1')
    assert '(empty)' in text and text.count('no similar string') == 6
    assert json.loads(answer(capsys, 'zq$zq$zq$3', '--thresholds', '1,1,1,1,1,1', '--json'))['empty'] is True

@pytest.mark.posix
def test_whoever_reads_may_stop(tmp_path):
    piped = f'{sys.executable} -c "{MAIN}" --top all "And only l" | head -1'
    done = subprocess.run(piped, shell=True, capture_output=True, text=True, encoding='utf-8')
    assert done.stdout == "What comes after 'And only l'?\n" and 'Traceback' not in done.stderr

@pytest.mark.slow('tests/test_text.py has one in ASCII alone')
def test_a_terminal_that_knows_no_unicode():
    env = os.environ | dict(PYTHONIOENCODING='ascii')
    done = subprocess.run([sys.executable, '-c', MAIN, 'And only l'],
                          env=env, capture_output=True, text=True, encoding='utf-8')
    assert done.returncode == 0 and 'Hellinger' in done.stdout, done.stderr

@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_prompt_is_explained(corpus, model, data):
    "Of a length for which there is an index, or one is soon made."
    chars = corpus.tokenizer.chars
    prompt = data.draw(st.text(chars, min_size=1, max_size=2) | st.text(chars, min_size=10, max_size=256))
    e = explain(prompt, corpus, model, quiet=True)
    assert 0 <= e.hellinger <= 1 and e.length == min(len(prompt), 10)
    assert abs(sum(e.approximation.values()) - 1) < 1e-9
    assert str(e) and e._repr_html_()
