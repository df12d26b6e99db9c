"What a committed notebook promises its reader: short cells, outputs of a full run, nothing of the machine."
import ast, functools, json, re
from contextlib import suppress
from pathlib import Path
import nbformat, pytest
from docs import LEAD
from reproduce import notebooks
from safetensors import safe_open
from shakespeare_ffn.core import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
ALL = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
NUMBERED = [p for p in ALL if p.parent.name == 'nbs' and p.name[0].isdigit()]
MB = 2**20

each_path = pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
each = pytest.mark.parametrize('nb', ALL, indirect=True, ids=lambda p: p.stem)
each_numbered = pytest.mark.parametrize('nb', NUMBERED, indirect=True, ids=lambda p: p.stem)

@functools.cache # each is read, and its form checked, once; no test changes it
def read(path): return nbformat.read(path, as_version=4)

@pytest.fixture
def nb(request): return read(request.param)

def code_cells(nb): return [c for c in nb.cells if c.cell_type == 'code']
def outputs(nb): return [o for c in code_cells(nb) for o in c.outputs]
def is_export(cell): return cell.cell_type == 'code' and re.search(r'^#\| *export', cell.source, re.M)

def output_texts(nb):
    "The text of every output, embedded pictures left out"
    for o in outputs(nb):
        texts = [o.text] if o.output_type == 'stream' else [v for k,
                                                            v in o.get('data', {}).items()
                                                            if k.startswith('text/') or 'svg' in k]
        yield from (re.sub(r'base64,[\w+/=\s]+', '', t) for t in texts)

def only_imports(cell):
    try: return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(cell.source).body)
    except SyntaxError: return False # a magic

@functools.cache
def trees(path) -> list:
    "The syntax of each cell of code, those with magics left out"
    found = []
    for cell in code_cells(read(path)):
        with suppress(SyntaxError): found.append(ast.parse(cell.source))
    return found

def test_there_are_notebooks(): assert NUMBERED

def test_sizes():
    sizes = {p.name: p.stat().st_size for p in ALL}
    assert {name: size for name, size in sizes.items() if size > MB} == {}
    assert sum(sizes.values()) <= 12*MB

@each
def test_cells_are_short(nb):
    assert [c.source for c in code_cells(nb) if len(c.source.splitlines()) > 25] == []

