"""Write what is generated from the notebooks: the package's modules, nbs/nbdev.yml, the notebooks without
superfluous metadata.

`export.py --check` does so in a copy and exits with 1 when the files here differ; it changes nothing."""
import argparse, os, re, subprocess, sys
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, NBS = 'shakespeare_ffn', 'nbs'

def export():
    "Export and clean the project in the working directory; remove modules that no notebook makes any more."
    from nbdev.clean import nbdev_clean
    from nbdev.doclinks import nbdev_export
    from nbdev.quarto import refresh_quarto_yml
    texts = [notebook.read_text(encoding='utf-8') for notebook in Path(NBS).rglob('*.ipynb')]
    made = {name for text in texts for name in re.findall(r'#\| *default_exp (\w+)', text)}
    for module in Path(PACKAGE).glob('[!_]*.py'):
        if module.stem not in made: module.unlink()
    os.environ.pop('IN_TEST', None) # under which nbdev exports nothing and says nothing
    nbdev_export.__wrapped__()
    nbdev_clean.__wrapped__()
    refresh_quarto_yml()

def generated(
    root:Path # of a checkout
)->dict[str, bytes]: # path -> content of each generated or cleaned file
    paths = [*(root/PACKAGE).glob('*.py'), *(root/NBS).rglob('*.ipynb'), root/NBS/'nbdev.yml']
    paths = [path for path in paths if path.exists() and '.ipynb_checkpoints' not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}

def check(
    root:Path=ROOT # of a checkout
)->list[str]: # the files that are out of step
    with TemporaryDirectory() as tmp:
        new = Path(tmp)
        (new/PACKAGE).mkdir()
        for name in ['settings.ini', '_quarto.yml', f'{PACKAGE}/__init__.py']:
            if (root/name).exists(): copy(root/name, new/name)
        copytree(root/NBS, new/NBS, symlinks=True, ignore=ignore_patterns('.*'))
        subprocess.run([sys.executable, __file__], cwd=new, check=True)
        before, after = generated(root), generated(new)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))

if __name__ == '__main__':
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument('--check', action='store_true')
    if not parser.parse_args().check: export()
    elif wrong := check():
        sys.exit(f"Out of step with the notebooks: {', '.join(wrong)}. "
                 'Run `make export` and commit what changes.')
    else: print('The generated files are in step with the notebooks.')
