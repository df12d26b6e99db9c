"The index on disk: killed builds, damaged and foreign files, two builds at once, full or closed disks."
import errno, json, os, shutil, signal, subprocess, tempfile, time
from pathlib import Path
import numpy as np, pytest, torch
from shakespeare_ffn import corpus_keys
from shakespeare_ffn.corpus_keys import BadIndex, KeyIndex, TrieForward, _chunks_done, corpus_index
from shakespeare_ffn.core import UserError
from shakespeare_ffn.explain import main
from shakespeare_ffn.model import Config, Transformer, load_model, save_model

BUILD = '''
import sys
from shakespeare_ffn import corpus_keys
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.model import load_model
corpus_keys._SAVE_EVERY, corpus_keys._next_note = 1, lambda begun, ended: 0 # after each chunk
corpus_keys.corpus_index(load_corpus(), load_model(sys.argv[2]), length=int(sys.argv[1])).verify()
'''

KILLED = '''
import os, signal
from shakespeare_ffn import corpus_keys
write = corpus_keys.write_atomically
def noted(path, content):
    write(path, content)
    if path.name == 'progress.json': os.kill(os.getpid(), signal.SIGKILL)
corpus_keys.write_atomically = noted
''' + BUILD

@pytest.fixture(scope='module')
def weights(corpus, tmp_path_factory):
    "Of a small model, for whatever is about files and not about numbers."
    file = tmp_path_factory.mktemp('small')/'weights.safetensors'
    small = Transformer(Config(len(corpus.tokenizer), n_layer=2, n_embed=32, n_head=2))
    save_model(small, file, dict(corpus_sha256=corpus.sha256), corpus.tokenizer.chars)
    return file

@pytest.fixture(scope='module')
def model(weights): return load_model(weights)

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
def test_a_killed_build_is_taken_up(new_cache, full, start, corpus, weights, model, monkeypatch):
    process = start(KILLED, 2, weights)
    assert process.wait(120) == -signal.SIGKILL, process.communicate()
    [partial] = (new_cache/'keys').glob('*.partial')
    notes = json.loads((partial/'progress.json').read_text(encoding='utf-8'))
    done = notes['chunk']*notes['done'] # strings, or a few more if the last chunk is among them
    assert 0 < done < len(corpus.substrings(2)) and not partial.with_suffix('').exists()
    computed, forward = [], TrieForward.__call__
    monkeypatch.setattr(TrieForward, '__call__',
                        lambda self, tokens: computed.append(len(tokens)) or forward(self, tokens))
    index = corpus_index(corpus, model, length=2, quiet=True)
    # the rest, and the few strings that opening recomputes
    assert sum(computed) <= len(index) - done + notes['chunk']
    assert folders(new_cache) == [index.path.name]
    index.verify()
    # from before and after the kill: all as a build in one go has them
    rows = torch.arange(0, len(index), 29)
    anew = index.compute(index.strings.tokens(index.ids[rows]))
    assert torch.nn.functional.cosine_similarity(anew.float(), index.keys[:, rows].float(),
                                                 dim=-1).min() > .999

def test_killed_at_any_moment(new_cache, full, start, corpus, weights, model):
    "Whatever a kill leaves, the final name stands for nothing half-built"
    for delay in 0, .05, .1, .2, .4:
        process = start(BUILD, 3, weights)
        wait_for(lambda: list(new_cache.glob('keys/*.partial')), process)
        time.sleep(delay)
        process.kill()
        process.wait()
        for path in (new_cache/'keys').iterdir():
            if path.is_dir() and not path.name.endswith('.partial'): assert (path/'manifest.json').exists()
    corpus_index(corpus, model, length=3, quiet=True).verify()
    assert len(folders(new_cache)) == 1

@pytest.fixture
def partial(new_cache, corpus, model):
    "What a build leaves that dies after one of its two chunks, and its identity"
    index = corpus_index(corpus, model, length=1, quiet=True)
    partial = index.path.with_name(index.path.name + '.partial')
    index.path.rename(partial)
    (partial/'progress.json').write_text(json.dumps(dict(identity=index.identity, chunk=40, done=1)),
                                         encoding='utf-8')
    return partial, index.identity

def test_a_truncated_partial_build_is_not_taken_up(partial):
    partial, identity = partial
    assert _chunks_done(partial, identity) == (40, 1)
    os.truncate(partial/'keys.bfloat16', 1000)
    assert _chunks_done(partial, identity) == (None, 0) and not partial.exists()

