"""How fast is the page to play with, in Chromium: its first picture, its sliders, an answer to any prompt?
And are the strings that it lists those of the whole index?

It needs what `make play` writes, Chromium and playwright. The page comes from a file server on this machine;
all is measured twice, as fast as that is, and as slow as on a phone."""
import json, shutil, statistics, time
from pathlib import Path
from shakespeare_ffn.compact import compact_index
from shakespeare_ffn.core import UserError, by_scale, command, scale
from shakespeare_ffn.corpus_keys import corpus_index
from shakespeare_ffn.data import load_corpus, prompt_ids
from shakespeare_ffn.model import load_model
from shakespeare_ffn.nearest_strings import prompt_neighbours
from common import report
from served import served

SITE = Path(__file__).resolve().parents[1]/'_play'
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
NOT_MEASURED = 'Not measured: it takes Chromium and playwright (`pip install playwright`).'
REPEATS, DRAGGED = by_scale(5, 1), by_scale(2., .3) # loads of the page; seconds that each slider is dragged
PHONE = 4 # times as slow a processor
LINE = dict(offline=False, latency=40, downloadThroughput=10e6/8, uploadThroughput=10e6/8) # 10 Mbit a second
RULES = {'the nearest': 'nearest', 'thresholds': 'tuned'}
TYPED = "\nThis is no line of any play of his, and yet the model reads on"
PROMPTS = by_scale(['xylophone ', 'a zebra is', 'my laptop ', 'electric l', 'quantum of', 'the coffee',
                    'no tomato ', 'bicycle, a', 'jazz, and ', 'Robot: Wha'], ['xylophone ', 'a zebra is'])

TITLE = 'The page to play with'
PAINTED = 'seconds until something is drawn'
FIRST = 'seconds until the first prompt, its bars and sliders are drawn'
LOADED, ALL = 'MB loaded until then', 'MB when all prompts have come, by themselves'
RATE = 'frames a second while a slider is dragged: of the middle slider, of the slowest'
LONGEST = 'milliseconds between two of these frames at most: middle one, worst'
WORK = "milliseconds of the main thread's work a frame: middle one, worst"
KEY = 'milliseconds from a key to what the model says next: middle one, longest'
INDEX = 'seconds until the compact index is there, from a file server on this machine'
ANSWER = "seconds from a prompt of one's own to its strings: middle one, longest"
EVERYTHING = 'MB in all, model and compact index included'
N_LISTED = by_scale(100, 5) # of the article's prompts
SAME = f'of the ten nearest strings of {N_LISTED} prompts, how many the page lists: on average, at least'
APART = 'most that a cosine of these differs from the exact one'
SLOWED = (f'Slowed: a line of 10 Mbit a second with 40 ms, a window 390 pixels wide, '
          f'the main thread {PHONE} times as slow.')

# In the page: when the first prompt is drawn, and how long a key takes until what it changes is drawn.
WATCH = """() => {
  const drawn = then => requestAnimationFrame(() => setTimeout(() => then(performance.now())))
  addEventListener('DOMContentLoaded', () => new MutationObserver(() => {
    if (!main.hasAttribute('aria-busy') && !window.first) drawn(at => { window.first = at })
  }).observe(main, { attributes: true }))
  window.times = (element, event, changed, wanted = () => true) => {
    const found = []
    let start = 0
    element.addEventListener(event, () => { start = performance.now() }, true)
    new MutationObserver(() => {
      if (!start || !wanted()) return
      const since = start
      start = 0
      drawn(at => found.push(at - since))
    }).observe(changed, { childList: true, subtree: true, characterData: true })
    return found
  }
  window.frames_of = () => {
    const at = []
    const next = now => { at.push(now); window.going = requestAnimationFrame(next) }
    window.going = requestAnimationFrame(next)
    return at
  }
}"""