def test_most_cells_are_a_few_lines():
    sizes = sorted(sum(not line.startswith('#|') for line in c.source.splitlines() if line.strip())
                   for p in ALL for c in code_cells(read(p)))
    assert sizes[len(sizes)//2] <= 4 and sizes[len(sizes)*9//10] <= 12

@each
def test_lines_are_short(nb):
    "a reader sees them without scrolling; what a caption says stands in one line, and is short as well"
    lines = [line for c in code_cells(nb) for line in c.source.splitlines()]
    long = [line for line in lines if len(line) > 110 and not line.startswith('#|')]
    assert [f'{len(line)} characters, 110 at most: {line}' for line in long] == []
    captions = [line for line in lines if line.startswith('#| fig-cap:')]
    assert [line for line in captions if len(line.partition(':')[2].strip().strip('"')) > 200] == []

PICTURES = {'image/png', 'image/svg+xml'}

def shows(cell, kinds) -> bool:
    "Has the cell an output of one of some kinds?"
    return any(kinds & set(o.get('data', {})) for o in cell.outputs)

def said_of_figure(cell, what) -> str:
    "What a line at the head of a cell says of its figure; nothing if there is none."
    found = re.search(rf'^#\| {what}: "(.*)"$', cell.source, re.M)
    return found[1] if found else ''

@each
def test_figures_are_told_in_words(nb):
    "to those who do not see them: an alternative text each, in one line"
    figures = [c for c in code_cells(nb) if '#| fig-cap:' in c.source or shows(c, PICTURES)]
    texts = [said_of_figure(c, 'fig-alt') for c in figures]
    assert [c.source for c, text in zip(figures, texts) if not 40 <= len(text) < 300] == []
    assert [text for c, text in zip(figures, texts) if text == said_of_figure(c, 'fig-cap')] == []

@each
def test_prose_is_no_code(nb):
    "A cell that was given the wrong kind would be shown as a paragraph"
    prose = [re.sub('```.*?```', '', c.source, flags=re.S) for c in nb.cells if c.cell_type == 'markdown']
    code = re.compile(r'^(assert |test_\w+\(|from \S+ import |import \w+$|def \w+\()', re.M)
    assert [text for text in prose if code.search(text)] == []

@each_numbered
def test_a_chapter_has_one_leading_picture(nb):
    leads = [c for c in code_cells(nb) if LEAD in c.source]
    assert len(leads) == 1 and shows(leads[0], PICTURES | {'text/html'})

def anchors(path) -> set:
    "What pandoc makes of the headings of a notebook."
    prose = [c.source for c in read(path).cells if c.cell_type == 'markdown']
    headings = re.findall(r'^#+ (.+)$', '\n'.join(prose), re.M)
    plain = [re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', h).lower() for h in headings]
    return {re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', h))) for h in plain}

@each_path
def test_links_lead_somewhere(path):
    for cell in read(path).cells:
        if cell.cell_type != 'markdown': continue
        for target in re.findall(r'\]\(([^)\s]+)\)', cell.source):
            if re.match(r'\w+:', target): continue # elsewhere
            name, _, anchor = target.partition('#')
            place = (path.parent/name).resolve() if name else path
            assert place.exists(), target
            if anchor and place.suffix == '.ipynb': assert anchor in anchors(place), target

@each
def test_no_errors_no_widgets(nb):
    assert [o.ename for o in outputs(nb) if o.output_type == 'error'] == []
    assert 'widgets' not in nb.metadata
    mimes = {mime for o in outputs(nb) for mime in o.get('data', {})}
    assert [mime for mime in mimes if 'widget' in mime] == []

@each
def test_no_absolute_paths(nb):
    texts = [*(c.source for c in nb.cells), *output_texts(nb)]
    assert [m[0] for t in texts for m in re.finditer(r'(?<![\w.])/(?:work|tmp|root|home)\b.{,60}', t)] == []

@each_path
# a line of a cell on a line of its own, or a change of one word is a change of the cell
def test_stored_as_jupyter_does(path):
    text = path.read_text(encoding='utf-8')
    assert text == nbformat.writes(nbformat.reads(text, as_version=4)) + '\n'

@each
def test_ran_in_order(nb):
    counts = [c.execution_count for c in code_cells(nb) if c.execution_count] # none once cleaned
    assert counts == sorted(counts)

@each
def test_title_and_summary_stand_alone(nb):
    "the site drops whatever else the first cell holds"
    first, introduction = nb.cells[:2]
    assert first.cell_type == introduction.cell_type == 'markdown'
    assert re.fullmatch(r'# .+\n\n> .+', first.source)
    assert not introduction.source.startswith('#')

@each_numbered
def test_exports_show_their_source(nb):
    assert [c.source for c in code_cells(nb) if re.search(r'^#\| *export\b', c.source, re.M)] == []

@each_numbered
def test_imports_stand_in_cells_of_their_own(nb):
    "building the site runs every cell with an import"
    def imports(cell):
        return not cell.source.startswith('#| hide') and re.search(r'^(import|from) ', cell.source, re.M)
    assert [c.source for c in code_cells(nb) if imports(c) and not only_imports(c)] == []

def imported(tree) -> set:
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {(name.asname or name.name).partition('.')[0] for node in nodes for name in node.names} - {'*'}

@each_path
def test_what_is_imported_is_used(path):
    cells = trees(path)
    nodes = [node for cell in cells for node in ast.walk(cell)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    assert sorted(set().union(*map(imported, cells)) - used) == []

@each_numbered
def test_an_export_is_followed_at_once(nb):
    "by prose, an example or a test; imports need none"
    pairs = zip(nb.cells, [*nb.cells[1:], None])
    assert [c.source for c, after in pairs if is_export(c) and not only_imports(c)
            and (after is None or is_export(after) or 'nbdev_export()' in after.source)] == []

def stamps(text): return set(re.findall(r'scale: \w+, weights: \w+', text))

@pytest.fixture(scope='module')
def full_run():
    "What a full run with the shipped weights prints"
    with safe_open(WEIGHTS, 'np') as f:
        return {f"scale: full, weights: {f.metadata()['weights_sha256'][:12]}"}

@each
def test_outputs_are_of_a_full_run_with_the_shipped_weights(nb, full_run):
    found = stamps('\n'.join(output_texts(nb)))
    if 'train_main(' in '\n'.join(c.source for c in code_cells(nb)): # it asks a model of its own as well
        assert full_run < found and all(stamp.startswith('scale: full') for stamp in found)
    else: assert found == full_run

@pytest.mark.parametrize('path',
                         [*sorted((ROOT/'results').glob('*.md')), *sorted((ROOT/'results').glob('*.json'))],
                         ids=lambda p: p.stem)
def test_results_are_of_a_full_run_with_the_shipped_weights(path, full_run):
    assert stamps(path.read_text(encoding='utf-8')) == full_run

def test_every_benchmark_has_its_result():
    scripts = {p.stem for p in (ROOT/'benchmarks').glob('*.py')} - {'common', 'run', 'served'}
    assert scripts == {p.stem for p in (ROOT/'results').glob('*.md')}

@pytest.fixture(scope='module')
def made() -> dict:
    "Module → the notebook that it is made from."
    default = re.compile(r'#\| default_exp (\w+)')
    modules = {}
    for path in NUMBERED:
        found = [default.match(c.source) for c in read(path).cells]
        modules |= {m[1]: path.stem for m in found if m}
    return modules

@pytest.mark.parametrize('path', NUMBERED, ids=lambda p: p.stem)
def test_nothing_depends_on_a_later_notebook(path, made):
    sources = [c.source for c in code_cells(read(path))]
    imported = {m for s in sources for m in re.findall(r'from shakespeare_ffn\.(\w+) import', s)}
    assert [m for m in imported if made.get(m, '') > path.stem] == []

@pytest.fixture(scope='module')
def recorded_in() -> dict:
    "Name of a row → the notebook that records it."
    rows = json.loads((ROOT/'results'/'summary.json').read_text(encoding='utf-8'))['rows']
    return {row['name']: row['notebook'] for row in rows}

def row_names(tree) -> list:
    "Patterns of the names that code gives to `recorded`; what an f-string fills in may be anything."
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == 'recorded']
    parts = [name.values if isinstance(name, ast.JoinedStr) else [name] for name in names]
    return [''.join('.+' if isinstance(part, ast.FormattedValue) else re.escape(part.value) for part in some)
            for some in parts]

ALSO_FIT = {'07a_how_good': r'Hellinger distance, seed \d+'} # rows that fit, and are not meant

@each_path
def test_no_row_is_read_that_a_later_notebook_records(path, recorded_in):
    order = [p.stem for p in notebooks(ROOT)]
    not_meant = re.compile(ALSO_FIT.get(path.stem, 'none'))
    for name in [name for tree in trees(path) for name in row_names(tree)]:
        rows = [row for row in recorded_in if re.fullmatch(name, row) and not not_meant.fullmatch(row)]
        assert rows or path.stem == '00_core', f'{name} is no row' # 00 shows it with rows of its own
        assert [row for row in rows if order.index(recorded_in[row]) >= order.index(path.stem)] == []

FOLDERS = 'shakespeare_ffn', 'tools', 'tests', 'benchmarks'
SCRIPTS = sorted(p for folder in FOLDERS for p in (ROOT/folder).glob('*.py'))

def many_clauses(tree) -> list:
    "Comprehensions of three clauses or more, `for` and `if` counted; as loops they can be read."
    kinds = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [ast.unparse(node) for node in found if sum(1 + len(g.ifs) for g in node.generators) > 2]

@pytest.mark.parametrize('path', [*ALL, *SCRIPTS], ids=lambda p: p.name)
def test_comprehensions_have_two_clauses_at_most(path):
    whole = trees(path) if path.suffix == '.ipynb' else [ast.parse(path.read_text(encoding='utf-8'))]
    assert [text for tree in whole for text in many_clauses(tree)] == []

@pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
def test_a_page_can_be_run_in_colab(path):
    nb, place = read(path), path.relative_to(ROOT).as_posix()
    assert f'blob/main/{place})' in nb.cells[1].source
    [cell] = [c for c in code_cells(nb) if "'google.colab' in sys.modules" in c.source]
    assert f'%cd shakespeare_ffn/{path.parent.relative_to(ROOT).as_posix()}\n' in cell.source
