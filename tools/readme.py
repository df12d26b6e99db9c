"""Write README.md and its pictures from nbs/index.ipynb with Jupyter's own converter, so that it comes out
the same everywhere.

`readme.py --check` writes nothing and exits with 1 when they are out of step."""
import argparse, posixpath, re, sys
from pathlib import Path
import nbformat
from jinja2 import DictLoader
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK, IMAGES = 'nbs/index.ipynb', 'nbs/images'
NOTE = f'<!-- Made from {NOTEBOOK} by `make readme`: edit the notebook. -->\n\n'

FENCED = """
{%- extends 'markdown/index.md.j2' -%}
{%- macro fenced(text) %}

```text
{{ text | strip_ansi | trim('\n') }}
```

{% endmacro -%}
{%- block input -%}
{%- if cell.source %}

```python
{{ cell.source }}
```

{% endif -%}
{%- endblock input -%}
{%- block stream -%}
{%- if output.name == 'stdout' -%}{{ fenced(output.text) }}{%- endif -%}
{%- endblock stream -%}
{%- block data_text scoped -%}{{ fenced(output.data['text/plain']) }}{%- endblock data_text -%}
{%- block data_png scoped %}

![{{ cell.metadata.caption }}]({{ output.metadata.filenames['image/png'] | path2url }})

{% endblock data_png -%}
"""

def directives(
    source:str # of a code cell
)->dict[str, str]: # its `#| name: value` lines
    return {k: v.strip() for k, v in re.findall(r'^#\|\s*([\w-]+):?(.*)$', source, re.M)}

def from_root(
    text:str # Markdown of a notebook in nbs/
)->str: # with links that lead from the root
    def local(m): return f"]({posixpath.normpath(posixpath.join('nbs', m[1]))}"
    return re.sub(r'\]\((?!\w+:|[#/])([^)\s]+)', local, text)

def tidy(cell):
    "`cell` as a reader outside of nbs/ wants it, or None if it is hidden"
    if cell.cell_type == 'markdown': cell.source = from_root(cell.source)
    elif cell.cell_type == 'code':
        said = directives(cell.source)
        if {'hide', 'default_exp'} & said.keys() or said.get('include') == 'false': return None
        cell.metadata.caption = said.get('fig-cap', 'figure').strip('"\'')
        without_directives = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip('\n')
        cell.source = '' if said.get('echo') == 'false' else without_directives
        for data in (output.data for output in cell.outputs if 'data' in output):
            if 'text/markdown' in data: data['text/markdown'] = from_root(data['text/markdown'])
    return cell

def convert(
    notebook:Path # to read
)->tuple[str, dict[str, bytes]]: # the README's text; path -> content of its pictures
    nb = nbformat.read(notebook, as_version=4)
    nb.cells = [cell for cell in map(tidy, nb.cells) if cell]
    config = Config()
    config.NbConvertBase.display_data_priority = ['text/markdown', 'image/png', 'text/plain']
    config.ExtractOutputPreprocessor.output_filename_template = 'readme_{cell_index}_{index}{extension}'
    loader = DictLoader({'readme.md.j2': FENCED})
    exporter = MarkdownExporter(config=config, extra_loaders=[loader], template_file='readme.md.j2')
    text, resources = exporter.from_notebook_node(nb, resources={'output_files_dir': IMAGES})
    # one blank line for several, but not in a fence
    text = re.sub(r'(^```.*?^```$)|\n{3,}', lambda m: m[1] or '\n\n', text, flags=re.M | re.S)
    return NOTE + text.strip() + '\n', dict(resources['outputs'])

def wanted(
    root:Path=ROOT # of a checkout
)->dict[str, bytes|None]: # path -> content of README and pictures; None for a picture no longer used
    text, pictures = convert(root/NOTEBOOK)
    unused = {p.relative_to(root).as_posix(): None for p in (root/IMAGES).glob('readme_*')}
    return {**unused, **pictures, 'README.md': text.encode()}

def out_of_step(
    root:Path=ROOT # of a checkout
)->list[str]: # the files that differ from what the notebook makes
    def found(name): return (root/name).read_bytes() if (root/name).exists() else None
    return [name for name, new in wanted(root).items() if new != found(name)]

def write(
    root:Path=ROOT # of a checkout
):
    "Make README and pictures what the notebook says."
    for name, new in wanted(root).items():
        path = root/name
        if new is None: path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(new)

def main(argv=None):
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument('--check', action='store_true')
    checking = parser.parse_args(argv).check
    if not (ROOT/NOTEBOOK).exists(): sys.exit(f'{NOTEBOOK} is missing: README.md is made from it.')
    if not checking: write()
    elif wrong := out_of_step():
        sys.exit(f"Out of step with {NOTEBOOK}: {', '.join(wrong)}. "
                 'Run `make readme` and commit what changes.')

if __name__ == '__main__': main()
