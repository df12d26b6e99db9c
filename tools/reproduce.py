"""Run the notebooks in place at full scale, in order, and write results/summary.json: every figure beside
the article's.

A run that was stopped goes on after the last notebook that it finished; what nothing has changed for is
not run again. Notebooks that are named are run in any case. Heavy intermediate results are in the user's
cache folder, so a second run is much shorter.

With --check the notebooks run in a copy, in the cache folder, and what comes out is compared with the
committed summary, each row within its tolerance (tools/tolerances.py); nothing here is written. The exit
code is 1 if a row is out, 0 if all are in."""
import hashlib, json, os, re, shutil, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from tqdm import tqdm
from shakespeare_ffn.core import Parser, UserError, cache_dir, command, machine, stamp, write_atomically
from tolerances import agrees, may_be_missing

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT/'shakespeare_ffn'
COPIED = 'nbs/**/*.ipynb', 'results/**/*', 'settings.ini' # what a notebook may read from where it stands

def summary_file(root: Path) -> Path: return root/'results'/'summary.json'

def notebooks(root: Path) -> list:
    "All of them in the order in which they build on each other."
    nbs = root/'nbs'
    return [*sorted(nbs.glob('[0-9]*.ipynb')), *sorted(nbs.glob('blog/*.ipynb')), nbs/'index.ipynb']

def made_in(module: Path) -> str: # '' if it is not generated
    "The name of the notebook that a module is made from."
    found = re.search(r'File to edit: \S*?([\w-]+\.ipynb)', module.read_text(encoding='utf-8'))
    return found[1] if found else ''

def depends_on(path: Path) -> list:
    """The files that a notebook's outputs depend on.

    They are the modules of this and earlier notebooks, what the package carries and, if it names them, the
    alternates and the variants."""
    floor = path.name if path.name[0].isdigit() else '~'
    modules = [module for module in PACKAGE.glob('*.py') if '' < made_in(module) <= floor]
    text = path.read_text(encoding='utf-8')
    kinds = [kind for kind in ('alternates', 'variants') if f'{kind}(' in text]
    others = [file for kind in kinds for file in (ROOT/'results'/kind).glob('*')]
    return sorted([*modules, *PACKAGE.glob('*.json'), *PACKAGE.glob('weights/*'), *others])

def shown(path: Path, root: Path) -> list:
    "What a notebook reads of what was found before: the rows that earlier notebooks record, the benchmarks."
    text, benchmarks, found = path.read_text(encoding='utf-8'), root/'results'/'benchmarks.json', []
    if re.search(r'summary\.json|recorded\(', text):
        earlier = notebooks(root)[:notebooks(root).index(path)]
        found += [row for notebook in earlier for row in rows(notebook)]
    if benchmarks.name in text and benchmarks.exists(): found += [benchmarks.read_text(encoding='utf-8')]
    return found

def fingerprint(path: Path, root: Path) -> str:
    "A hash of a notebook's cells, of the files that it depends on and of the figures that it shows."
    h = hashlib.sha256(json.dumps([sources(path), shown(path, root)]).encode())
    for f in depends_on(path): h.update(f.read_bytes())
    return h.hexdigest()

def sources(path: Path) -> list: return [c.source for c in nbformat.read(path, 4).cells]

def is_bar(output) -> bool:
    "Is it a progress bar?"
    return output.output_type == 'stream' and output.name == 'stderr' and '%|' in output.text

def without_bars(cell):
    "Take progress bars out of a cell's outputs."
    if cell.cell_type == 'code': cell.outputs = [output for output in cell.outputs if not is_bar(output)]

def content(path: Path) -> bytes: # empty where there is no file
    return path.read_bytes() if path.exists() else b''

def run(path: Path) -> float: # seconds
    """Execute a notebook and keep its outputs, cleaned of noise.

    A `UserError` if a cell fails. A file that somebody has changed meanwhile is left as it is."""
    before, start = path.read_bytes(), time.perf_counter()
    nb = nbformat.reads(before.decode(), 4)
    with tqdm(total=len(nb.cells), unit=' cells', leave=False) as bar:
        def advance(cell, cell_index): bar.update(cell_index + 1 - bar.n)
        client = NotebookClient(nb, timeout=None, coalesce_streams=True, on_cell_complete=advance,
                                resources=dict(metadata=dict(path=str(path.parent))))
        try: client.execute()
        except CellExecutionError as e:
            print(e, file=sys.stderr) # the cell and its trace, line by line
            raise UserError(f'{path.name} failed, as said above, and is left as it was; '
                            'what finished before is kept') from e
    for cell in nb.cells: without_bars(cell)
    clean_nb(nb)
    # as Jupyter does, each line of a cell on a line of its own
    ran = (nbformat.writes(nb) + '\n').encode()
    if content(path) != before:
        write_atomically(aside := path.with_name(path.name + '.ran'), ran)
        sys.exit(f'reproduce: {path.name} was changed while it ran, and is left as it is now; what ran is in '
                 f'{aside.name} beside it: take its outputs from there, or run it again')
    write_atomically(path, ran)
    return time.perf_counter() - start

def rows(path: Path) -> list:
    "The figures that a notebook's outputs record."
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == 'code']
    outputs = [output for cell in code for output in cell.outputs]
    text = '\n'.join(output.text for output in outputs if output.output_type == 'stream')
    lines = re.findall(r'^summary: (.*)$', text, re.M)
    return [dict(notebook=path.stem) | json.loads(line) for line in lines]

def summary(root: Path) -> list:
    "What the notebooks record, in their order."
    return [row for path in notebooks(root) for row in rows(path)]

