"Nothing in package, tools and benchmarks is for one operating system alone, unless it is guarded."
import argparse, ast, os, re, subprocess, sys
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
import pytest, torch
from shakespeare_ffn import core
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.shards import open_shards

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for folder in ('shakespeare_ffn', 'tools', 'benchmarks')
                 for p in (ROOT/folder).glob('*.py'))

MODULES = {'fcntl', 'grp', 'pwd', 'pty', 'resource', 'syslog', 'termios', 'tty', 'posix', 'msvcrt', 'winreg',
           'curses', 'readline'}
OS_ONLY = set('''
posix_fallocate posix_fadvise fork forkpty getuid geteuid getgid setuid setsid setpgid killpg
getpgid getloadavg sched_getaffinity sched_setaffinity mkfifo mknod chroot chown lchown nice sync
statvfs fstatvfs wait waitpid wait4 uname getpriority setpriority pread pwrite sendfile O_DIRECT
O_DIRECTORY O_NOFOLLOW
'''.split())
SIGNALS = {f'SIG{s}' for s in 'KILL HUP USR1 USR2 ALRM CHLD CONT PIPE QUIT STOP TSTP WINCH XCPU XFSZ'.split()}
PLACES = re.compile(r'^/(proc|tmp|dev|sys|etc|home|usr|var)(/|$)')
BY_TEXT = {'read_text': 1, 'write_text': 2} # their encoding's position among the arguments, from 1

def dotted(node) -> str:
    if isinstance(node, ast.Attribute): return f'{dotted(node.value)}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else ''

def has_encoding(call, position):
    return len(call.args) >= position or any(k.arg in ('encoding', None) for k in call.keywords)

def binary(call, position): # the mode of an open
    modes = [*call.args[position:position+1], *(k.value for k in call.keywords if k.arg == 'mode')]
    return any('b' in str(getattr(m, 'value', '')) for m in modes)

class Lint(ast.NodeVisitor):
    "Collects what is not portable and not guarded, by a `try` or an `if` about the system or the thing."
    def __init__(self): self.found, self.guards = [], 0
    def say(self, node, what): self.found.append((node.lineno, what))

    def guarded(self, nodes):
        self.guards += 1
        for n in nodes: self.visit(n)
        self.guards -= 1

    def visit_Try(self, node):
        self.guarded(node.body)
        for n in [*node.handlers, *node.orelse, *node.finalbody]: self.visit(n)

    def visit_If(self, node):
        asks = re.search(r'hasattr|os\.name|sys\.platform|platform\.system|exists\(|is_available',
                         ast.unparse(node.test))
        self.visit(node.test)
        for n in node.body: self.guarded([n]) if asks else self.visit(n)
        for n in node.orelse: self.visit(n)

    def visit_With(self, node):
        suppressed = any('suppress' in ast.unparse(i.context_expr) for i in node.items)
        self.guarded([*node.items, *node.body]) if suppressed else self.generic_visit(node)

    def visit_Import(self, node):
        for a in node.names:
            if a.name in MODULES and not self.guards: self.say(node, f'import {a.name}')

    def visit_ImportFrom(self, node):
        if node.module in MODULES and not self.guards: self.say(node, f'from {node.module} import')

    def visit_Attribute(self, node):
        name = dotted(node)
        if not self.guards and (name.startswith('os.') and node.attr in OS_ONLY
                                or name.startswith('signal.') and node.attr in SIGNALS):
            self.say(node, name)
        self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            if PLACES.match(node.value) and not self.guards: self.say(node, repr(node.value))
            if node.value in ('fork', 'forkserver'): self.say(node, repr(node.value))

    def visit_Call(self, node):
        name = dotted(node.func)
        last = name.split('.')[-1] if name else getattr(node.func, 'attr', '')
        if last in BY_TEXT and not has_encoding(node, BY_TEXT[last]):
            self.say(node, f'{last} without encoding')
        if name == 'open' and not binary(node, 1) and not has_encoding(node, 4):
            self.say(node, 'open without encoding')
        if last in ('NamedTemporaryFile',
                    'TemporaryFile') and any('w' in str(getattr(k.value, 'value', ''))
                                             and not binary(node, 0) for k in node.keywords
                                             if k.arg == 'mode') \
           and not has_encoding(node, 9): self.say(node, f'{last} without encoding')
        if any(k.arg == 'shell' and getattr(k.value, 'value', True) for k in node.keywords):
            self.say(node, 'shell=True')
        if any(k.arg in ('preexec_fn', 'pass_fds') for k in node.keywords): self.say(node, 'preexec_fn')
        if name in ('os.system', 'os.popen'): self.say(node, name)
        self.generic_visit(node)

