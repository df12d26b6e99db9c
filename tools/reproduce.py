"""Run the notebooks in place at full scale, in order, and write results/summary.json: every figure beside the article's.

A run that was stopped goes on after the last notebook that it finished; what nothing has changed for is not run again. Notebooks
that are named are run in any case. Heavy intermediate results are in the user's cache folder, so a second run is much shorter."""
import hashlib, json, os, re, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from tqdm import tqdm
from shakespeare_ffn.data import Parser, UserError, cache_dir, command, keep, kept, stamp, write_atomically

ROOT = Path(__file__).resolve().parents[1]
NBS, PACKAGE, SUMMARY = ROOT/'nbs', ROOT/'shakespeare_ffn', ROOT/'results'/'summary.json'

def notebooks() -> list:
    "All of them in the order in which they build on each other."
    return [*sorted(NBS.glob('[0-9]*.ipynb')), *sorted(NBS.glob('blog/*.ipynb')), NBS/'index.ipynb']

def depends_on(path: Path) -> list:
    "The files that a notebook's outputs depend on: modules with lower numbers, what the package carries and, if it names them, the alternates."
    floor = path.name if path.name[0].isdigit() else '~'
    made_in = lambda module: re.search(r'File to edit: \S*?([\w-]+\.ipynb)', module.read_text(encoding='utf-8'))
    modules = [m for m in PACKAGE.glob('*.py') if (made := made_in(m)) and made[1] <= floor]
    twins = (ROOT/'results').glob('alternates/*') if 'alternates(' in path.read_text(encoding='utf-8') else []
    return sorted([*modules, *PACKAGE.glob('*.json'), *PACKAGE.glob('weights/*'), *twins])

def shown(path: Path) -> list:
    "What a notebook reads of what was found before: the rows that earlier notebooks record, the benchmarks."
    text, earlier, benchmarks = path.read_text(encoding='utf-8'), notebooks()[:notebooks().index(path)], SUMMARY.with_name('benchmarks.json')
    found = [row for p in earlier for row in rows(p)] if SUMMARY.name in text else []
    return found + [benchmarks.read_text(encoding='utf-8')] if benchmarks.name in text and benchmarks.exists() else found

def fingerprint(path: Path) -> str:
    "A hash of a notebook's cells, of the files that it depends on and of the figures that it shows."
    h = hashlib.sha256(json.dumps([[c.source for c in nbformat.read(path, 4).cells], shown(path)]).encode())
    for f in depends_on(path): h.update(f.read_bytes())
    return h.hexdigest()

def without_bars(cell):
    "Take progress bars out of a cell's outputs."
    if cell.cell_type == 'code': cell.outputs = [o for o in cell.outputs if not (o.output_type == 'stream' and o.name == 'stderr' and '%|' in o.text)]

def run(path: Path) -> float: # seconds
    "Execute a notebook and keep its outputs, cleaned of noise; a `UserError` with the failing cell if it fails."
    nb, start = nbformat.read(path, 4), time.perf_counter()
    with tqdm(total=len(nb.cells), unit=' cells', leave=False) as bar:
        client = NotebookClient(nb, timeout=None, coalesce_streams=True, resources=dict(metadata=dict(path=str(path.parent))),
                                on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n))
        try: client.execute()
        except CellExecutionError as e: raise UserError(f'{path.name} failed and is left as it was; what finished before is kept:\n{e}') from e
    for cell in nb.cells: without_bars(cell)
    clean_nb(nb)
    write_atomically(path, (nbformat.writes(nb) + '\n').encode()) # a line of a cell on a line of its own, as Jupyter does
    return time.perf_counter() - start

def rows(path: Path) -> list:
    "The figures that a notebook's outputs record."
    text = ''.join(o.text for c in nbformat.read(path, 4).cells if c.cell_type == 'code' for o in c.outputs if o.output_type == 'stream')
    return [dict(notebook=path.stem) | json.loads(line) for line in re.findall(r'^summary: (.*)$', text, re.M)]

def summary() -> list:
    "What the notebooks record, in their order."
    return [row for path in notebooks() for row in rows(path)]

def write_summary(took: dict): # notebook → seconds
    seconds = {path.stem: round(took[path.stem]) for path in notebooks() if path.stem in took}
    lines = ',\n'.join('  ' + json.dumps(row) for row in summary())
    text = f'{{\n "stamp": {json.dumps(stamp())},\n "seconds": {json.dumps(seconds)},\n "rows": [\n{lines}\n ]\n}}\n'
    write_atomically(SUMMARY, text.encode())

def reproduce(argv) -> str:
    p = Parser('reproduce', description=__doc__, allow_abbrev=False)
    p.add_argument('notebooks', nargs='*', type=Path, help='run these, done or not (default: all that are not done)')
    asked = [path.resolve() for path in p.parse_args(argv).notebooks]
    if wrong := [path for path in asked if path not in notebooks()]: raise UserError(f'{wrong[0]} is not one of the notebooks in nbs/')
    os.environ['SHAKESPEARE_FFN_SCALE'] = 'full'
    os.environ['SHAKESPEARE_FFN_CACHE'] = str(cache_dir()) # notebooks run in another folder
    finished = cache_dir()/'reproduced.kept'
    done = json.loads(kept(finished) or '{}')
    took = json.loads(SUMMARY.read_text(encoding='utf-8'))['seconds'] if SUMMARY.exists() else {}
    write_summary(took) # what the notebooks say now, whatever happened to the file
    changed = lambda path: done.get(path.stem, {}).get('fingerprint') != fingerprint(path)
    about = lambda paths: f'about {max(1, round(sum(took.get(p.stem, 60) for p in paths)/60))} minutes'
    likely, n_run = asked or [path for path in notebooks() if changed(path)], 0
    if likely and not asked: likely = [path for path in notebooks() if path in likely or shown(path)] # what shows figures follows those that find them
    if likely: print(f'In all {about(likely)}; more where keys, counts or learned embeddings are not in the cache yet')
    for i, path in enumerate(order := asked or notebooks()):
        if not (asked or changed(path)): continue
        print(f'{path.stem}: {about([path])}; all that is left: {about([p for p in order[i:] if p in likely])}', flush=True)
        before = fingerprint(path)
        took[path.stem] = run(path)
        done[path.stem] = dict(fingerprint=before)
        write_summary(took) # later ones read it
        keep(finished, json.dumps(done).encode())
        n_run += 1
    return f'{n_run} notebooks run; figures beside the article\'s: {SUMMARY.relative_to(ROOT)}'

if __name__ == '__main__': command('reproduce', reproduce)
