"""Write the site to _docs: the notebooks as nbdev prepares them, `results/` beside them, rendered by Quarto.

Between nbdev and Quarto each page is made fit to be read. A copy of its leading figure stands at the top.
Tests and imports are folded and say what they are, links stay within the site, and HTML outputs go in as they
are: else Quarto fetches scripts for them."""
import ast, copy, html, os, re, shutil, subprocess, sys, textwrap
from itertools import groupby
from pathlib import Path
import nbformat, yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from shakespeare_ffn.core import Parser, UserError, command

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT/'_proc'
SITE = ROOT/'_docs'
TEST = re.compile(r'^\s*((for|with|except)\b.*: )?(test_\w+\(|assert\b|with expect_fail)', re.M)
COLAB = re.compile(r'\n*\[Run this page in Colab\]\(([^)]*)\)[^\n]*')
LEAD = '#| lead: true\n'
STAMP = 'print(stamp(), took()'
# A similar string as `explain` prints it: cosine and weight, the string in its line, and which line that is.
STRING = re.compile(r'^( +\d\.\d{3} +[\d.]+%)(  .*‹.*›.*?)(  +line \d.*\n?)', re.M)
# Bars side by side as `explain` prints them, with their head.
BARS = re.compile(r'^next  model .*\n(?:.*\d.*\n?)+', re.M)
# Where the page to play with is shown within the article, if its data is there.
HEART = '<div id="heart"></div>'
PLAY = """```{=html}
<iframe id="heart" src="../play/index.html?heart" loading="lazy"
  title="A prompt, sliders, and two predictions: what the model says and what is counted"></iframe>
```"""

# An article has a narrow column and a wide margin for notes, and hides its code until a switch is turned.
ARTICLE = {'date': 'last-modified', 'citation': True,
           'grid': {'body-width': '720px', 'margin-width': '300px'},
           'include-in-header': {'text': '<meta name="page-kind" content="article">'}}

def only_says(source: str) -> bool:
    "Whether a cell ends in a sentence or a table of figures: what it says is of interest, not how."
    def checks(x): return isinstance(x, ast.Assert) or isinstance(x, ast.If) and all(map(checks, x.body))
    try: *_, last = [x for x in ast.parse(source).body if not checks(x)]
    except (SyntaxError, ValueError): return False # a line for the shell, or nothing
    said = getattr(last, 'value', None) if isinstance(last, ast.Expr) else None
    by = getattr(said.func, 'id', '') if isinstance(said, ast.Call) else ''
    formatted = said is not None and any(isinstance(x, ast.JoinedStr) for x in ast.walk(said))
    return by in ('Table', 'by_block') or formatted and (by == 'print' or isinstance(said, ast.JoinedStr))

def summary(source: str) -> str: # '' for a cell that stays open, or has said it
    "What a folded cell says of itself."
    if 'echo: false' in source: return ''
    code = [line for line in source.splitlines() if line.strip() and not line.startswith('#')]
    if code and all(re.match(r'(from|import) |[\s)]', line) for line in code): return 'Imports'
    if 'code-summary' in source: return ''
    if TEST.search(source): return 'The test'
    return 'How this is computed' if only_says(source) else ''

def folded(source: str) -> str:
    "A cell's source; that of modules, of tests, imports and sentences is folded. A stamp needs none."
    if source.startswith(STAMP): return f'#| echo: false\n{source}'
    if words := summary(source):
        source = re.sub(r'^#\| code-(fold|summary):.*\n', '', source, flags=re.M)
        return f'#| code-fold: true\n#| code-summary: "{words}"\n{source}'
    return source.replace('code-fold: show', 'code-fold: true').replace('Exported source', 'The source')

def fold_of(cell) -> str: # '' for a cell that must stay by itself
    "The directives of a cell that is nothing but folded code."
    if cell.cell_type != 'code' or cell.outputs: return ''
    directives = [line for line in cell.source.splitlines() if line.startswith('#|')]
    return '\n'.join(directives) if all('code-' in line for line in directives) else ''

def merged(cells: list) -> list:
    "Cells, of which those that follow each other under the same fold have become one."
    made = []
    for fold, group in groupby(cells, fold_of):
        first, *others = group
        if not fold: made += [first, *others]
        else:
            rest = [cell.source.removeprefix(fold).strip() for cell in others]
            first.source = '\n\n'.join([first.source, *rest])
            made.append(first)
    return made

def words_of(cell) -> str: # '' if it says nothing
    "What a folded cell says of itself."
    found = re.search(r'^#\| code-summary: *(.*)', cell.source, re.M)
    return found[1].strip('"') if found and cell.cell_type == 'code' else ''

