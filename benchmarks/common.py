"What the benchmarks share: a clock, a table, a list of ratios, a record of the machine."
import json, os, statistics, subprocess, sys, time
from pathlib import Path
import torch
from shakespeare_ffn.data import machine, stamp

RESULTS = Path(__file__).resolve().parents[1]/'results'

def where() -> str: return f'{machine()}, torch {torch.__version__}'

def in_turn(repeats: int, **candidates) -> dict: # name → median seconds
    "Time functions in turn, several rounds, so that a busy machine is busy for all of them."
    for f in candidates.values(): f()
    times = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, f in candidates.items():
            start = time.perf_counter(); f()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}

def report(name: str, title: str, head: list, rows: list, *notes: str):
    "Print a table and keep it in results/."
    lines = [f'# {title}', '', '| ' + ' | '.join(head) + ' |', '|' + ' --- |'*len(head)]
    lines += ['| ' + ' | '.join(map(str, row)) + ' |' for row in rows]
    lines += ['', *(note + '\n' for note in notes), f'{where()}; {stamp()}.']
    text = '\n'.join(lines) + '\n'
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS/f'{name}.md').write_text(text, encoding='utf-8')

def compare(name: str, peer: str, ours_seconds: float, peer_seconds: float, **sizes):
    "Keep how many times as long a peer takes in results/benchmarks.json, in place of what was there for the same two."
    path = RESULTS/'benchmarks.json'
    kept = json.loads(path.read_text(encoding='utf-8')) if path.exists() else []
    row = dict(name=name, peer=peer, ours_seconds=float(f'{ours_seconds:.4g}'), peer_seconds=float(f'{peer_seconds:.4g}'),
               ratio=float(f'{peer_seconds/ours_seconds:.3g}'), sizes=sizes, machine=where(), stamp=stamp())
    rows = [r for r in kept if (r['name'], r['peer']) != (name, peer)] + [row]
    path.write_text('[\n' + ',\n'.join(map(json.dumps, sorted(rows, key=lambda r: (r['name'], r['peer'])))) + '\n]\n', encoding='utf-8')

def anonymous_memory(pid: int) -> int: # bytes; 0 where the system does not say, or the process has ended
    try: lines = Path(f'/proc/{pid}/status').read_text(encoding='utf-8').splitlines()
    except OSError: return 0
    return next((int(line.split()[1])*1024 for line in lines if line.startswith('RssAnon')), 0)

def watch(code: str, **env) -> tuple: # seconds, bytes
    "Run Python code in another process; how long it took, start included, and how much anonymous memory it had at most."
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, '-c', code], env=os.environ | env)
    while process.poll() is None:
        peak = max(peak, anonymous_memory(process.pid))
        time.sleep(.1)
    assert process.returncode == 0
    return time.perf_counter() - start, peak