def not_portable(source: str) -> list:
    lint = Lint()
    lint.visit(ast.parse(source))
    return lint.found

@pytest.mark.parametrize('path', SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_for_one_system_alone(path): assert not_portable(path.read_text(encoding='utf-8')) == []

WRONG = ['import resource', 'from pwd import getpwuid', 'import os; os.sync()',
         'import signal; signal.SIGKILL', "open('x')", "open('x', 'w')", "p.read_text()",
         "p.write_text(text)",
         "(folder/'x').read_text()", "Path('/tmp/x')", "Path(f'/proc/{pid}/status')", "get_context('fork')",
         "run('ls', shell=True)", 'run(x, preexec_fn=f)', "os.system('ls')",
         'try: pass\nexcept OSError: os.fork()', 'if x: os.fork()']
RIGHT = ['try: import resource\nexcept ImportError: resource = None', "if os.name == 'posix': os.sync()",
         "if hasattr(os, 'sync'): os.sync()", 'with suppress(AttributeError): os.sync()',
         "open('x', 'rb')", "open('x', encoding='utf-8')", "open('x', 'w', encoding='utf-8')",
         "p.read_text(encoding='utf-8')", "p.read_text('utf-8')", "p.write_text(text, encoding='utf-8')",
         "try: x = Path('/proc/cpuinfo').read_bytes()\nexcept OSError: x = b''", "get_context('spawn')",
         "run(['ls'], shell=False)"]

def test_the_lint_finds_what_it_should():
    assert [s for s in WRONG if not not_portable(s)] == [] and [s for s in RIGHT if not_portable(s)] == []

def files() -> list:
    "Names of all files of the repository."
    done = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True)
    if done.returncode == 0: return [n for n in done.stdout.decode().split('\0') if n]
    return [p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*') if p.is_file()
            and not p.relative_to(ROOT).parts[0].startswith(('.', '_'))]

RESERVED = re.compile(r'(?i)^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$')

def bad_name(name: str) -> bool:
    "Would Windows refuse a part of this path?"
    return any(re.search(r'[<>:"\\|?*\x00-\x1f]', part) or part.endswith(('.', ' ')) or RESERVED.match(part)
               for part in PurePosixPath(name).parts)

def test_names_of_files():
    names = files()
    assert names and [n for n in names if bad_name(n)
                      or len(n) > 120] == [] and len({n.lower() for n in names}) == len(names)

def test_names_of_what_the_cache_keeps(corpus, model, new_cache):
    from shakespeare_ffn.corpus_keys import identity, index_path
    from shakespeare_ffn.learned_embeddings import _stage_file
    from shakespeare_ffn.similar_space import _counts_file, approximation_file
    from shakespeare_ffn.training import default_output
    path = index_path(identity(corpus, model, 10, 'float32', 5))
    index = type('Index', (), dict(path=path))
    kept = [path, path.with_name(path.name + '.lock'),
            *(_counts_file(index, 200, 5, t) for t in (-1., 1e-7, .1 + .2)), approximation_file(model),
            default_output(corpus, 'fast', 2**63-1)]
    kept += [_stage_file(model, 0, [1, 64], 100, 30, spread) for spread in (1., .5, 1e-6)]
    names = [p.relative_to(core.cache_dir()).as_posix() for p in kept]
    assert [n for n in names if bad_name(n)] == [] and len({n.lower() for n in names}) == len(names)

def test_a_folder_that_cannot_be_opened_is_no_reason_to_fail(tmp_path, monkeypatch):
    "as on Windows, where a folder's name is on the disk without further ado"
    real = os.open
    def refuse(path, *args, **kwargs):
        if Path(path) == tmp_path: raise PermissionError(13, 'Permission denied')
        return real(path, *args, **kwargs)
    monkeypatch.setattr(os, 'open', refuse)
    core.write_atomically(tmp_path/'file', b'content')
    assert (tmp_path/'file').read_bytes() == b'content'

def test_a_device_without_bfloat16_or_products_of_int8(monkeypatch):
    "Apple's: what it lacks is not asked of it"
    def to(self, *args, **kwargs):
        if torch.bfloat16 in (*args, *kwargs.values()): raise TypeError('BFloat16 is not supported on MPS')
        return real(self, *args, **kwargs)
    real = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, 'to', to)
    monkeypatch.delattr(torch, '_int_mm')
    rates = core._product_rates()
    assert rates['bfloat16'] == rates['int8'] == 0 < rates['float32']

