"""The site as Quarto renders it. Without Quarto on the PATH these tests are skipped, those in a browser also
without Chromium or playwright."""
import gzip, re, shutil
import play
from pathlib import Path
from urllib.parse import unquote, urlparse
import nbformat, pytest
from bs4 import BeautifulSoup
from nbdev.config import get_config
from served import served
from test_site import build, prose, words

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not shutil.which('quarto'), reason='there is no Quarto on the PATH')

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "What `make play docs` writes, made in a copy of the project"
    folder = tmp_path_factory.mktemp('rendered')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(play, 'SITE', folder/'_play')
        play.play([])
    return build(folder/'project', folder/'_play'/'data')/'_docs'

@pytest.fixture(scope='module')
def pages(site) -> dict:
    "File → its parsed page"
    return {p: BeautifulSoup(p.read_text(encoding='utf-8'), 'html.parser')
            for p in sorted(site.rglob('*.html'))}

def local(site, page, target):
    "The file of the site that a page means by an address; None for another host's"
    parts = urlparse(target)
    if parts.scheme or parts.netloc: return None
    path = unquote(parts.path).removeprefix(get_config().doc_baseurl) # of the page that is not there
    if not path: return page
    found = site/path.lstrip('/') if path.startswith('/') else (page.parent/path).resolve()
    return found/'index.html' if found.is_dir() else found

def test_every_notebook_has_a_page(site, pages):
    assert len(pages) > len(list((ROOT/'nbs').rglob('[!.]*.ipynb'))) and site/'play'/'index.html' in pages

def test_every_link_and_anchor_leads_somewhere(site, pages):
    broken, anchors = [], {page: {x['id'] for x in soup.find_all(id=True)} for page, soup in pages.items()}
    for page, soup in pages.items():
        for a in soup.find_all('a', href=True):
            place, anchor = local(site, page, a['href']), unquote(urlparse(a['href']).fragment)
            if place is None or a['href'].startswith('javascript'): continue
            if not place.exists(): broken.append((page.name, a['href']))
            elif anchor and place in pages and anchor not in anchors[place]:
                broken.append((page.name, a['href']))
    assert broken == []

def assets(soup):
    "Addresses of all that a page loads by itself"
    for tag, attribute in ('script', 'src'), ('img', 'src'), ('link', 'href'), ('iframe', 'src'):
        for x in soup.find_all(tag, **{attribute: True}):
            if tag != 'link' or {'stylesheet', 'icon', 'preload'} & set(x.get('rel', [])): yield x[attribute]

def test_nothing_is_loaded_from_elsewhere(site, pages):
    loaded = {(page.name, x) for page, soup in pages.items() for x in assets(soup)}
    assert [(name, x) for name, x in loaded if not x.startswith('data:') and urlparse(x).netloc] == []
    imported = re.compile(r'@import\s+(url\()?["\']?https?:|url\(["\']?https?:')
    assert [p.name for p in site.rglob('*.css') if imported.search(p.read_text(encoding='utf-8'))] == []

def sent(file) -> int: # bytes
    "What a server sends of a file: text is compressed on the way."
    content = file.read_bytes()
    return min(len(content), len(gzip.compress(content)))

def test_pages_are_light(site, pages):
    for page, soup in pages.items():
        files = {local(site, page, x) for x in assets(soup) if not x.startswith('data:')}
        weight = sent(page) + sum(sent(file) for file in files if file and file.exists())
        assert weight < 1.5e6, (page.name, weight)

def test_pictures_have_words(pages):
    found = [(page.name, picture) for page, soup in pages.items() for picture in soup.select('main img')]
    assert [(name, x.get('src', '')[:60]) for name, x in found if not x.get('alt', '').strip()] == []

def test_no_raw_markdown(pages):
    for page, soup in pages.items():
        main = soup.find('main')
        for x in main.find_all(['code', 'pre', 'script', 'math', 'style']): x.extract()
        assert not re.search(r'\]\(|\*\*|```|\{\.callout|^:::', main.get_text(), re.M), page.name

def test_every_introduction_is_there(pages):
    texts = [' '.join(words(soup.find('main').get_text())) for soup in pages.values()]
    for path in sorted((ROOT/'nbs').rglob('[!.]*.ipynb')):
        introduction = prose(nbformat.read(path, as_version=4)).split('\n## ')[0].split('\n\n')[2]
        first = ' '.join(words(re.sub(r'[*`$]', '', introduction))[:6])
        assert any(first in text for text in texts), (path.name, first)

@pytest.fixture(scope='module')
def address(site, tmp_path_factory):
    "Where a server of one's own shows the site, below the same path as its host"
    root, base = tmp_path_factory.mktemp('host'), get_config().doc_baseurl
    (root/base.strip('/')).symlink_to(site, target_is_directory=True)
    with served(root) as server: yield server + base

# Pictures partly outside of the box that they scroll in, and words of a table's links in two lines.
CUT_OFF = """() => {
  const cut = [...document.querySelectorAll('main img')].filter(image => {
    const box = image.closest('.cell-output-display'), at = image.getBoundingClientRect();
    if (!box || getComputedStyle(box).overflowX === 'visible') return false;
    const from = box.getBoundingClientRect();
    return at.left < from.left - 1 || at.right > from.right + 1;
  }).map(image => image.alt.slice(0, 40));
  for (const link of document.querySelectorAll('main td a')) {
    const text = link.firstChild;
    if (text?.nodeType !== Node.TEXT_NODE) continue;
    for (const word of text.data.matchAll(/\\p{L}+/gu)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(at => at.top)).size > 1) cut.push(word[0]);
    }
  }
  return cut;
}"""

# What is printed and scrolls sideways. (Tables and code may.)
SCROLLS = """() => [...document.querySelectorAll('main .cell-output pre')]
  .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 40))"""

@pytest.mark.parametrize('width, height', [(390, 844), (1280, 800)])
@pytest.mark.parametrize('page', ['index.html', 'blog/beyond_self_attention.html'])
def test_claim_and_picture_are_on_the_first_screen(browser, address, page, width, height):
    view = browser.new_page(viewport=dict(width=width, height=height))
    view.goto(f'{address}/{page}')
    claim, picture = (view.locator(x).first.bounding_box() for x in ('main > p', 'main img'))
    assert claim['y'] < picture['y'] and picture['y'] + picture['height'] < height
    view.close()

@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1280])
def test_in_a_browser(browser, site, pages, address, width, scheme):
    "No page is wider than the window, cuts off what it shows, complains, or asks another host for anything"
    complaints = []
    view = browser.new_page(viewport=dict(width=width, height=800), color_scheme=scheme)
    view.on('console', lambda m: m.type == 'error' and complaints.append((view.url, m.text)))
    view.on('request', lambda r: r.url.startswith((address, 'data:')) or complaints.append((view.url, r.url)))
    for page in pages:
        view.goto(f'{address}/{page.relative_to(site).as_posix()}')
        if page.parent.name == 'play': view.wait_for_selector('#main:not([aria-busy])')
        wide = view.evaluate('document.documentElement.scrollWidth')
        if wide > width: complaints.append((page.name, f'{wide} pixels wide'))
        complaints += [(page.name, 'cut off', what) for what in view.evaluate(CUT_OFF)]
        if width < 600: complaints += [(page.name, 'scrolls', what) for what in view.evaluate(SCROLLS)]
    view.close()
    assert complaints == []
