"Smoke scale, and a cache of the tests' own with the real corpus in it."
import os, shutil
from pathlib import Path
import pytest
from forked import python
from shakespeare_ffn import corpus_keys
from shakespeare_ffn.core import cache_dir, _on
from shakespeare_ffn.data import corpus_bytes, load_corpus
from shakespeare_ffn.model import load_model

def pytest_configure(config):
    config.addinivalue_line('markers',
                            'posix: needs signals, file modes, a shell or limits as POSIX has them')
    config.addinivalue_line('markers', 'slow(why): for `make test-all`; why `make test` can do without it')

# Files that take longest come first, or one process would be left with them at the end.
LONGEST = ['test_training', 'test_explore', 'test_text', 'test_command', 'test_gpu', 'test_state',
           'test_threshold_attention', 'test_shards', 'test_index', 'test_faults', 'test_gpu_command',
           'test_site', 'test_reproduce', 'test_preview', 'test_wheel', 'test_variants']

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        if item.get_closest_marker('posix'):
            item.add_marker(pytest.mark.skipif(os.name != 'posix', reason='POSIX only'))

@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cache')
    (folder/'tinyshakespeare.txt').write_bytes(corpus_bytes())
    # the notebooks have built the small index, which takes a processor without bfloat16 a minute;
    # one that older code built is left
    changed = max(Path(corpus_keys.__file__).with_name(f'{name}.py').stat().st_mtime
                  for name in ('corpus_keys', 'model'))
    for manifest in (cache_dir()/'keys').glob('smoke-length10-*/manifest.json'):
        if manifest.parent.suffix != '.partial' and manifest.stat().st_mtime > changed:
            shutil.copytree(manifest.parent, folder/'keys'/manifest.parent.name)
    os.environ.update(SHAKESPEARE_FFN_SCALE='smoke', SHAKESPEARE_FFN_CACHE=str(folder))
    # measured now, or processes that start at once may find different answers
    _on('cpu')
    return folder

@pytest.fixture(scope='session')
def corpus(cache): return load_corpus()

@pytest.fixture(scope='session')
def model(): return load_model()

def remember(cache, folder):
    "What the machine multiplies fast, for another cache: measured under load it may come out otherwise."
    shutil.copyfile(cache/'arithmetic.json', folder/'arithmetic.json')
    return folder

@pytest.fixture
def new_cache(cache, tmp_path, monkeypatch):
    "An empty cache but for the corpus and what the machine multiplies fast, for this test alone."
    (folder := tmp_path/'cache').mkdir()
    (remember(cache, folder)/'tinyshakespeare.txt').write_bytes((cache/'tinyshakespeare.txt').read_bytes())
    monkeypatch.setenv('SHAKESPEARE_FFN_CACHE', str(folder))
    return folder

@pytest.fixture
def start():
    "Start Python processes; whatever still runs at the end of the test is killed."
    processes = []
    def go(*args, **kwargs):
        processes.append(python(*args, **kwargs))
        return processes[-1]
    yield go
    for p in processes: p.kill()

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

@pytest.fixture(scope='module')
def browser():
    "Chromium; without it or playwright the test is skipped."
    if not CHROMIUM: pytest.skip('there is no Chromium')
    playwright = pytest.importorskip('playwright.sync_api')
    with playwright.sync_playwright() as p:
        with p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox']) as browser: yield browser