DAMAGE = {'emptied': b'', 'zeroed': bytes(300), 'cut': b'{"chunk": 10', 'a list': b'[1, 2]', 'a number': b'7',
          'no text': b'\xff\xfe\xfa',
          'deep': b'['*100_000, 'no fields': b'{}', 'huge': b'{"chunk": ' + b'9'*10_000 + b'}'}

@pytest.mark.parametrize('damage', [*DAMAGE.values(), *(dict(chunk=c, done=d) for c, d in
    [(0, 1), (-1, 1), (40, 0), (40, 3), (40, 10**30), (10**30, 2), (40, True), (40, 1.), ('40', 1),
     (None, 1)])], ids=repr)
def test_progress_that_is_damaged_is_not_believed(partial, damage):
    partial, identity = partial
    damage = json.dumps(dict(identity=identity) | damage).encode() if isinstance(damage, dict) else damage
    (partial/'progress.json').write_bytes(damage)
    assert _chunks_done(partial, identity) == (None, 0)

@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_a_manifest_that_is_damaged_is_built_again(new_cache, corpus, model, damage):
    index = corpus_index(corpus, model, length=1, quiet=True)
    (index.path/'manifest.json').write_bytes(damage)
    corpus_index(corpus, model, length=1, quiet=True).verify()

def test_a_partial_build_of_something_else_is_not_taken_up(new_cache, corpus, model):
    path = corpus_index(corpus, model, length=1, quiet=True).path
    partial = path.with_name(path.name + '.partial')
    path.rename(partial)
    (partial/'progress.json').write_text(json.dumps(dict(identity=dict(length=2), done=60)), encoding='utf-8')
    (partial/'keys.bfloat16').write_bytes(b'\0'*len((partial/'keys.bfloat16').read_bytes()))
    corpus_index(corpus, model, length=1, quiet=True).verify()
    assert folders(new_cache) == [path.name]

