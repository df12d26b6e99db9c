"""Run the benchmarks one after another: say how long it will take, and how long it took.

Names of some may be given; families, nearest, other_models, page and shards are run only then. The others end
within half an hour on two cores with AVX2, an index of length 10 included; what would take longer on a
machine is left out there, and the tables say so."""
import subprocess, sys, time
from pathlib import Path
from shakespeare_ffn.core import Parser, UserError, command
from common import FAST, processor, where

HERE = Path(__file__).parent
# where float32 is what is fast; where bfloat16 is
MINUTES = dict(index=(13, 5), threshold_attention=(7, 5), exactness=(3, 4),
               explain=(3, 2), precision=(1, 15), training=(3, 2), gpu=(0, 1), families=(3, 3),
               nearest=(6, 3), other_models=(12, 8), page=(5, 5), shards=(12, 12))
BY_NAME = ['families', 'nearest', 'other_models', 'page', 'shards'] # these are run only if they are named

def about(names) -> float: # minutes
    return sum(MINUTES.get(name, (1, 1))[FAST == 'bfloat16'] for name in names)

def chosen(asked: list) -> list: # names, the index first: others read what it found
    there = [p.stem for p in HERE.glob('*.py') if p.stem not in ('common', 'run', 'served')]
    there.sort(key=lambda name: (list(MINUTES) + [name]).index(name))
    wrong = [name for name in asked if name not in there]
    if wrong: raise UserError(f'{wrong[0]!r} is not a benchmark; there are {", ".join(there)}')
    return [name for name in there if (name in asked if asked else name not in BY_NAME)]

def run(argv) -> str:
    p = Parser('bench', description=__doc__, allow_abbrev=False)
    p.add_argument('names', nargs='*',
                   help='which of them (default: all but families, nearest, other_models, page, shards)')
    names, start = chosen(p.parse_args(argv).names), time.perf_counter()
    print(f'{len(names)} benchmarks on {where()} ({processor()}, {FAST} arithmetic): '
          f'about {about(names)} minutes on two cores with nothing beside it', flush=True)
    for name in names:
        begun = time.perf_counter()
        print(f'== {name}: about {about([name])} minutes', flush=True)
        if code := subprocess.run([sys.executable, HERE/f'{name}.py']).returncode:
            print(f'{name} failed', file=sys.stderr)
            sys.exit(code)
        print(f'{name} took {(time.perf_counter()-begun)/60:.1f} minutes', flush=True)
    return f'All of it took {(time.perf_counter()-start)/60:.1f} minutes'

if __name__ == '__main__': command('bench', run)
