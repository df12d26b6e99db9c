"What the benchmarks share: a clock, a table, a record of the machine."
import os, platform, statistics, time
from pathlib import Path
import torch
from shakespeare_ffn.data import stamp

RESULTS = Path(__file__).resolve().parents[1]/'results'

def machine() -> str:
    "Processor and software, in a line."
    info = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')] if info.exists() else []
    return f'{names[0] if names else platform.processor()}, {os.cpu_count()} cores, torch {torch.__version__}'

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
    lines += ['', *(note + '\n' for note in notes), f'{machine()}; {stamp()}.']
    text = '\n'.join(lines) + '\n'
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS/f'{name}.md').write_text(text)