def test_a_truncated_index_is_built_again(new_cache, capsys, corpus):
    model = load_model()
    index = corpus_index(corpus, model, length=2, quiet=True)
    file = index.path/'keys.bfloat16'
    os.truncate(file, file.stat().st_size//2)
    capsys.readouterr()
    main(['to', '--top', '1'])
    out, err = capsys.readouterr()
    assert "What comes after 'to'?" in out and 'bytes, not' in err and 'building it again' in err
    corpus_index(corpus, model, length=2, quiet=True).verify()

@pytest.mark.parametrize('damage',
                         [lambda p: (p/'manifest.json').unlink(),
                          lambda p: (p/'manifest.json').write_text('{"format', encoding='utf-8'),
                                    lambda p: (p/'keys.bfloat16').unlink(),
                                    lambda p: (p/'keys.bfloat16').write_bytes(b'')],
                         ids=['no manifest', 'half a manifest', 'no numbers', 'no bytes'])
def test_a_half_built_index_is_not_believed(new_cache, corpus, model, damage):
    index = corpus_index(corpus, model, length=1, quiet=True)
    damage(index.path)
    with pytest.raises(BadIndex): KeyIndex(index.path, index.identity, index.strings, model)
    corpus_index(corpus, model, length=1, quiet=True).verify()

def test_a_changed_number_is_found_by_the_checksum(new_cache, corpus, model):
    index = corpus_index(corpus, model, length=1, quiet=True)
    with open(index.path/'keys.bfloat16', 'r+b') as f:
        f.seek(4321)
        f.write(b'\x7f')
    with pytest.raises(BadIndex, match='checksum'):
        KeyIndex(index.path, index.identity, index.strings, model).verify()

def test_an_index_of_other_weights_is_not_read(new_cache, tmp_path, corpus, weights, model):
    other = load_model(weights)
    for p in other.parameters():
        p.data += .02*torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    save_model(other, tmp_path/'other.safetensors', model.metadata, model.tokenizer.chars)
    other = load_model(tmp_path/'other.safetensors')
    theirs, ours = (corpus_index(corpus, m, length=1, quiet=True) for m in (other, model))
    shutil.rmtree(ours.path)
    shutil.copytree(theirs.path, ours.path)
    with pytest.raises(BadIndex, match='weights_sha256'):
        KeyIndex(ours.path, ours.identity, ours.strings, model)
    manifest = json.loads((ours.path/'manifest.json').read_text(encoding='utf-8'))
    with pytest.raises(UserError, match='belongs to another index'):
        corpus_index(corpus, model, length=1, quiet=True)
    # even with a manifest that lies
    (ours.path/'manifest.json').write_text(json.dumps(ours.identity | dict(sha256=manifest['sha256'])),
                                           encoding='utf-8')
    with pytest.raises(BadIndex, match='not those of this model'):
        KeyIndex(ours.path, ours.identity, ours.strings, model)
    with pytest.raises(UserError, match='is whole, and yet .* move it away'):
        corpus_index(corpus, model, length=1, quiet=True)
    # nothing sound was removed
    assert (ours.path/'keys.bfloat16').read_bytes() == (theirs.path/'keys.bfloat16').read_bytes()
    shutil.rmtree(ours.path)
    corpus_index(corpus, model, length=1, quiet=True).verify()

def test_an_index_of_another_corpus_is_not_read(new_cache, corpus, model):
    index = corpus_index(corpus, model, length=1, quiet=True)
    with pytest.raises(BadIndex, match='corpus_sha256'):
        KeyIndex(index.path, index.identity | dict(corpus_sha256='f'*64), index.strings, model)

def test_what_a_dead_build_left_is_reclaimed(new_cache, full, start, corpus, weights, model):
    process = start(BUILD, 3, weights)
    wait_for(lambda: list(new_cache.glob('keys/*.partial/keys.bfloat16')), process)
    process.kill()
    process.wait()
    index = corpus_index(corpus, model, length=1, quiet=True)
    assert folders(new_cache) == [index.path.name]

def test_two_builds_at_once(new_cache, full, start, weights):
    both = [start(BUILD, 3, weights) for _ in range(2)]
    errors = [p.communicate(timeout=200)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], errors
    assert sum('Building the index' in e for e in errors) == 1 # the other one waited and used it
    assert len(folders(new_cache)) == 1

LIMIT_FILES = '''
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)) # no file may grow beyond this
from shakespeare_ffn.explain import main
main()
'''

@pytest.mark.posix
def test_a_disk_that_fills_up_while_building(new_cache, full, start):
    process = start(LIMIT_FILES, 'tho')
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (2, '') and 'Traceback' not in err
    assert 'ffn_explain: cannot write the index' in err.splitlines()[-1] and 'make room' in err
    assert folders(new_cache) == []

@pytest.mark.posix
def test_a_disk_too_small(new_cache, tmp_path, corpus, monkeypatch, capsys):
    small = tmp_path/'small'
    small.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', small],
                      capture_output=True).returncode:
        pytest.skip('may not mount')
    try:
        monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(small))
        (small/'tinyshakespeare.txt').write_bytes((new_cache/'tinyshakespeare.txt').read_bytes())
        with pytest.raises(SystemExit) as ended: main(['to'])
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, '') and 'make room' in err and err.count('\n') == 1, err
        assert [p for p in (small/'keys').iterdir() if p.is_dir()] == []
        # the disk fills up after the check
        monkeypatch.setattr(corpus_keys, 'check_room', lambda folder, n: None)
        with pytest.raises(UserError, match='No space left on device; make room'):
            corpus_index(corpus, load_model(), length=2, quiet=True)
        assert [p for p in (small/'keys').iterdir() if p.is_dir()] == []
    finally: subprocess.run(['umount', small], check=True)

@pytest.mark.posix
@pytest.mark.parametrize('kind', ['a file', 'closed'])
def test_a_folder_that_cannot_be_written(new_cache, tmp_path, monkeypatch, capsys, corpus, kind):
    (tmp_path/'text').write_text(corpus.text, encoding='utf-8')
    monkeypatch.setenv('SHAKESPEARE_FFN_TEXT', str(tmp_path/'text'))
    place = tmp_path/'place'
    if kind == 'a file': place.write_text('', encoding='utf-8')
    else: place.mkdir(mode=0o500)
    if kind == 'closed' and os.access(place, os.W_OK):
        place = Path('/proc/closed') # for root no folder is closed, but this one is
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(place))
    with pytest.raises(SystemExit) as ended: main(['to'])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count('\n')) == (2, '', 1) and 'SHAKESPEARE_FFN_CACHE' in err, err