# In the page: the ten best strings of prompts, as it finds them by its compact index.
LIST = """async prompts => {
  const [{ open: openIndex }, { open }] = await Promise.all([import('./nearby.js'), import('./read.js')])
  const data = await open('data'), ask = await openIndex('data', data, () => {}), found = []
  for (const prompt of prompts) {
    const { votes: [strings] } = await ask(prompt)
    found.push(strings.slice(0, 10).map(({ place, cosine }) => [place, cosine]))
  }
  return found
}"""

class View:
    "A page in a browser that has nothing in its cache."
    def __init__(self, browser, address, line=None, slower=1):
        size = dict(width=390, height=844) if line else dict(width=1280, height=900)
        self.page = browser.new_context(viewport=size).new_page()
        self.weight, self.tools = 0, self.page.context.new_cdp_session(self.page)
        for name in 'Network', 'Performance': self.tools.send(f'{name}.enable')
        self.tools.on('Network.loadingFinished', self.loaded)
        if line: self.tools.send('Network.emulateNetworkConditions', line)
        self.tools.send('Emulation.setCPUThrottlingRate', dict(rate=slower))
        self.page.add_init_script(f'({WATCH})()')
        self.page.goto(address)
        self.page.wait_for_function('window.first')
        assert not self.page.evaluate('crossOriginIsolated || navigator.gpu')

    def loaded(self, event): self.weight += event['encodedDataLength']

    def first(self) -> tuple: # seconds until something is drawn, until the first prompt is; bytes
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        return self.page.evaluate(paint)/1e3, self.page.evaluate('first')/1e3, self.weight

    def busy(self) -> float: # seconds so far
        "How long the main thread has worked."
        metrics = self.tools.send('Performance.getMetrics')['metrics']
        return next(m['value'] for m in metrics if m['name'] == 'TaskDuration')

    def all_prompts(self) -> int: # bytes, when all that comes by itself has come
        came = -1
        while came < self.weight:
            came = self.weight
            self.page.wait_for_timeout(2000)
        return came

    def drag(self, slider) -> tuple: # frames a second, the longest between two, milliseconds of work a frame
        "Move a slider there and back by the mouse."
        slider.scroll_into_view_if_needed()
        box, mouse, turn = slider.bounding_box(), self.page.mouse, 0
        y, width = box['y'] + box['height']/2, box['width'] - 20
        mouse.move(box['x'] + 10, y)
        mouse.down()
        self.page.evaluate('window.at = frames_of()')
        before, start = self.busy(), time.perf_counter()
        while time.perf_counter() - start < DRAGGED:
            turn += .03
            mouse.move(box['x'] + 10 + width*abs(turn % 2 - 1), y)
        worked = self.busy() - before
        at = self.page.evaluate('cancelAnimationFrame(going), at')
        mouse.up()
        gaps = [b - a for a, b in zip(at, at[1:])]
        return 1e3*len(gaps)/sum(gaps), max(gaps), 1e3*worked/len(gaps)

    def sliders(self) -> list: # of what `drag` says, one for each
        found = []
        for rule in RULES.values():
            self.page.locator(f'[data-rule={rule}]').click()
            self.page.wait_for_selector('#main:not([aria-busy])')
            found += [self.drag(slider) for slider in self.page.locator('input[type=range]').all()]
        return found

    def keys(self) -> list: # seconds from each key to what the model says next
        self.page.locator('#load-model').click()
        self.page.wait_for_selector('#typed-bars tr', timeout=120_000)
        self.page.evaluate("window.found = times(typed, 'keydown', document.getElementById('typed-bars'))")
        self.page.locator('#typed').press_sequentially(TYPED, delay=80)
        self.page.wait_for_timeout(500)
        return [t/1e3 for t in self.page.evaluate('found')]

    def answers(self) -> tuple: # seconds until the index is there; seconds from Enter to each answer
        start = time.perf_counter()
        self.page.locator('#load-index').click()
        self.page.wait_for_function("document.getElementById('load-index').hidden", timeout=300_000)
        took = time.perf_counter() - start
        self.page.evaluate("window.found = times(search, 'change', document.getElementById('prompt'))")
        for i, prompt in enumerate(PROMPTS):
            self.page.fill('#search', prompt)
            self.page.press('#search', 'Enter')
            self.page.wait_for_function('n => found.length === n', arg=i+1)
        return took, [t/1e3 for t in self.page.evaluate('found')]

