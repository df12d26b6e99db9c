"""On a machine with a GPU: run the tests of the kernel, benchmarks/gpu.py, every notebook at full scale
and the other tests, and say in a table what held.

Each is a stage of at most eight minutes. What held is not run again, and a stage that was stopped goes on
where it can (keys, counts and learned embeddings are kept on the way), so `make gpu` after an
interruption goes on. Notebooks run in a copy, in the cache folder, and their figures are compared with
results/summary.json; only benchmarks/gpu.py writes here, into results/."""
import hashlib, json, os, re, signal, subprocess, sys, threading, time
from pathlib import Path
from typing import NamedTuple
import torch
from shakespeare_ffn.core import Parser, UserError, cache_dir, command, machine, write_atomically
import reproduce

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 460 # seconds for a stage
KEYS = "corpus_index(load_corpus(), load_model(device=accelerator()), arithmetic='float32')"
COUNTS = 'prompt_counts(load_corpus(), model := load_model(), tuned_approximation(model).thresholds)'
HEAVY = { # what notebooks find in the cache folder if it is there: name → code
    'keys of all strings': KEYS,
    'counts of all prompts': COUNTS,
    **{f'learned embeddings, stage {n}': f'stage_embeddings(load_model(), {n})' for n in range(6, 0, -1)}}
IMPORTS = '''
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.core import accelerator
from shakespeare_ffn.data import load_corpus
from shakespeare_ffn.learned_embeddings import stage_embeddings
from shakespeare_ffn.model import load_model
from shakespeare_ffn.similar_space import prompt_counts, tuned_approximation
'''

class Stage(NamedTuple):
    name: str
    command: list
    depends: bytes # on what, besides the package
    env: dict = {}

EXACT = dict(SHAKESPEARE_FFN_ARITHMETIC='float32') # as in `make reproduce`

def pytest_stage(path: Path) -> Stage:
    "A file of tests."
    run_it = [sys.executable, '-m', 'pytest', '-q', '-x', str(path)]
    return Stage(f'tests/{path.name}', run_it, path.read_bytes())

def notebook_stage(path: Path, root: Path, dry: bool) -> Stage:
    "A notebook, run by this file in a process of its own."
    alone = [sys.executable, __file__, '--root', str(root), '--notebook', str(path)] + ['--dry-run']*dry
    cells = json.dumps(reproduce.sources(path)).encode()
    return Stage(path.relative_to(root).as_posix(), alone, cells, EXACT)

def stages(root: Path, dry: bool) -> list:
    "What there is to run, in order: first what is most likely to fail on a GPU."
    first, *others = sorted((root/'tests').glob('test_*.py'), key=lambda path: path.stem != 'test_gpu')
    bench = root/'benchmarks'/'gpu.py'
    heavy = [Stage(name, [sys.executable, '-c', IMPORTS + code], code.encode(), EXACT)
             for name, code in HEAVY.items()]
    return [pytest_stage(first),
            Stage('benchmarks/gpu.py', [sys.executable, str(bench)], bench.read_bytes()),
            *heavy,
            *(notebook_stage(path, root, dry) for path in reproduce.notebooks(root)),
            *map(pytest_stage, others)]

def fingerprint(stage: Stage, root: Path) -> str:
    "What a result holds for: the stage, the package, the machine."
    h = hashlib.sha256(json.dumps([stage.name, machine(), torch.__version__]).encode() + stage.depends)
    for f in sorted((root/'shakespeare_ffn').rglob('*.*')):
        if f.suffix != '.pyc': h.update(f.read_bytes())
    return h.hexdigest()

def why(log: str) -> str:
    "The first line that says what failed, or the last line of all."
    lines = [line.strip() for line in re.sub(r'\x1b\[[\d;]*m', '', log).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r'E  |OUT |[\w.]*(Error|Exception): ', line)]
    return (telling or lines[-1:] or ['no output'])[0][:150]

def stop(process):
    "End a stage and what it has started."
    if hasattr(os, 'killpg'):
        os.killpg(process.pid, signal.SIGTERM)
        try: process.wait(10)
        except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL)
    else: process.kill()
    process.wait()

def run_stage(stage: Stage, root: Path, log: Path, limit: float) -> dict: # result, seconds, why
    "Run a stage within the limit; its output goes to a log."
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with open(log, 'wb') as f:
        process = subprocess.Popen(stage.command, cwd=root, env=os.environ | stage.env,
                                   stdout=f, stderr=subprocess.STDOUT, start_new_session=True)
        try: process.wait(limit)
        except subprocess.TimeoutExpired: pass
        finally:
            if late := process.poll() is None: stop(process) # on Ctrl-C as well
    seconds = round(time.perf_counter()-start)
    if late:
        reason = f'stopped after {limit:.0f} seconds; run it again to go on'
        return dict(result='not yet', seconds=seconds, why=reason)
    if process.returncode == 0: return dict(result='held', seconds=seconds, why='')
    return dict(result='failed', seconds=seconds, why=why(log.read_text(encoding='utf-8', errors='replace')))