@pytest.mark.posix
def test_interrupted_by_hand(new_cache, full, start):
    # takes long enough to be caught in the middle
    process = start('from shakespeare_ffn.explain import main; main()', 'thou a')
    wait_for(lambda: list(new_cache.glob('keys/*.partial')), process)
    time.sleep(.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (130, '') and 'interrupted' in err and 'Traceback' not in err

# what is used, and what must not be removed

@pytest.mark.parametrize('there, fast', [('float32', 'bfloat16'), ('bfloat16', 'float32')])
def test_a_sound_index_is_used_whatever_its_arithmetic(new_cache, corpus, model, monkeypatch, there, fast):
    monkeypatch.setattr(corpus_keys, 'fast_arithmetic', lambda device: fast)
    old = corpus_index(corpus, model, 1, there, quiet=True)
    assert corpus_index(corpus, model, 1, quiet=True).path == old.path
    new = corpus_index(corpus, model, 1, fast, quiet=True) # asked for by name, it is built
    # and preferred from then on
    assert (new.identity['arithmetic'], corpus_index(corpus, model, 1, quiet=True).path) == (fast, new.path)
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', there)
    monkeypatch.setattr(corpus_keys, 'fast_arithmetic', lambda device: there)
    assert corpus_index(corpus, model, 1, quiet=True).path == old.path
    shutil.rmtree(old.path)
    assert corpus_index(corpus, model, 1, quiet=True).identity['arithmetic'] == there

def test_a_damaged_index_does_not_hide_a_sound_one(new_cache, corpus, model, monkeypatch):
    monkeypatch.setattr(corpus_keys, 'fast_arithmetic', lambda device: 'float32')
    damaged, sound = (corpus_index(corpus, model, 1, a, quiet=True) for a in ('float32', 'bfloat16'))
    os.truncate(damaged.path/'keys.bfloat16', 10)
    assert corpus_index(corpus, model, 1, quiet=True).path == sound.path
    assert damaged.path.exists()

def test_a_silenced_block_has_an_index(new_cache, corpus, weights):
    model = load_model(weights)
    for p in model.blocks[1].ffwd.out.parameters(): p.zero_()
    assert not corpus_index(corpus, model, 1, quiet=True).keys[1].any()

def test_an_index_that_cannot_be_read_is_not_removed(new_cache, corpus, model, monkeypatch):
    "an input error, or a closed folder, is no damage"
    path, read = corpus_index(corpus, model, 1, quiet=True).path, Path.read_bytes
    def fail(self):
        if self.name == 'manifest.json': raise OSError(errno.EIO, 'Input/output error')
        return read(self)
    monkeypatch.setattr(Path, 'read_bytes', fail)
    with pytest.raises(UserError, match='Input/output error'): corpus_index(corpus, model, 1, quiet=True)
    monkeypatch.undo()
    assert (path/'keys.bfloat16').exists()

# file systems, memory, locks

def refuse_maps(monkeypatch, *modes):
    "A file system that maps no file into memory"
    memmap = np.memmap
    def refuse(file, dtype, mode, **kwargs):
        if mode in modes: raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return memmap(file, dtype, mode, **kwargs)
    monkeypatch.setattr(np, 'memmap', refuse)

def test_a_file_system_that_maps_no_file_for_writing(new_cache, corpus, model, monkeypatch):
    path = corpus_index(corpus, model, 2, quiet=True).path
    mapped = (path/'keys.bfloat16').read_bytes()
    shutil.rmtree(path)
    refuse_maps(monkeypatch, 'r+')
    corpus_index(corpus, model, 2, quiet=True).verify()
    assert (path/'keys.bfloat16').read_bytes() == mapped

def test_a_file_system_that_maps_no_file(new_cache, monkeypatch, capsys):
    refuse_maps(monkeypatch, 'r+', 'c')
    with pytest.raises(SystemExit) as ended: main(['to'])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count('\n')) == (2, '', 1) and 'maps no files' in err, err
    assert folders(new_cache) == [] # said before the work, not after it

def test_little_address_space(new_cache, start):
    limit = '''
import resource
from shakespeare_ffn import corpus_keys
from shakespeare_ffn.explain import main
def little(partial, identity, take_room=corpus_keys._take_room):
    size = int(open('/proc/self/statm').read().split()[0])*resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2_000_000, size + 2_000_000))
    take_room(partial, identity)
corpus_keys._take_room = little
main()'''
    process = start(limit, 'to')
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out, err.count('\n')) == (2, '', 1) and 'ulimit -v' in err, err
    assert folders(new_cache) == []