def exact_lists(corpus) -> tuple: # prompts; for each its ten nearest strings → cosine
    "What the whole index says of the article's first prompts."
    index = corpus_index(corpus, load_model())
    strings, compact = index.strings, compact_index(index)
    found = prompt_neighbours(index, compact.vote, compact.rule.k)
    near = [{strings[index.ids[row]]: cosine for row, cosine in zip(rows[:10].tolist(), cosines.tolist())}
            for rows, cosines in zip(found.rows[:N_LISTED], found.cosines)]
    return [strings[i] for i in prompt_ids(strings)[:N_LISTED]], near

def listed(browser, address) -> dict: # what → its cell
    "How near the strings that the page lists come to the exact ones."
    corpus = load_corpus()
    page, (prompts, exact) = View(browser, address).page, exact_lists(corpus)
    found = [{corpus.text[place:place+10]: cosine for place, cosine in strings}
             for strings in page.evaluate(LIST, prompts)]
    page.context.close()
    same = [len(there.keys() & near.keys()) for there, near in zip(found, exact, strict=True)]
    apart = [abs(there[s] - near[s]) for there, near in zip(found, exact) for s in there.keys() & near.keys()]
    return {SAME: f'{statistics.mean(same):.2f}, {min(same)}', APART: f'{max(apart):.1g}'}

def middle(x) -> float: return statistics.median(x)

def both(x, form: str) -> str: return f'{middle(x):{form}}, {max(x):{form}}'

def measure(browser, address, **slow) -> dict: # what → its cell
    "All of it, in a browser as it is or slowed."
    views = [View(browser, address, **slow) for _ in range(REPEATS)]
    painted, first, weights = zip(*(view.first() for view in views))
    view, *others = views
    for other in others: other.page.context.close()
    found = {PAINTED: f'{middle(painted):.2f}', FIRST: f'{middle(first):.2f}',
             LOADED: f'{middle(weights)/1e6:.2f}', ALL: f'{view.all_prompts()/1e6:.2f}'}
    rates, longest, work = zip(*view.sliders())
    found |= {RATE: f'{middle(rates):.0f}, {min(rates):.0f}', LONGEST: both(longest, '.0f'),
              WORK: both(work, '.1f'), KEY: both([1e3*t for t in view.keys()], '.0f')}
    if not slow:
        took, answers = view.answers()
        found |= {INDEX: f'{took:.1f}', ANSWER: both(answers, '.1f'), EVERYTHING: f'{view.weight/1e6:.0f}'}
    view.page.context.close()
    return found

def n_prompts() -> int:
    "How many there are in the page; a `UserError` where it cannot be measured."
    try: contents = json.loads((SITE/'data'/'contents.json').read_text(encoding='utf-8'))
    except OSError as e: raise UserError(f'{SITE} has no data: run `make play`') from e
    n = len(contents['prompts'])
    if scale() == 'full' and n < 300: raise UserError(f'{SITE} has {n} prompts: `make play` at full scale')
    return n

def page(argv) -> str:
    try: from playwright.sync_api import sync_playwright
    except ImportError: sync_playwright = None
    if not CHROMIUM or not sync_playwright:
        report('page', TITLE, [], [], NOT_MEASURED)
        return ''
    n = n_prompts()
    with sync_playwright() as p, served(SITE) as server:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        address = f'{server}/index.html'
        here, phone = measure(browser, address), measure(browser, address, line=LINE, slower=PHONE)
        here |= listed(browser, address)
        version = browser.version
        browser.close()
    rows = [(what, here[what], phone.get(what, '–')) for what in here]
    report('page', TITLE, ['what', 'here', 'slowed'], rows, SLOWED,
           f'Chromium {version}, headless, without a GPU, WebGPU and cross-origin isolation; {n} prompts.')
    return ''

if __name__ == '__main__': command('page', page)
