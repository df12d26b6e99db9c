"The index on disk: killed builds, damaged and foreign files, two builds at once, disks that are full or closed."
import json, os, shutil, signal, subprocess, time
from pathlib import Path
import pytest, torch
from shakespeare_ffn import corpus_keys
from shakespeare_ffn.corpus_keys import BadIndex, KeyIndex, TrieForward, corpus_index, rows_done
from shakespeare_ffn.data import UserError
from shakespeare_ffn.explain import main
from shakespeare_ffn.model import load_model, save_model

BUILD = '''
import sys
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
from shakespeare_ffn.corpus_keys import corpus_index
corpus_index(load_corpus(), load_model(), length=int(sys.argv[1])).verify()
'''

def folders(cache): return sorted(p.name for p in (cache/'keys').iterdir() if p.is_dir())

def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < until
        time.sleep(.01)

@pytest.fixture
def full(monkeypatch): monkeypatch.setenv('SHAKESPEARE_FFN_SCALE', 'full')

@pytest.mark.posix
def test_a_killed_build_is_taken_up(new_cache, full, start, corpus, model, monkeypatch):
    process = start(BUILD, 4)
    wait_for(lambda: list(new_cache.glob('keys/*.partial/progress.json')), process)
    process.send_signal(signal.SIGKILL); process.wait()
    [partial] = (new_cache/'keys').glob('*.partial')
    done = json.loads((partial/'progress.json').read_text())['done']
    assert 0 < done < len(corpus.substrings(4)) and not partial.with_suffix('').exists()
    computed, forward = [], TrieForward.__call__
    monkeypatch.setattr(TrieForward, '__call__', lambda self, tokens: computed.append(len(tokens)) or forward(self, tokens))
    index = corpus_index(corpus, model, length=4, quiet=True)
    assert sum(computed) <= len(index) - done + 10 # the rest, and the few strings that opening recomputes
    assert folders(new_cache) == [index.path.name]
    index.verify()
    rows = torch.arange(0, len(index), 101) # from before and after the kill: all as a build in one go has them
    anew = index.compute(index.strings.tokens(index.ids[rows]))
    assert torch.nn.functional.cosine_similarity(anew.float(), index.keys[:, rows].float(), dim=-1).min() > .999

def test_killed_at_any_moment(new_cache, full, start, corpus, model):
    "Whatever a kill leaves, the final name stands for nothing half-built"
    for delay in 0, .01, .1, .3, .6, 1.:
        process = start(BUILD, 3)
        wait_for(lambda: list(new_cache.glob('keys/*')) or process.poll() is not None, process)
        time.sleep(delay)
        process.kill(); process.wait()
        for path in (new_cache/'keys').iterdir():
            if path.is_dir() and not path.name.endswith('.partial'): assert (path/'manifest.json').exists()
    corpus_index(corpus, model, length=3, quiet=True).verify()
    assert len(folders(new_cache)) == 1

def test_a_truncated_partial_build_is_not_taken_up(new_cache, corpus, model):
    path = corpus_index(corpus, model, length=1, quiet=True).path
    partial, identity = path.with_name(path.name + '.partial'), corpus_index(corpus, model, length=1).identity
    path.rename(partial)
    (partial/'progress.json').write_text(json.dumps(dict(identity=identity, done=60)))
    assert rows_done(partial, identity) == 60
    os.truncate(partial/'keys.bfloat16', 1000)
    assert rows_done(partial, identity) == 0 and not partial.exists()

def test_a_partial_build_of_something_else_is_not_taken_up(new_cache, corpus, model):
    path = corpus_index(corpus, model, length=1, quiet=True).path
    partial = path.with_name(path.name + '.partial')
    path.rename(partial)
    (partial/'progress.json').write_text(json.dumps(dict(identity=dict(length=2), done=60)))
    (partial/'keys.bfloat16').write_bytes(b'\0'*len((partial/'keys.bfloat16').read_bytes()))
    corpus_index(corpus, model, length=1, quiet=True).verify()
    assert folders(new_cache) == [path.name]