def is_said_again(cell, after) -> bool:
    "Whether a cell is nothing but folded code, and the one after it says the same."
    return bool(fold_of(cell) and words_of(cell)) and words_of(cell) == words_of(after)

def joined(cells: list) -> list:
    "Cells, of which one that is nothing but folded code has moved into the next, if that says the same."
    made = []
    for cell in cells:
        if made and is_said_again(made[-1], cell):
            last = made.pop()
            code = last.source.removeprefix(fold_of(last)).strip()
            directives, own = re.match(r'((?:#\|.*\n)*)(.*)', cell.source, re.S).groups()
            cell.source = f'{directives}{code}\n\n{own}'
        made.append(cell)
    return made

def named(cell):
    "Say what a fold holds that says nothing of itself, or is described nowhere: nbdev leaves `_names` out."
    defined = re.findall(r'^(?:def|class) (\w+)|^(\w+)(?:, \w+)* *=', cell.source, re.M)
    names = [a or b for a, b in defined]
    of = ', '.join(f'`{name}`' for name in names[:3]) + (' …' if names[3:] else '')
    if words_of(cell) == 'The source' and names and all(re.match('_[^_]', name) for name in names):
        cell.source = cell.source.replace('The source', f'The source of {of}', 1)
    elif not words_of(cell):
        said = f'#| code-summary: "The code{of and " of "}{of}"'
        cell.source = re.sub('^#[|] code-fold: true', rf'\g<0>\n{said}', cell.source, flags=re.M)

def lead(cells: list) -> list: # none or one
    "A copy of the cell that a chapter leads with: its figure alone, without label, that is without a number."
    copies = [copy.deepcopy(cell) for cell in cells if LEAD in cell.source]
    for cell in copies:
        said = [line for line in cell.source.splitlines() if re.match(r'#\| fig-(cap|alt):', line)]
        cell.source, cell.id = '\n'.join(['#| echo: false', *said, '']), f'{cell.id}-lead'
    return copies

def in_pages(text: str, root: str) -> str: # root: the way from the page to the site's first folder
    "Text whose links stay within the site."
    config = get_config()
    text = text.replace(f'{config.doc_host}{config.doc_baseurl}/', root)
    text = re.sub(r'\[(`_\w+`)\]\([^)]*\)', r'\1', text) # nbdev links to what no page describes
    text = re.sub(r'\[([^][]*)\[(`[^`]+`)\]\([^)]*\)([^][]*)\]\(', r'[\1\2\3](', text) # and within a link
    # in the checkout `results` lies beside the folder of the notebooks, on the site below it
    return re.sub(r'\]\((\.\./)+(results|play)/', fr']({root}\2/', text)

def classes_of(source: str) -> dict: # name → what its instances are made of, '' if the signature says it
    "The classes that a cell defines; nbdev shows none of a named tuple's fields."
    found = {}
    for name, bases, body in re.findall(r'^class (\w+)(.*):\n((?:    .*\n?|\n)+)', source, re.M):
        fields = re.findall(r'^    (\w+: [^#\n]*?) *(#.*)?$', body, re.M) if 'NamedTuple' in bases else []
        lines = [f'    {field}, {comment}'.replace('`', '').rstrip() + '\n' for field, comment in fields]
        found[name] = ''.join(lines)
    return found

def plain(signature) -> str: # signature: a match
    "A signature without backticks, and what nbdev adds: links, modules, types of defaults that say nothing."
    text = re.sub(r'\[`([^]`]*)`\]\([^)]*\)', r'\1', signature[0])
    text = re.sub(r'(?<!`)`([^`\n]+)`(?!`)', r'\1', text)
    text = text.replace(':NoneType=', '=').replace(':function=<lambda>', '=…')
    return re.sub(r'\bshakespeare_ffn\.\w+\.', '', text)

def described(markdown: str, classes: dict, source: str) -> str: # classes: as `classes_of` makes them
    "A description of a function or class as nbdev makes it, less what says nothing."
    markdown = re.sub(r'\*?Call self as a function\.\*?', '', markdown).removeprefix('---\n\n')
    markdown = re.sub('^```python.*?^```', plain, markdown, flags=re.M | re.S)
    # one word is a parameter or a field, not what nbdev takes it for
    markdown = re.sub(r'\[(`[a-z]+`)\]\((?!#)[^)]*\)', r'\1', markdown)
    if of := re.search(r'show_doc\((\w+\.)(\w+)\)', source): # a method, by the name of its class
        markdown = re.sub(rf'^(#+) {of[2]}$', rf'\1 {of[1]}{of[2]}', markdown, flags=re.M)
    markdown = re.sub('^#+ .*', lambda heading: heading[0].replace('_', r'\_'), markdown, flags=re.M)
    for name in re.findall(r'^def (\w+)\(', markdown, re.M):
        if name not in classes: continue
        fields = f'(\n{classes[name]})' if classes[name] else ''
        markdown = markdown.replace(f'def {name}(\n    *args, **kwargs\n):', f'class {name}{fields}:')
        markdown = markdown.replace(f'def {name}(', f'class {name}(').replace(')->None:', '):')
    return markdown

