"""Write the site to _docs: the notebooks as nbdev prepares them, `results/` beside them, rendered by Quarto.

Between nbdev and Quarto each page is made fit to be read. Tests and imports are folded and say what they are,
links stay within the site, and HTML outputs go in as they are: else Quarto fetches scripts for them."""
import os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat
from nbdev.config import get_config
from shakespeare_ffn.core import Parser, UserError, command

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT/'_proc'
SITE = ROOT/'_docs'
TEST = re.compile(r'^\s*(test_\w+\(|assert\b|with expect_fail|for .*: (test_|assert))', re.M)

# The article's page hides its code until the switch of code-switch.html is turned.
ARTICLE = '''author: {author}
date: last-modified
citation: true
include-in-header:
  text: <meta name="page-kind" content="article">
'''

def front_matter(source: str) -> str:
    "An article's front matter: with author, date and kind."
    return re.sub(r'\n---\s*$', '\n' + ARTICLE.format(author=get_config().author) + '---\n', source)

def summary(source: str) -> str: # '' for a cell that stays open
    "What a folded cell says of itself."
    if 'code-summary' in source or 'echo: false' in source: return ''
    code = [line for line in source.splitlines() if line.strip() and not line.startswith('#')]
    if code and all(re.match(r'(from|import) |\s', line) for line in code): return 'Imports'
    return 'The test' if TEST.search(source) else ''

def folded(source: str) -> str:
    "A cell's source; that of modules, of tests and imports is folded."
    if words := summary(source):
        fold = '' if 'code-fold:' in source else '#| code-fold: true\n'
        return f'{fold}#| code-summary: "{words}"\n{source}'
    return source.replace('code-fold: show', 'code-fold: true').replace('Exported source', 'The source')

def in_pages(text: str, root: str) -> str: # root: the way from the page to the site's first folder
    "Text whose links stay within the site."
    config = get_config()
    text = text.replace(f'{config.doc_host}{config.doc_baseurl}/', root)
    text = re.sub(r'\[(`_\w+`)\]\([^)]*\)', r'\1', text) # nbdev links to what no page describes
    text = re.sub(r'\[([^][]*)\[(`[^`]+`)\]\([^)]*\)([^][]*)\]\(', r'[\1\2\3](', text) # and within a link
    # in the checkout `results` lies beside the folder of the notebooks, on the site below it
    return re.sub(r'\]\((\.\./)+results/', f']({root}results/', text)

def prepare_output(output, root: str):
    "Make an output part of the page, as nbdev's descriptions of functions are."
    data = output.get('data', {})
    if html := data.get('text/html'): output.data = {'text/markdown': f'```{{=html}}\n{html}\n```'}
    elif markdown := data.get('text/markdown'):
        says_nothing = r'\*?Call self as a function\.\*?'
        data['text/markdown'] = in_pages(re.sub(says_nothing, '', markdown), root)

def prepare(path: Path):
    "Make a page of what nbdev has made of a notebook."
    nb, root = nbformat.read(path, 4), '../'*(len(path.relative_to(PAGES).parts)-1)
    if path.parent.name == 'blog': nb.cells[0].source = front_matter(nb.cells[0].source)
    for cell in nb.cells:
        cell.source = in_pages(cell.source, root)
        if cell.cell_type == 'code':
            cell.source = folded(cell.source)
            for output in cell.outputs: prepare_output(output, root)
    nbformat.write(nb, path)

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
    run('nbdev_proc_nbs')
    shutil.copytree(ROOT/'results', PAGES/'results', ignore=shutil.ignore_patterns('alternates'))
    for path in PAGES.rglob('*.ipynb'): prepare(path)
    run('quarto', 'render', '--no-cache', cwd=PAGES)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(PAGES/'_docs', SITE)
    return f'{SITE}/index.html'

if __name__ == '__main__': command('docs', docs)