def known_seconds(root: Path) -> dict: return read_json(summary_file(root)).get('seconds', {})

def write_summary(root: Path, took: dict): # took: notebook → seconds, of those that ran now
    # what others have run meanwhile counts as well
    took = known_seconds(root) | took
    seconds = {path.stem: round(took[path.stem]) for path in notebooks(root) if path.stem in took}
    lines = ',\n'.join('  ' + json.dumps(row) for row in summary(root))
    head = f' "stamp": {json.dumps(stamp())},\n "seconds": {json.dumps(seconds)},\n'
    text = f'{{\n{head} "rows": [\n{lines}\n ]\n}}\n'
    write_atomically(summary_file(root), text.encode())

def read_json(path: Path) -> dict:
    "What a file holds; nothing, if it is not there or damaged."
    try: return dict(json.loads(path.read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError): return {}

def go_on(root: Path, kept: Path, asked=()) -> list: # of the notebooks that it ran
    "Run the notebooks below `root` that are asked for, or else those that `kept` does not know to be done."
    write_summary(root, {}) # what the notebooks say now, whatever happened to the file
    took = known_seconds(root)
    def changed(path): return read_json(kept).get(path.stem, {}).get('fingerprint') != fingerprint(path, root)
    def about(paths): return f'about {max(1, round(sum(took.get(p.stem, 60) for p in paths)/60))} minutes'

    order, ran = asked or notebooks(root), []
    likely = asked or [path for path in order if changed(path)]
    if likely and not asked: # what shows figures follows those that find them
        likely = [path for path in order if path in likely or shown(path, root)]
    if likely:
        print(f'In all {about(likely)}; '
              'more where keys, counts or learned embeddings are not in the cache yet')

    for i, path in enumerate(order):
        if not (asked or changed(path)): continue
        left = [later for later in order[i:] if later in likely]
        print(f'{path.stem}: {about([path])}; all that is left: {about(left)}', flush=True)
        before = fingerprint(path, root)
        write_summary(root, {path.stem: run(path)}) # later ones read it
        done = read_json(kept) | {path.stem: dict(fingerprint=before)}
        write_atomically(kept, json.dumps(done).encode())
        ran.append(path)
    return ran

def copy_to(folder: Path, root: Path):
    "Bring a folder up to the checkout's state; a notebook there whose cells are the same keeps its outputs."
    paths = [path for pattern in COPIED for path in sorted(root.glob(pattern))]
    for path in filter(Path.is_file, paths):
        target = folder/path.relative_to(root)
        if path.suffix == '.ipynb' and target.exists() and sources(path) == sources(target): continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)

def compare(committed: list, found: list) -> tuple: # lines of a table of what differs; how many rows are out
    "Rows that came out beside the committed ones."
    def named(rows): return {(row['notebook'], row['name']): row['ours'] for row in rows}
    ours, theirs, lines, n_out = named(committed), named(found), [], 0
    # rows that are on one side only come up as well
    for key in [*ours, *(k for k in theirs if k not in ours)]:
        if key not in ours or key not in theirs:
            inside = may_be_missing(*key)
            within = 'need not be there' if inside else 'must be there'
            values = ours.get(key, '–'), theirs.get(key, '–')
        elif ours[key] == theirs[key]: continue
        else:
            values = ours[key], theirs[key]
            inside, within = agrees(*key, *values)
        n_out += not inside
        lines += [f"{'    ' if inside else 'OUT '}{': '.join(key)}\n       committed {values[0]}\n"
                  f"       here      {values[1]}\n       tolerance {within}"]
    return lines, n_out

def check(asked: list) -> str:
    "Run a copy of the notebooks; say what differs from the committed figures. Exit code 1 if a row is out."
    folder = cache_dir()/'checked'
    copy_to(folder, ROOT)
    # the checkout itself stays as it is
    go_on(folder, folder/'reproduced.json', [folder/path.relative_to(ROOT) for path in asked])
    ran = {path.stem for path in asked or notebooks(ROOT)}
    committed = [row for row in read_json(summary_file(ROOT)).get('rows', []) if row['notebook'] in ran]
    found = [row for row in summary(folder) if row['notebook'] in ran]
    lines, n_out = compare(committed, found)
    last = (f'{len(found)} rows computed on {machine()}; {len(lines)} differ from the committed ones, '
            f'{n_out} of them by more than their tolerance')
    text = '\n'.join([*lines, '', last])
    if n_out:
        print(text)
        sys.exit(1)
    return text

def _parser() -> Parser:
    p = Parser('reproduce', description=__doc__, allow_abbrev=False)
    p.add_argument('notebooks', nargs='*', type=Path,
                   help='run these, done or not (default: all that are not done)')
    p.add_argument('--check', action='store_true',
                   help='compare what comes out here with results/summary.json, and write nothing')
    return p

def reproduce(argv) -> str:
    args = _parser().parse_args(argv)
    asked = [path.resolve() for path in args.notebooks]
    for path in asked:
        if path not in notebooks(ROOT): raise UserError(f'{path} is not one of the notebooks in nbs/')
    # the same on every machine, whatever it multiplies fast
    os.environ.update(SHAKESPEARE_FFN_SCALE='full', SHAKESPEARE_FFN_ARITHMETIC='float32')
    os.environ['SHAKESPEARE_FFN_CACHE'] = str(cache_dir()) # notebooks run in another folder
    if args.check: return check(asked)
    n_run = len(go_on(ROOT, cache_dir()/'reproduced.json', asked))
    return f'{n_run} notebooks run; figures beside the article\'s: {summary_file(ROOT).relative_to(ROOT)}'

if __name__ == '__main__': command('reproduce', reproduce)