def in_few_lines(text) -> str: # text: a match, of a cell that is text
    "What a cell says, without a line for each of its words where the window is narrow."
    lines = textwrap.wrap(text[0], 16, break_long_words=False, break_on_hyphens=False)
    return ' '.join(line.replace(' ', '\xa0') for line in lines)

def unbroken(table: str) -> str:
    "A table in which no line ends within a number, mean and deviation, an interval, character and figure."
    # the first cell of each row, and others below the head that are nothing but words
    table = re.sub(r'(?<=^\| )[^|`[\n]*[^|`[\s]', in_few_lines, table, flags=re.M)
    words = re.compile(r'(?<= \| )[^|`[\d]*[a-z][^|`[\d]*(?= \|)')
    rows = table.split('\n')
    heads = [re.fullmatch(r'[ |:-]+', below) for below in rows[1:]] + [False]
    table = '\n'.join(row if is_head else words.sub(in_few_lines, row) for row, is_head in zip(rows, heads))
    table = re.sub(r'(\d%?) (±|to|of|×|:) (?=-?\d)', '\\1\xa0\\2\xa0', table)
    table = re.sub(r'(?<=\de-)(?=\d)', '\u2060', table)
    table = re.sub(r'\((-?[\d.,]+%?\xa0to\xa0-?[\d.,]+%?)\)', r'[(\1)]{.interval}', table)
    return re.sub(r'(`[^`\n]+`) (?=-?\d)', '\\1\xa0', table)

def narrow(text: str) -> str: # HTML
    """Text as `explain` prints it, of which a narrow screen gives each similar string a line of its own, and
    bars fewer pixels."""
    text = BARS.sub(r'<span class="bars">\g<0></span>', text)
    return STRING.sub(r'<span class="string"><span>\1</span><span>\2</span><span>\3</span></span>', text)

def usage(printed: str) -> str: # as argparse prints it → HTML
    "A command's help, of which each paragraph and each option breaks its lines where the window ends."
    # an option may have a line of its own
    printed = re.sub(r'^(  -\S+(?: \S+)*)\n {6,}', r'\1  ', printed.strip(), flags=re.M)
    printed = re.sub(r'(?<=\S)\n( {6,}|(?=\S))', ' ', printed)
    shown = ''
    for line in html.escape(printed, quote=False).split('\n'):
        if option := re.match(r' +(\S.*?)  +(.*)', line):
            line = f'<span>{option[1]}</span> <span>{option[2]}</span>'
        # what may be left out keeps together
        line = re.sub(r'\[[^]]*\]', r'<span class="text-nowrap">\g<0></span>', line)
        shown += f'<span class="{"option" if option else "paragraph"}">{line or " "}</span>'
    return f'<pre class="usage"><code>{shown}</code></pre>'

def prepare_output(output, root: str, classes: dict, source: str): # source: of its cell
    "Make an output part of the page."
    data = output.get('data', {})
    printed = output.get('text', '')
    shown = None
    if STRING.search(printed) or BARS.search(printed):
        shown = f'<pre><code>{narrow(html.escape(printed))}</code></pre>'
    elif printed.startswith('usage: '): shown = usage(printed)
    if shown:
        output.update(nbformat.v4.new_output('display_data', {'text/markdown': shown}))
    elif widget := data.get('text/html'):
        # its tables have their own widths
        widget = widget.replace('<table', '<table data-quarto-disable-processing="true"')
        output.data = {'text/markdown': f'```{{=html}}\n{narrow(widget)}\n```'}
    elif markdown := data.get('text/markdown'):
        markdown = unbroken(markdown) if markdown.startswith('|') else described(markdown, classes, source)
        data['text/markdown'] = in_pages(markdown, root)

def with_alt(markdown: str) -> str:
    "Text whose pictures keep their words: where these become a caption, Quarto leaves the picture without."
    return re.sub(r'!\[([^]]+)\]\([^)]+\)', r'\g<0>{fig-alt="\1"}', markdown)