def notebook(path: Path, root: Path, dry: bool):
    "Run a copy of a notebook; at full scale, its figures must be the committed ones within their tolerances."
    folder = cache_dir()/'gpu'/'copy'
    reproduce.copy_to(folder, root)
    copy = folder/path.relative_to(root)
    reproduce.run(copy)
    if dry: return
    rows = reproduce.read_json(reproduce.summary_file(root)).get('rows', [])
    committed = [row for row in rows if row['notebook'] == path.stem]
    lines, n_out = reproduce.compare(committed, reproduce.rows(copy))
    if n_out: sys.exit('\n'.join(lines))

def table(found: dict) -> str: # found: name of a stage → what became of it
    rows = [f"{name:34}  {r['result']:8}{r['seconds']:>7}  {r['why']}".rstrip() for name, r in found.items()]
    return '\n'.join(['', f'{"stage":34}  {"result":8}seconds', *rows])

def run_stages(some: list, root: Path, folder: Path, scale: str, limit: float) -> dict: # name → result
    "Run the stages that have not held yet, as they stand; what becomes of each is kept in the folder."
    kept, found = folder/f'{scale}.json', {}
    for stage in some:
        mark = fingerprint(stage, root)
        before = found[stage.name] = reproduce.read_json(kept).get(stage.name, {})
        # what held still holds, if nothing that it depends on has changed
        if before.get('fingerprint') == mark and before['result'] == 'held': continue
        print(f'{stage.name} …', flush=True)
        log = folder/'logs'/f'{re.sub("[^0-9A-Za-z]+", "-", stage.name)}.log'
        now = found[stage.name] = run_stage(stage, root, log, limit) | dict(fingerprint=mark)
        # after each stage, so that a run that is stopped goes on from here; what others noted meanwhile stays
        state = reproduce.read_json(kept) | {stage.name: now}
        write_atomically(kept, json.dumps(state).encode())
        print(f"  {now['result']} after {now['seconds']} seconds  {now['why']}".rstrip(), flush=True)
    return found

def _parser() -> Parser:
    p = Parser('gpu', description=__doc__, allow_abbrev=False)
    p.add_argument('--dry-run', action='store_true', help='run the stages on the CPU at smoke scale')
    p.add_argument('--limit', type=float, default=LIMIT, metavar='SECONDS',
                   help=f'for a stage (default: {LIMIT})')
    p.add_argument('--root', type=Path, default=ROOT, help='of the checkout (default: this one)')
    p.add_argument('--notebook', type=Path, help='run this notebook alone, as a stage does')
    return p

def _checked(args):
    "The arguments, with whole paths; a `UserError` unless there is a checkout, and time."
    args.root = args.root.resolve()
    if not (args.root/'nbs'/'index.ipynb').is_file():
        raise UserError(f'{args.root} is no checkout of the project; give another --root, or leave it out')
    if args.notebook and (path := args.notebook.resolve()) not in reproduce.notebooks(args.root):
        raise UserError(f'{path} is not one of the notebooks in {args.root/"nbs"}')
    if not 0 < args.limit <= threading.TIMEOUT_MAX: # no system waits longer
        raise UserError(f'a limit of {args.limit:g} seconds is no time for a stage; give minutes or hours')
    return args

def gpu(argv) -> str:
    args = _checked(_parser().parse_args(argv))
    if not (args.dry_run or torch.cuda.is_available()):
        raise UserError('there is no GPU here, or PyTorch does not see it; '
                        'ARGS=--dry-run tries the stages on the CPU')
    scale = 'smoke' if args.dry_run else 'full'
    os.environ['SHAKESPEARE_FFN_SCALE'] = scale
    if args.dry_run: os.environ['CUDA_VISIBLE_DEVICES'] = ''
    # a stage runs its notebook by this very command, in a process of its own
    if args.notebook: return notebook(args.notebook.resolve(), args.root, args.dry_run) or ''
    folder = cache_dir()/'gpu'
    found = run_stages(stages(args.root, args.dry_run), args.root, folder, scale, args.limit)
    n_held = sum(r['result'] == 'held' for r in found.values())
    text = f'{table(found)}\n\n{n_held} of {len(found)} held on {machine()}; logs are in {folder/"logs"}'
    if n_held < len(found):
        print(text)
        sys.exit(1)
    return text

if __name__ == '__main__': command('gpu', gpu)