def test_a_truncated_index_is_built_again(new_cache, capsys, corpus, model):
    index = corpus_index(corpus, model, length=2, quiet=True)
    file = index.path/'keys.bfloat16'
    os.truncate(file, file.stat().st_size//2)
    capsys.readouterr()
    main(['to', '--top', '1'])
    out, err = capsys.readouterr()
    assert "What comes after 'to'?" in out and 'bytes, not' in err and 'building it again' in err
    corpus_index(corpus, model, length=2, quiet=True).verify()

@pytest.mark.parametrize('damage', [lambda p: (p/'manifest.json').unlink(), lambda p: (p/'manifest.json').write_text('{"format'),
                                    lambda p: (p/'keys.bfloat16').unlink(), lambda p: (p/'keys.bfloat16').write_bytes(b'')],
                         ids=['no manifest', 'half a manifest', 'no numbers', 'no bytes'])
def test_a_half_built_index_is_not_believed(new_cache, corpus, model, damage):
    index = corpus_index(corpus, model, length=1, quiet=True)
    damage(index.path)
    with pytest.raises(BadIndex): KeyIndex(index.path, index.identity, index.strings, model)
    corpus_index(corpus, model, length=1, quiet=True).verify()

def test_a_changed_number_is_found_by_the_checksum(new_cache, corpus, model):
    index = corpus_index(corpus, model, length=1, quiet=True)
    with open(index.path/'keys.bfloat16', 'r+b') as f: f.seek(4321); f.write(b'\x7f')
    with pytest.raises(BadIndex, match='checksum'): KeyIndex(index.path, index.identity, index.strings, model).verify()

def test_an_index_of_other_weights_is_not_read(new_cache, tmp_path, corpus, model):
    other = load_model()
    for p in other.parameters(): p.data += .02*torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    save_model(other, tmp_path/'other.safetensors', model.metadata, model.tokenizer.chars)
    other = load_model(tmp_path/'other.safetensors')
    theirs, ours = (corpus_index(corpus, m, length=1, quiet=True) for m in (other, model))
    shutil.rmtree(ours.path)
    shutil.copytree(theirs.path, ours.path)
    with pytest.raises(BadIndex, match='weights_sha256'): KeyIndex(ours.path, ours.identity, ours.strings, model)
    (ours.path/'manifest.json').write_text(json.dumps(ours.manifest)) # even with a manifest that lies
    with pytest.raises(BadIndex, match='not those of this model'): KeyIndex(ours.path, ours.identity, ours.strings, model)
    corpus_index(corpus, model, length=1, quiet=True).verify()

def test_an_index_of_another_corpus_is_not_read(new_cache, corpus, model):
    index = corpus_index(corpus, model, length=1, quiet=True)
    with pytest.raises(BadIndex, match='corpus_sha256'): KeyIndex(index.path, index.identity | dict(corpus_sha256='f'*64), index.strings, model)

def test_what_a_dead_build_left_is_reclaimed(new_cache, full, start, corpus, model):
    process = start(BUILD, 4)
    wait_for(lambda: list(new_cache.glob('keys/*.partial/keys.bfloat16')), process)
    process.kill(); process.wait()
    index = corpus_index(corpus, model, length=1, quiet=True)
    assert folders(new_cache) == [index.path.name]

def test_two_builds_at_once(new_cache, full, start):
    both = [start(BUILD, 3) for _ in range(2)]
    errors = [p.communicate(timeout=200)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], errors
    assert sum('Building the index' in e for e in errors) == 1 # the other one waited and used it
    assert len(folders(new_cache)) == 1

def limit_files(n_bytes):
    "In a child: no file may grow beyond this."
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

@pytest.mark.posix
def test_a_disk_that_fills_up_while_building(new_cache, full, start):
    process = start('from shakespeare_ffn.explain import main; main()', 'tho', preexec_fn=lambda: limit_files(2_000_000))
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, '') and 'Traceback' not in err
    assert 'ffn_explain: cannot write the index' in err.splitlines()[-1] and 'make room' in err
    assert folders(new_cache) == []

@pytest.mark.posix
def test_a_disk_too_small(new_cache, tmp_path, corpus, model, monkeypatch, capsys):
    small = tmp_path/'small'
    small.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', small], capture_output=True).returncode: pytest.skip('may not mount')
    try:
        monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(small))
        (small/'tinyshakespeare.txt').write_bytes((new_cache/'tinyshakespeare.txt').read_bytes())
        with pytest.raises(SystemExit) as ended: main(['to'])
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, '') and 'make room' in err and err.count('\n') == 1, err
        assert [p for p in (small/'keys').iterdir() if p.is_dir()] == []
        monkeypatch.setattr(corpus_keys, 'check_room', lambda folder, n: None) # the disk fills up after the check
        with pytest.raises(UserError, match='No space left on device; make room'): corpus_index(corpus, model, length=2, quiet=True)
        assert [p for p in (small/'keys').iterdir() if p.is_dir()] == []
    finally: subprocess.run(['umount', small], check=True)

@pytest.mark.posix
@pytest.mark.parametrize('kind', ['a file', 'closed'])
def test_a_folder_that_cannot_be_written(new_cache, tmp_path, monkeypatch, capsys, corpus, kind):
    (tmp_path/'text').write_text(corpus.text); monkeypatch.setenv('SHAKESPEARE_FFN_TEXT', str(tmp_path/'text'))
    place = tmp_path/'place'
    if kind == 'a file': place.write_text('')
    else: place.mkdir(mode=0o500)
    if kind == 'closed' and os.access(place, os.W_OK): place = Path('/proc/closed') # for root no folder is closed, but this one is
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(place))
    with pytest.raises(SystemExit) as ended: main(['to'])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count('\n')) == (2, '', 1) and 'SHAKESPEARE_FFN_CACHE' in err, err

@pytest.mark.posix
def test_interrupted_by_hand(new_cache, full, start):
    heed = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)' # a shell's background jobs, tests among them, ignore it
    process = start(f'{heed}; from shakespeare_ffn.explain import main; main()', 'thou a') # takes long enough to be caught in the middle
    wait_for(lambda: list(new_cache.glob('keys/*.partial')), process)
    time.sleep(.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, '') and 'interrupted' in err and 'Traceback' not in err
