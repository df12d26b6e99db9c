"The README is what nbs/index.ipynb makes it."
import base64
import nbformat, pytest, readme
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PNG = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgAB'
                       'SK+kcQAAAABJRU5ErkJggg==')

def shown(**data): return new_output('execute_result', data={k.replace('_', '/'): v for k, v in data.items()})

@pytest.fixture
def root(tmp_path):
    "A project whose index.ipynb has one cell of each kind"
    cells = [
        new_markdown_cell('# Title\n\n> Summary\n\nSee [data](00_data.ipynb), [licence](../LICENSE), '
                          '[site](https://x.org), [below](#below).'),
        new_code_cell('#| hide\nsecret()'),
        new_code_cell('#| eval: true\na = 1\n\n\n\nprint(a)', outputs=[
            new_output('stream', name='stdout', text='one\n\n\n\ntwo\n'),
            new_output('stream', name='stderr', text='50%|####')]),
        new_code_cell('explain()', outputs=[shown(text_html='<b>rich</b>', text_plain='plain words')]),
        new_code_cell('table()',
                      outputs=[shown(text_html='<table>', text_markdown='| [a](00_data.ipynb) |\n| - |',
                                     text_plain='Table()')]),
        new_code_cell('#| echo: false\n#| fig-cap: "A claim."\nplot()', outputs=[
            shown(image_png=base64.b64encode(PNG).decode(), text_plain='<Figure>')]),
    ]
    (tmp_path/'nbs').mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path/'nbs'/'index.ipynb')
    return tmp_path

def test_repository_is_in_step(capsys):
    readme.main(['--check'])
    assert capsys.readouterr().err == ''

def test_text(root):
    text, _ = readme.convert(root/'nbs'/'index.ipynb')
    assert text == readme.NOTE + '''\
# Title

> Summary

See [data](nbs/00_data.ipynb), [licence](LICENSE), [site](https://x.org), [below](#below).

```python
a = 1



print(a)
```

```text
one



two
```

```python
explain()
```

```text
plain words
```

```python
table()
```

| [a](nbs/00_data.ipynb) |
| - |

![A claim.](nbs/images/readme_4_0.png)
'''

def test_write_then_in_step(root):
    assert readme.out_of_step(root) == ['nbs/images/readme_4_0.png', 'README.md']
    readme.write(root)
    assert (root/'nbs/images/readme_4_0.png').read_bytes() == PNG
    assert readme.out_of_step(root) == []

def test_each_way_out_of_step(root):
    readme.write(root)
    (root/'README.md').write_text('edited by hand', encoding='utf-8')
    (root/'nbs/images/readme_4_0.png').write_bytes(b'another')
    (root/'nbs/images/readme_9_0.png').write_bytes(PNG)
    assert set(readme.out_of_step(root)) == {'README.md', 'nbs/images/readme_4_0.png',
                                             'nbs/images/readme_9_0.png'}
    readme.write(root)
    assert readme.out_of_step(root) == [] and not (root/'nbs/images/readme_9_0.png').exists()