@pytest.mark.parametrize('code', [errno.ENOLCK, errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_a_lock_that_cannot_be_taken(new_cache, monkeypatch, capsys, code):
    def refuse(self, timeout=None): raise OSError(code, os.strerror(code))
    monkeypatch.setattr(corpus_keys.FileLock, 'acquire', refuse)
    with pytest.raises(SystemExit) as ended: main(['to'])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count('\n')) == (2, '', 1) and 'SHAKESPEARE_FFN_CACHE' in err, err

def test_a_lock_file_that_was_left_is_no_lock(new_cache, corpus, model):
    path = corpus_index(corpus, model, 1, quiet=True).path
    shutil.rmtree(path)
    path.with_name(path.name + '.lock').write_text('12345', encoding='utf-8')
    corpus_index(corpus, model, 1, quiet=True).verify()

def test_locks_of_others_do_not_matter_when_room_is_reclaimed(tmp_path, monkeypatch):
    (tmp_path/'theirs.partial').mkdir()
    def refuse(self, timeout=None): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(corpus_keys.FileLock, 'acquire', refuse)
    corpus_keys._reclaim(tmp_path/'mine')
    assert (tmp_path/'theirs.partial').exists()

def test_a_dead_build_of_another_user(model, corpus, monkeypatch):
    if os.geteuid(): pytest.skip('only root can be another user')
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', folder)
        path = corpus_keys.index_path(corpus_keys._identities(corpus, model, 1, 'float32')[0])
        partial = path.with_name(path.name + '.partial')
        partial.mkdir(parents=True)
        (partial/'keys.bfloat16').write_text('theirs', encoding='utf-8')
        os.chmod(path.parent, 0o777)
        os.seteuid(65534)
        try:
            told = r'\.partial is what a dead build left.*remove it, or set SHAKESPEARE_FFN_CACHE'
            with pytest.raises(UserError, match=told):
                corpus_index(corpus, model, 1, 'float32', quiet=True)
        finally: os.seteuid(0)
        assert (partial/'keys.bfloat16').read_text(encoding='utf-8') == 'theirs'

def test_the_manifest_is_written_when_the_numbers_are_on_the_disk(new_cache, corpus, model, monkeypatch):
    events, sync, write, replace = [], corpus_keys._RowFile.sync, corpus_keys.write_atomically, Path.replace
    monkeypatch.setattr(corpus_keys._RowFile, 'write', lambda self, place, found,
                        f=corpus_keys._RowFile.write: events.append('rows') or f(self, place, found))
    monkeypatch.setattr(corpus_keys._RowFile, 'sync', lambda self: events.append('sync') or sync(self))
    monkeypatch.setattr(corpus_keys, 'write_atomically',
                        lambda path, content: events.append(path.name) or write(path, content))
    monkeypatch.setattr(Path, 'replace',
                        lambda self, target: events.append('renamed' if self.is_dir() else 'file')
                        or replace(self, target))
    corpus_index(corpus, model, 1, quiet=True)
    order = [e for e in events if e in ('rows', 'sync', 'manifest.json', 'renamed')]
    assert order[-3:] == ['sync', 'manifest.json',
                          'renamed'] and 'rows' not in order[order.index('sync'):], events

def test_a_disk_that_fills_up_in_the_middle_loses_nothing(new_cache, corpus, model, monkeypatch):
    monkeypatch.setattr(corpus_keys, '_SAVE_EVERY', 1)
    monkeypatch.setattr(corpus_keys, '_next_note', lambda begun, ended: 0)
    write, notes = corpus_keys.write_atomically, []
    def fills_up(path, content):
        notes.append(path)
        if len(notes) == 2: raise UserError('cannot write: No space left on device')
        write(path, content)
    monkeypatch.setattr(corpus_keys, 'write_atomically', fills_up)
    with pytest.raises(UserError, match='No space'): corpus_index(corpus, model, 2, quiet=True)
    computed, forward = [], TrieForward.__call__
    monkeypatch.setattr(corpus_keys, 'write_atomically', write)
    monkeypatch.setattr(TrieForward, '__call__',
                        lambda self, tokens: computed.append(len(tokens)) or forward(self, tokens))
    index = corpus_index(corpus, model, 2, quiet=True)
    index.verify()
    assert sum(computed) < len(index) # the first chunk was not computed again