SAID = {'': ('', ''), 'float32': ('float32', ''), 'bfloat16': ('bfloat16', ''), 'int8': ('', 'int8'),
        'no-int8': ('', 'no-int8'), 'float32,int8': ('float32', 'int8'),
        'no-int8, bfloat16': ('bfloat16', 'no-int8')}
WRONG_WORDS = ['int4', ' ', ',', 'float32,', 'float32 int8', 'float32,bfloat16', 'no-int8,int8',
               'int8,float64', 'FLOAT32', 'float32bfloat16']

def test_what_is_said_overrules_what_was_measured(monkeypatch):
    for value, (rows, sieves) in SAID.items():
        monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', value)
        assert (core.asked_arithmetic(), core.asked_arithmetic('sieves')) == (rows, sieves)
        for fast in True, False:
            monkeypatch.setattr(core, '_worth', lambda device, kept: dict(bfloat16=fast, int8=fast))
            assert core.fast_arithmetic() == (rows or ('bfloat16' if fast else 'float32'))
            assert core.fast_integers() == (sieves == 'int8' if sieves else fast)

@pytest.mark.parametrize('value', WRONG_WORDS)
def test_words_that_say_nothing_of_arithmetic(value, monkeypatch, corpus, model):
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', value)
    ways = [core.fast_arithmetic, core.fast_integers, lambda: corpus_index(corpus, model, 1, quiet=True),
            lambda: open_shards(corpus, model)]
    for way in ways:
        with pytest.raises(core.UserError, match='^SHAKESPEARE_FFN_ARITHMETIC is .*; set it to .*$'): way()

def test_int8_is_not_believed_of_a_machine_that_errs(monkeypatch):
    monkeypatch.setenv('SHAKESPEARE_FFN_ARITHMETIC', 'int8')
    monkeypatch.setattr(core, '_right_in_8_bits', core._right_in_8_bits.__wrapped__)
    assert core.fast_integers()
    monkeypatch.delattr(torch, '_int_mm')
    with pytest.raises(core.UserError, match='does not multiply right'): core.fast_integers()

PRODUCTS = """
import torch
from shakespeare_ffn.core import INT8_MOST, _product_seconds, multiply
for m, k in (1, 2), (5, 17), (130, 384):
    signs = torch.randint(0, 2, (m+64, k), generator=torch.Generator().manual_seed(k))*2 - 1
    for numbers in signs, signs.abs():
        a, b = (INT8_MOST*numbers).to(torch.int8).split([m, 64])
        for b in b, -b: assert torch.equal(multiply(a, b.T), a.int() @ b.T.int()), (m, k)
assert _product_seconds(torch.int8, 'cpu') < 9
"""

rarer = [pytest.param(name, marks=pytest.mark.slow('of older processors most have AVX2'))
         for name in ('SSE41', 'AVX512_CORE')]

@pytest.mark.parametrize('instructions', ['AVX2', *rarer])
def test_products_in_8_bits_are_right_on_older_processors(instructions):
    "that add two of them in 16 bits; numbers up to 80 come out wrong there"
    done = subprocess.run([sys.executable, '-c', PRODUCTS], capture_output=True, text=True, encoding='utf-8',
                          env=os.environ | dict(ONEDNN_MAX_CPU_ISA=instructions))
    assert done.returncode == 0, done.stderr

def test_a_device_that_multiplies_coarsely(monkeypatch):
    "such as a GPU of Apple's might; it is refused, a right one taken"
    found = SimpleNamespace(device=torch.device('mps'))
    monkeypatch.setattr('shakespeare_ffn.core.torch.zeros', lambda *_, device: found)
    for right in True, False:
        monkeypatch.setattr('shakespeare_ffn.core._multiplies_right', lambda device: right)
        if right: assert core.device('mps') == found.device
        else:
            with pytest.raises(argparse.ArgumentTypeError, match="'cpu' does"): core.device('mps')

def test_what_is_fast_is_remembered_for_the_instructions_that_there_are(monkeypatch):
    "clouds give processors of several kinds one name"
    keys = set()
    for there in True, False:
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx2=True, avx512_bf16=there))
        keys.add(core._machine_key('cpu'))
    assert len(keys) == 2

def test_a_processor_without_a_name(monkeypatch):
    "as of ARM, on Linux"
    monkeypatch.setattr(Path, 'read_text', lambda *args, **kwargs: 'processor : 0')
    monkeypatch.setattr(core.platform, 'processor', lambda: '')
    monkeypatch.setattr(core.platform, 'machine', lambda: 'aarch64')
    assert core.machine('cpu').startswith('aarch64, ')
