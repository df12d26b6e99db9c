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

# What scrolls sideways: code, what is printed, formulas and tables. (On a phone tables may.)
SCROLLS = """() => [...document.querySelectorAll('main pre, main div.sourceCode, main math[display=block]'
    + (innerWidth < 600 ? '' : ', main .cell-output-markdown'))]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.trim().slice(0, 40))"""

# Text that stands out from its ground by less than 4.5 : 1, as WCAG asks for small text.
FAINT = """() => {
  const colour = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return {rgb: [r, g, b], a};
  };
  const over = (front, back) => front.rgb.map((x, i) => x*front.a + back[i]*(1 - front.a));
  const light = rgb => rgb.map(x => x/255).map(x => x <= .04 ? x/12.92 : ((x + .055)/1.055)**2.4)
    .reduce((sum, x, i) => sum + x*[.2126, .7152, .0722][i], 0);
  const ground = e => {
    const own = colour(getComputedStyle(e).backgroundColor);
    return own.a === 1 ? own.rgb : over(own, e.parentElement ? ground(e.parentElement) : [255, 255, 255]);
  };
  const faint = new Set(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const {data, parentElement: e} = texts.currentNode;
    if (!data.trim() || !e.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
    const back = ground(e), front = over(colour(getComputedStyle(e).color), back);
    const [less, more] = [light(front), light(back)].sort((a, b) => a - b);
    if ((more + .05)/(less + .05) < 4.45) faint.add(`${e.tagName}: ${data.trim().slice(0, 30)}`);
  }
  return [...faint];
}"""

# How large the smallest letters of an opened figure are, in pixels: a matplotlib figure scales its letters.
LETTERS = """async image => {
  const text = await (await fetch(image.src)).text();
  const figure = new DOMParser().parseFromString(text, 'image/svg+xml').documentElement;
  const [, , width, height] = figure.getAttribute('viewBox').split(' ').map(Number);
  const scales = [...text.matchAll(/scale\\((0\\.\\d+) -/g)].map(x => +x[1]).filter(x => x < .5);
  const box = image.getBoundingClientRect(), [short, long] = [box.width, box.height].sort((a, b) => a - b);
  return 100*Math.min(...scales)*Math.min(long/width, short/height);
}"""

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
        view.evaluate('document.querySelectorAll("main details").forEach(fold => { fold.open = true; })')
        complaints += [(page.name, 'cut off', what) for what in view.evaluate(CUT_OFF)]
        complaints += [(page.name, 'scrolls', what) for what in view.evaluate(SCROLLS)]
        complaints += [(page.name, 'is faint', what) for what in view.evaluate(FAINT)]
    view.close()
    assert complaints == []

def test_a_figure_opens_legibly_on_a_phone(browser, site, address):
    "In the text it may be small. Opened, its letters are ten pixels high or more"
    context = browser.new_context(viewport=dict(width=390, height=844), has_touch=True, is_mobile=True)
    view = context.new_page()
    view.goto(f'{address}/blog/beyond_self_attention.html')
    figures = view.locator('main figure a.lightbox')
    assert figures.count() >= 14
    for i in range(figures.count()):
        figures.nth(i).tap()
        opened = view.locator('.gslide.current.loaded img')
        opened.wait_for()
        view.wait_for_timeout(600) # it grows
        at = opened.bounding_box()
        assert min(at['x'], at['y'], 390 - at['x'] - at['width'], 844 - at['y'] - at['height']) >= 0, at
        if opened.get_attribute('src').endswith('.svg'): assert opened.evaluate(LETTERS) >= 10, i
        view.locator('.gclose').tap()
        view.locator('.glightbox-container').wait_for(state='detached')
    context.close()
