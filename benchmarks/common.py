"What the benchmarks share: a clock, tables for each kind of machine, ratios, a record of the machine."
import json, os, statistics, subprocess, sys, time
from pathlib import Path
import torch
from torch.utils.flop_counter import FlopCounterMode
from shakespeare_ffn.core import fast_arithmetic, machine, scale, stamp, write_atomically

RESULTS = Path(__file__).resolve().parents[1]/'results'
FAST = fast_arithmetic() # 'float32' or 'bfloat16': what this machine multiplies fast
# Kinds of processors. Results stand in this order, others behind; a sentence with a figure takes the first.
KINDS = 'AVX2', 'AVX512', 'AVX512-BF16', 'AMX'

def processor() -> str:
    "The kind of processor, by its widest instructions for matrices; one that imitates another says so."
    has = torch.cpu.get_capabilities()
    flags = dict(zip(KINDS, ('avx2', 'avx512_f', 'avx512_bf16', 'amx_bf16')))
    found = next((kind for kind in reversed(KINDS) if has.get(flags[kind])), has.get('architecture', 'other'))
    allowed = torch.backends.cpu.get_cpu_capability()
    return f'{allowed} on {found}' if allowed == 'AVX2' != found else found

def where() -> str: return f'{machine()}, torch {torch.__version__}'

def order(kind: str) -> tuple: return KINDS.index(kind) if kind in KINDS else len(KINDS), kind

def seconds(f) -> float:
    "What a function takes."
    start = time.perf_counter()
    f()
    return time.perf_counter() - start

def in_turn(repeats: int, **candidates) -> dict: # name → median seconds
    "Time functions in turn, several rounds, so that a busy machine is busy for all of them."
    for f in candidates.values(): f()
    times: dict = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, f in candidates.items(): times[name].append(seconds(f))
    return {name: statistics.median(t) for name, t in times.items()}

def operations(f) -> int:
    "How many operations of matrix products a function does."
    with FlopCounterMode(display=False) as counted: f()
    return counted.get_total_flops()

def product_rate(dtype) -> float:
    "Operations a second of the product that dominates: 8,192 characters times a feed-forward layer."
    x, w = torch.randn(8192, 384, dtype=dtype), torch.randn(1536, 384, dtype=dtype)
    def some():
        for _ in range(10): x @ w.T
    return operations(some)/in_turn(5, some=some)['some']

def read(path: Path, empty): return json.loads(path.read_text(encoding='utf-8')) if path.exists() else empty

def row_line(cells) -> str: return '| ' + ' | '.join(map(str, cells)) + ' |'

def section(table: dict) -> list:
    "Lines of one kind of machine's table."
    lines = [f"## {table['kind']}", '']
    if table['rows']:
        lines += [row_line(table['head']), '|' + ' --- |'*len(table['head'])]
        lines += [row_line(row) for row in table['rows']] + ['']
    lines += [note + '\n' for note in table['notes']]
    return [*lines, f"{table['where']}; {table['stamp']}.", '']

def as_markdown(title: str, tables: list) -> str:
    lines = [f'# {title}', '']
    for table in tables: lines += section(table)
    return '\n'.join(lines).rstrip('\n') + '\n'

def report(name: str, title: str, head: list, rows: list,
           *notes: str,
           kind=None): # of machine; default: the processor's
    "Print a table; at full scale, keep it in results/, in place of that of the same kind of machine."
    table = dict(kind=kind or processor(), head=head, rows=rows, notes=notes, where=where(), stamp=stamp())
    print(as_markdown(title, [table]))
    if scale() != 'full': return
    path = RESULTS/'benchmarks'/f'{name}.json'
    tables = [t for t in read(path, []) if t['kind'] != table['kind']] + [table]
    if rows: tables = [t for t in tables if t['rows']] # 'not measured' is for when nothing was
    elif len(tables) > 1: tables.remove(table)
    tables.sort(key=lambda t: order(t['kind']))
    write_atomically(path, (json.dumps(tables, indent=1, ensure_ascii=False) + '\n').encode())
    write_atomically(RESULTS/f'{name}.md', as_markdown(title, tables).encode())

def short(x: float, digits: int) -> float: return float(f'{x:.{digits}g}')

def row_key(row: dict) -> tuple: return row['name'], row['peer'], order(row['kind'])

def compare(name: str, peer: str, ours_seconds: float, peer_seconds: float, kind=None, **sizes):
    "At full scale, keep in results/benchmarks.json how many times as long a peer takes here."
    if scale() != 'full': return
    path = RESULTS/'benchmarks.json'
    row = dict(name=name, peer=peer, kind=kind or processor(),
               ours_seconds=short(ours_seconds, 4), peer_seconds=short(peer_seconds, 4),
               ratio=short(peer_seconds/ours_seconds, 3), sizes=sizes, machine=where(), stamp=stamp())
    rows = sorted([r for r in read(path, []) if row_key(r) != row_key(row)] + [row], key=row_key)
    write_atomically(path, ('[\n' + ',\n'.join(map(json.dumps, rows)) + '\n]\n').encode())

def anonymous_memory(pid: int) -> int: # bytes; 0 where the system does not say, or the process has ended
    "Memory that belongs to no file."
    try: lines = Path(f'/proc/{pid}/status').read_text(encoding='utf-8').splitlines()
    except OSError: return 0
    return next((int(line.split()[1])*1024 for line in lines if line.startswith('RssAnon')), 0)

def watch(code: str, **env) -> tuple: # seconds, bytes
    "Run Python code in another process; how long it took, start included, and its most anonymous memory."
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, '-c', code], env=os.environ | env)
    while process.poll() is None:
        peak = max(peak, anonymous_memory(process.pid))
        time.sleep(.1)
    assert process.returncode == 0
    return time.perf_counter() - start, peak