def unparted(markdown: str) -> str:
    "Text in which no line ends between a formula and its bracket or the point after it."
    return re.sub(r'(\()?((?<!\$)\$[^$\n]+\$)(?=([.,;:)])?)', lambda found:
        (found[1]+'\u2060' if found[1] else '') + found[2] + ('\u2060' if found[3] else ''), markdown)

def front_matter(cells: list) -> dict:
    "What a page's first cell says of it."
    return yaml.safe_load(cells[0].source.split('---')[1])

def completed(cells: list, is_article: bool) -> str:
    "A page's front matter with all it needs; a link to Colab goes there from the text, into the margin."
    matter = front_matter(cells)
    for cell in cells:
        if cell.cell_type == 'markdown' and (link := COLAB.search(cell.source)):
            cell.source = COLAB.sub('', cell.source)
            matter['code-links'] = [dict(text='Run in Colab', icon='play', href=link[1])]
    # a name that is not a person's, which a citation would turn round
    if is_article: matter |= {'author': {'name': {'literal': get_config().author}}, **ARTICLE}
    return f'---\n{yaml.safe_dump(matter, allow_unicode=True)}---\n'

def prepare(path: Path):
    "Make a page of what nbdev has made of a notebook."
    nb, root = nbformat.read(path, 4), '../'*(len(path.relative_to(PAGES).parts)-1)
    nb.cells[0].source = completed(nb.cells, path.parent.name == 'blog')
    heart = PLAY if (PAGES/'play'/'data').is_dir() else ''
    opening = next(i for i, cell in enumerate(nb.cells) if cell.cell_type == 'code')
    nb.cells[opening:opening] = lead(nb.cells)
    classes = {}
    for cell in nb.cells: classes |= classes_of(cell.source)
    for cell in nb.cells:
        cell.source = in_pages(cell.source.replace(LEAD, '').replace(HEART, heart), root)
        if cell.cell_type == 'code':
            cell.source = folded(cell.source)
            # a progress bar has wiped away what it had written
            cell.outputs = [o for o in cell.outputs if o.output_type != 'stream' or o.text.strip()]
            for output in cell.outputs: prepare_output(output, root, classes, cell.source)
        elif cell.cell_type == 'markdown': cell.source = unparted(with_alt(cell.source))
    nb.cells = joined(merged(nb.cells))
    for cell in nb.cells: named(cell)
    nbformat.write(nb, path)

def number_chapters(path: Path): # of the sidebar
    "Put each chapter's number before its name."
    sidebar = yaml.safe_load(path.read_text(encoding='utf-8'))
    for section in sidebar['website']['sidebar']['contents']:
        if 'contents' not in section: continue
        for i, page in enumerate(section['contents']):
            if not (isinstance(page, str) and (number := re.match(r'\d+[a-z]?', page))): continue
            title = front_matter(nbformat.read(path.parent/page, 4).cells)['title']
            section['contents'][i] = dict(text=f'{number[0]} {title}', href=page)
    path.write_text(yaml.safe_dump(sidebar, allow_unicode=True, sort_keys=False), encoding='utf-8')

def run(*args, cwd=ROOT):
    "Run a program; a `UserError` with the end of what it says if it fails."
    done = subprocess.run(args, cwd=cwd, capture_output=True, text=True, encoding='utf-8', errors='replace')
    if done.returncode: raise UserError(f'{args[0]} failed: {(done.stdout + done.stderr).strip()[-500:]}')

def docs(argv) -> str:
    Parser('docs', description=__doc__, allow_abbrev=False).parse_args(argv)
    if not shutil.which('quarto'):
        raise UserError('the site needs Quarto; install it from https://quarto.org/docs/get-started')
    os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    shutil.rmtree(PAGES, ignore_errors=True)
    proc_nbs(n_workers=0) # here: each process of its own would import everything anew
    shutil.copytree(ROOT/'results', PAGES/'results', ignore=shutil.ignore_patterns('alternates', 'variants'))
    shutil.copytree(ROOT/'shakespeare_ffn'/'page', PAGES/'play')
    data = ROOT/'_play'/'data' # if `make play` has made it
    if data.is_dir(): shutil.copytree(data, PAGES/'play'/'data')
    for path in PAGES.rglob('*.ipynb'): prepare(path)
    for path in (PAGES/'results').glob('*.md'):
        path.write_text(unbroken(path.read_text(encoding='utf-8')), encoding='utf-8')
    number_chapters(PAGES/'sidebar.yml')
    run('quarto', 'render', '--no-cache', cwd=PAGES)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(PAGES/'_docs', SITE)
    return f'{SITE}/index.html'

if __name__ == '__main__': command('docs', docs)
