// The page: what is shown, what can be moved, and the address that says it.
import { open as openIndex } from './nearby.js'
import { open, says } from './read.js'
import { hellinger, predict, sum } from './rule.js'
import { $, called, children, ending, fill, hear, likeliest, line, make, percent, shown, told } from './show.js'
import { offerTyping } from './typing.js'

let contents, text, read // what `open` gives
let unit                 // what its tokens are: character, or token
let prompt               // all that is known of the prompt that is shown
let state                // what the address says: see `fresh`
let nearby = null        // what finds the strings of any prompt, once the compact index is there
let waits = null         // the prompt that waits for it
let damaged = false      // whether the address says what cannot be
let frame = 0            // of the next drawing
const isHeart = new URLSearchParams(location.search).has('heart') // shown within another page: answer and sliders

// ---- What is shown -------------------------------------------------------------------------------------------

const copy = x => JSON.parse(JSON.stringify(x))
const approximate = asked => asked.number === null && !contents.ask // found by the compact index, which has a rule of its own
const usualRule = (asked, name) => approximate(asked) ? contents.compact.rule : contents[name]
function fresh(asked, name = 'nearest') {
  return { prompt: asked, name: approximate(asked) ? 'nearest' : name, rule: copy(usualRule(asked, name)), itself: false, block: null }
}

function address() { // of the state; what is as the rule has it is left out
  const { rule, name, prompt: { number, text } } = state
  const asks = new URLSearchParams({ ...(number === null ? { q: text } : { p: number }), rule: name })
  const differs = (key, of) => {
    const mine = of(rule), usual = of(usualRule(state.prompt, name))
    if (String(mine) !== String(usual)) asks.set(key, mine.join(' '))
  }
  if (rule.votes) {
    differs('k', r => [r.k])
    differs('beta', r => r.votes.map(v => v.beta))
    differs('share', r => r.votes.map(v => v.share))
  } else {
    differs('t', r => r.thresholds)
    differs('w', r => r.weights.map(w => Number(w.toPrecision(4))))
  }
  if (state.itself) asks.set('itself', 1)
  if (state.block !== null) asks.set('block', state.block)
  return `#${asks}`
}

const KEYS = ['q', 'p', 'rule', 'k', 'beta', 'share', 't', 'w', 'itself', 'block']
function fromAddress(hash) { // → a state; whatever it says wrongly is as usual
  const asks = new URLSearchParams(hash.slice(1)), q = asks.get('q')
  waits = null
  damaged = [...asks.keys()].some(key => !KEYS.includes(key))
  const take = (key, read) => { // null if it says nothing, or what cannot be
    const found = asks.has(key) ? read(asks.get(key)) ?? null : null
    damaged ||= asks.has(key) && found === null
    return found
  }
  const numbers = (key, n, low, high) => take(key, said => {
    const x = said.split(' ').map(Number)
    return said && x.length === n && x.every(v => v >= low && v <= high) ? x : null
  })
  const numbered = take('p', said => contents.prompts.find(p => p.number !== null && String(p.number) === said))
  const name = take('rule', said => ['nearest', 'tuned', 'article'].find(rule => rule === said && contents[rule])) ?? 'nearest'
  const s = fresh((q && asked(q)) || numbered || usual(), name), { rule } = s
  if (rule.votes) {
    const n = rule.votes.length
    const k = numbers('k', 1, 1, contents.nearest.k), beta = numbers('beta', n, 0, 60), share = numbers('share', n, 0, 1)
    if (k) rule.k = Math.round(k[0])
    rule.votes.forEach((v, i) => { if (beta) v.beta = beta[i]; if (share) v.share = share[i] })
  } else {
    const n = rule.thresholds.length
    rule.thresholds = numbers('t', n, contents.edges[0], 1) ?? rule.thresholds
    rule.weights = numbers('w', n, 0, 1e6) ?? rule.weights
  }
  s.itself = take('itself', said => said === '1' || null) ?? false
  const block = numbers('block', 1, 0, contents.tuned.thresholds.length - 1)
  if (block) s.block = block[0]
  return s
}

function asked(all) { // → a prompt of the reader's own; null if it must wait until the index is there
  const text = ending(all, 200) // more would be no address, and does not count
  const prepared = contents.prompts.find(p => p.text === text)
  if (prepared || contents.ask || nearby) return prepared ?? { text, number: null, distance: null }
  waits = text
  return null
}

function remember(how = 'replaceState') {
  if (address() === location.hash) return
  history[isHeart ? 'replaceState' : how](null, '', address()) // the page around it has a history of its own
  $('all').href = `./${address()}`
}

// ---- Drawing -------------------------------------------------------------------------------------------------

function drawAnswer(found) {
  const both = found.says.map((p, i) => Math.max(p, prompt.model[i]))
  fill($('bars'), likeliest(both, 8), contents.signs, { model: ['the model', prompt.model], ours: ['counted', found.says] })
  const distance = hellinger(found.says, prompt.model)
  $('distance').textContent = distance.toFixed(3)
  const same = likeliest(found.says, 1)[0] === likeliest(prompt.model, 1)[0]
  const far = distance < .1 ? (contents.about ? 'very near' : 'about as near as a twin of the model') : distance < .25 ? 'near' : 'far'
  $('verdict').textContent = found.empty ? `nothing counts: how often each ${unit} occurs` :
    `${far}; the likeliest ${unit} is ${same ? 'the same' : 'another'}`
}

let measured = new WeakMap() // canvas → its size, and what it shows: neither is asked of the browser while a slider moves
let colours = null
function afresh() {
  measured = new WeakMap()
  colours = null
  redraw()
}

function drawHistogram(canvas, block, threshold) {
  const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height, shows } = measured.get(canvas) ?? canvas
  if (!width || shows === threshold) return
  measured.set(canvas, { clientWidth: width, clientHeight: height, shows: threshold })
  canvas.width = width * ratio
  canvas.height = height * ratio
  const style = colours ? null : getComputedStyle(document.documentElement)
  colours ??= { above: style.getPropertyValue('--ours'), below: style.getPropertyValue('--edge') }
  const to = canvas.getContext('2d'), above = prompt.above[block], inBin = above.map(({ n }, i) => n - (above[i + 1]?.n ?? 0))
  const most = Math.log1p(Math.max(...inBin)), step = canvas.width / inBin.length
  inBin.forEach((n, i) => {
    const tall = most ? Math.log1p(n) / most * canvas.height : 0
    to.fillStyle = contents.edges[i] > threshold - 1e-9 ? colours.above : colours.below
    to.fillRect(i * step, canvas.height - tall, Math.max(1, step - ratio), tall)
  })
}

function drawSays(element, says) {
  const best = likeliest(says, 4).filter(i => says[i] > 0)
  children(element, best.length, () => make('div', {}, make('span', { class: 'char' }), make('i'))).forEach((row, n) => {
    row.firstChild.textContent = contents.signs[best[n]]
    row.lastChild.style.width = `${100 * says[best[n]]}%`
  })
}

function drawBlocks(found) {
  found.blocks.forEach((b, i) => {
    const card = $('blocks').children[i]
    card.querySelector('.head p').textContent =
      `${b.n.toLocaleString('en')} string${b.n === 1 ? '' : 's'}, ${percent(b.share)} of the answer`
    card.querySelector('.share i').style.transform = `scaleX(${b.share})`
    drawSays(card.querySelector('.says'), b.says)
    const canvas = card.querySelector('canvas')
    if (canvas) drawHistogram(canvas, b.block, state.rule.thresholds[b.block])
  })
}

// Tokens of several characters are shown with their boundaries.
const apart = tokens => contents.kind === 'characters' ? tokens : tokens.map(t => make('span', { class: 'token' }, t))

function entry(s) {
  const { place } = s, { length } = contents, follows = contents.signs[text.token(place + length)]
  const [begin, end, after] = [place, place + length, place + length + 1].map(text.begin)
  const tokens = Array.from({ length }, (_, i) => shown(text.whole.slice(text.begin(place + i), text.begin(place + i + 1))))
  const cosine = s.cosine.toFixed(3), string = shown(text.whole.slice(begin, end))
  const row = make('li', {},
    make('button', { type: 'button', tabindex: '-1', 'aria-expanded': 'false', 'aria-label': `cosine ${cosine}: ${string}, then ${called(follows ?? 'the end')}` }, cosine),
    make('span', { class: 'left' }, make('bdo', { dir: 'ltr' },
      make('b', {}, shown(text.whole.slice(Math.max(0, begin - 22), begin))), ...apart(tokens.filter(t => t)))),
    make('span', { class: 'right' }, make('mark', {}, follows ?? 'end'), shown(text.whole.slice(after, after + 30))))
  row.addEventListener('pointerenter', () => { row.title = line(text.whole, begin, end) })
  row.addEventListener('click', () => {
    if (!getSelection().isCollapsed) return // a part was marked, not the row chosen
    const isOpen = row.toggleAttribute('data-open')
    row.firstChild.setAttribute('aria-expanded', isOpen)
    if (!isOpen) return row.lastChild.remove()
    const part = contents.training_part !== null && place >= contents.training_part ? 'the model never saw this part of the text' : ''
    const times = sum(s.next.map(([, n]) => n))
    row.append(make('span', { class: 'whole quiet' },
      `${line(text.whole, begin, end)}\n${times > 1 ? `the string occurs ${times} times. ` : ''}${part}`))
  })
  return row
}

let listed = '' // of which prompt and block the list has strings, the nearest first; those that do not count are hidden
function drawStrings(found) {
  // the block that was chosen, or at first the one that says most
  const blocks = found.blocks.map(b => b.block), [most] = likeliest(found.blocks.map(b => b.share), 1)
  if (!blocks.includes(state.block)) state.block = blocks[most]
  const { block, list, n } = found.blocks[blocks.indexOf(state.block)]
  const some = list.filter(s => s.exact !== false).slice(0, contents.listed)
  const now = [state.prompt.text, state.name, block].join()
  $('strings-text').textContent = !n ? `Block ${block} finds no string.` :
    `Block ${block} finds ${n.toLocaleString('en')}${some.length < n ? `; here are the ${some.length} nearest` : ''}` +
    '. Each with its cosine and, marked, what follows it. Choose one to read the whole line.'
  for (const tab of $('tabs').children) tab.setAttribute('aria-pressed', Number(tab.dataset.block) === block)
  const there = $('list')
  if (now !== listed) there.replaceChildren()
  listed = now
  there.append(...some.slice(there.children.length).map(entry))
  for (const [i, row] of [...there.children].entries()) row.hidden = i >= some.length
  if (!there.querySelector('li:not([hidden]) [tabindex="0"]')) reach(there.querySelector('button'))
}

function reach(button) { // of the list: it is one stop of the Tab key, not two hundred
  for (const other of $('list').querySelectorAll('[tabindex="0"]')) other.tabIndex = -1
  if (button) button.tabIndex = 0
}

function walk(event) { // along the list, by keys
  const all = [...$('list').querySelectorAll('li:not([hidden]) button')], at = all.indexOf(document.activeElement)
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key]
  if (!all[to]) return
  event.preventDefault()
  reach(all[to])
  all[to].focus()
}

function tell(found) { // the answer in words, for those who do not see it move
  for (const [i, b] of found.blocks.entries())
    $('blocks').children[i].querySelector('.says').setAttribute('aria-label', `block ${b.block} says: ${told(b.says, contents.signs, 4) || 'nothing'}`)
  return `Hellinger distance ${$('distance').textContent}, ${$('verdict').textContent}. ` +
    `The model: ${told(prompt.model, contents.signs, 3)}. Counted: ${told(found.says, contents.signs, 3)}.`
}

function draw() {
  frame = 0
  const found = predict(prompt, contents, state.rule, state.itself)
  drawAnswer(found)
  drawBlocks(found)
  drawStrings(found)
  hear(() => tell(found))
}
const redraw = () => { if (prompt) frame ||= requestAnimationFrame(draw) } // before that there is nothing to draw

// ---- What can be moved ---------------------------------------------------------------------------------------

function slider(label, { min, max, step, value, format, set, aloud = v => v }) { // aloud: a value with its unit
  const output = make('span', { 'aria-hidden': 'true' }, format(value))
  const input = make('input', { type: 'range', min: String(min), max: String(max), step: String(step), 'aria-label': label })
  input.value = value
  input.setAttribute('aria-valuetext', aloud(format(value)))
  input.addEventListener('input', () => {
    const text = format(Number(input.value))
    output.textContent = text
    input.setAttribute('aria-valuetext', aloud(text))
    set(Number(input.value))
    redraw()
  })
  input.addEventListener('change', () => remember())
  return make('div', { class: 'slider' }, make('span', { 'aria-hidden': 'true' }, label.split(', ').at(-1)), input, output)
}

function card(block, ...inside) {
  return make('div', { class: 'block' }, make('div', { class: 'head' }, make('h3', {}, `Block ${block}`), make('p')),
    make('div', {}, ...inside), make('div', { class: 'says', role: 'img', 'aria-label': `block ${block}` }),
    make('div', { class: 'share', 'aria-hidden': 'true' }, make('i')))
}

const histogram = b => `block ${b}, strings at each cosine: ` + [.6, .7, .8, .9, .95].flatMap(edge => {
  const i = contents.edges.findIndex(e => Math.abs(e - edge) < 1e-9)
  return i < 0 ? [] : `${prompt.above[b][i].n.toLocaleString('en')} above ${edge}`
}).join(', ')

function buildThresholds() {
  const { rule } = state, { edges } = contents
  $('whole').replaceChildren()
  $('blocks').replaceChildren(...rule.thresholds.map((t, b) => card(b,
    make('div', { class: 'slider' }, make('canvas', { role: 'img', 'aria-label': histogram(b) })),
    slider(`block ${b}, threshold`, { min: edges[0], max: edges.at(-1), step: .01, value: t, format: v => v.toFixed(2),
      aloud: v => `cosine ${v}`, set: v => { rule.thresholds[b] = v } }),
    slider(`block ${b}, weight`, { min: -6, max: 1, step: .05, value: rule.weights[b] > 0 ? Math.log10(rule.weights[b]) : -6,
      format: v => v <= -6 ? '0' : String(Number((10 ** v).toPrecision(2))),
      set: v => { rule.weights[b] = v <= -6 ? 0 : 10 ** v } }))))
  $('rule-text').textContent = 'Each block counts what follows the strings whose cosine with the prompt exceeds its threshold. ' +
    'The bars show how many strings there are at each cosine; the weight says how much the block counts.'
}

function buildNearest() {
  const { rule } = state
  $('whole').replaceChildren(slider('strings', { min: 10, max: contents.nearest.k, step: 10, value: rule.k, format: String,
    aloud: v => `${v} nearest strings`, set: v => { rule.k = v } }))
  $('blocks').replaceChildren(...rule.votes.map((vote, i) => card(vote.block,
    slider(`block ${vote.block}, steepness`, { min: 0, max: 60, step: 1, value: vote.beta, format: String, set: v => { vote.beta = v } }),
    slider(`block ${vote.block}, share`, { min: 0, max: 1, step: .01, value: vote.share, format: v => v.toFixed(2),
      set: v => { vote.share = v } }))))
  $('rule-text').textContent = `${rule.votes.length > 1 ? 'Two blocks find' : 'A block finds'} the nearest strings; the nearer ` +
    'ones count more, the more so the steeper the weight.' +
    (rule.votes.length > 1 && !contents.about ? ' On 20,000 prompts this rule comes nearest to the model.' : '')
}

function build() { // what depends on the rule and on the prompt
  for (const b of document.querySelectorAll('[data-rule]')) b.setAttribute('aria-pressed', b.dataset.rule === state.name)
  $('itself').checked = state.itself
  if (state.rule.votes) buildNearest(); else buildThresholds()
  const blocks = state.rule.votes ? state.rule.votes.map(v => v.block) : state.rule.thresholds.map((_, b) => b)
  $('tabs').replaceChildren(...blocks.map(b => {
    const tab = make('button', { type: 'button', 'data-block': String(b), 'aria-pressed': 'false' }, `block ${b}`)
    tab.addEventListener('click', () => { state.block = b; remember(); redraw() })
    return tab
  }))
  const about = state.prompt, prepared = contents.prompts.filter(p => p.distance !== null)
  const harder = prepared.filter(p => p.distance > about.distance).length
  $('itself').disabled = !prompt.own.length
  for (const b of document.querySelectorAll('[data-rule]')) {
    b.disabled = b.dataset.rule !== 'nearest' && !prompt.above
    b.hidden = !contents[b.dataset.rule]
  }
  $('approximate').hidden = !!prompt.above
  $('prompt').replaceChildren(...(contents.kind === 'characters' ? [shown(about.text).replace(/^ | $/g, '␣')] :
    apart(prompt.tokens.map(t => contents.signs[t]))))
  $('search').value = ''
  const it = contents.kind === 'characters' && about.text.length > contents.length ? `“${shown(about.text.slice(-contents.length))}”` : 'it'
  const often = sum(prompt.own.map(([, n]) => n))
  $('about').textContent = about.distance === null ?
    (often ? `${contents.about ? 'The text has' : 'The plays have'} ${it} ${often === 1 ? 'once' : `${often} times`}.` :
      `${contents.about ? 'The text does' : 'The plays do'} not have ${it}.`) :
    `The default rule is ${about.distance.toFixed(3)} from the model here; ` +
    `${harder} of the ${prepared.length} prompts are harder.`
}

// ---- Any prompt, by the compact index ------------------------------------------------------------------------

function refusal(text) { // why a prompt of one's own cannot be asked for, or ''; of other tokens only a server knows
  const { chars, length, ask } = contents, wrong = chars && Array.from(text).find(char => !chars.includes(char))
  if (wrong) return `The model has never seen ‘${shown(wrong)}’.`
  return !chars || text.length >= length ? '' :
    `${ask ? 'That' : 'That is no prepared prompt; it'} has ${text.length} characters; give ${length} or more.`
}

async function ask(asked) { // → all that is known of a prompt
  if (asked.number !== null) return read(asked)
  const wrong = refusal(asked.text)
  if (wrong) throw new Error(wrong)
  return contents.ask ? read(asked) : nearby(asked.text.slice(-contents.compact.length))
}

function say(message) { $('about').textContent = message }

function offer() { // of the index, to a prompt that waits for it
  if (!waits && damaged) say('A part of this link could not be read; it is as usual.')
  if (!waits) return
  const short = shown(waits.length > 40 ? `…${waits.slice(-40)}` : waits)
  say(contents.compact && refusal(waits) ||
    `“${short}” is no prepared prompt. ${contents.compact ? 'Load the index, and see its strings.' : 'The whole page can be asked for it.'}`)
}

function explainIndex() { // in the figures that were measured when it was made
  const { sizes, measured, again } = contents.compact, megabytes = Object.values(sizes).reduce((a, b) => a + b) / 1e6
  $('any-prompt').hidden = false
  $('load-index').textContent = `A prompt of your own: load ${megabytes.toFixed(0)} MB`
  $('approximate').textContent = `Approximate: a compact index finds the strings. The ${again} nearest, which are listed, are ranked ` +
    `again by their true cosines. On ${measured.prompts.toLocaleString('en')} prompts, ${(100 * measured.same_of_ten).toFixed(0)}% ` +
    `of the ten nearest are the exact ones, and the answer is ${measured.moves.toFixed(3)} (Hellinger) from the exact one.`
  $('load-index').addEventListener('click', loadIndex)
}

async function loadIndex() {
  const button = $('load-index'), bar = $('index-loading')
  button.disabled = true
  bar.hidden = false
  $('index-message').textContent = 'Loading the index …'
  try {
    nearby = await openIndex('data', { contents, text }, share => { bar.value = share })
    button.hidden = true
    $('search').focus({ preventScroll: true })
    $('index-message').textContent = 'Any prompt can be asked for now.'
    $('search-label').textContent = `Any text; its last ${contents.compact.length} characters count`
    const own = waits ? asked(waits) : null
    if (own) show(fresh(own), 'pushState')
  } catch (e) {
    $('index-message').textContent = e.message
    button.disabled = false
  } finally { bar.hidden = true }
}

let asks = 0 // how many prompts have been asked for: an answer that comes after a later one is not shown

async function show(next, how) {
  const asking = ++asks
  let told
  $('main').setAttribute('aria-busy', 'true')
  if (approximate(next.prompt)) say('Looking for its strings …')
  try { told = await ask(next.prompt) }
  catch (e) { // such as a prompt that the model cannot take: what was shown stays
    if (asking !== asks) return
    $('main').removeAttribute('aria-busy')
    if (!state) throw e
    say(e.message)
    return
  }
  if (asking !== asks) return
  prompt = told
  state = next
  if (!contents.prompts.includes(next.prompt)) contents.prompts.push(next.prompt)
  build()
  draw()
  if (how) remember(how)
  $('main').removeAttribute('aria-busy')
}

const PRESETS = [
  ['The default', 'The nearest strings, as they were tuned.', s => fresh(s.prompt)],
  ["The article's example", 'Six blocks with the thresholds and weights of the article, tuned by hand for its model.',
    () => fresh(usual(), 'article')],
  ['One block is not enough', 'Block 0 alone. What follows the strings that it finds similar is far from the model; add block 4.',
    () => only(fresh(usual(), 'tuned'), 0)],
  ['More similar is not better', 'Raise the threshold of block 0 from .85: few strings are left, and the answer gets worse.',
    () => { const s = only(fresh(usual(), 'tuned'), 0); s.rule.thresholds[0] = .85; return s }],
  ['A text the model never saw', "The hardest prompt from the last tenth of the text, which was kept from the model's training: " +
    'the strings know how it goes on, and the model does not.', () => fresh(unseen(), 'nearest')],
]
const usual = () => contents.prompts.find(p => p.text === 'And only l') ?? contents.prompts[0]
const unseen = () => contents.prompts.slice().sort((a, b) => b.distance - a.distance)
  .find(p => text.whole.indexOf(p.text) >= contents.training_part) ?? usual()
function only(s, block) {
  s.rule.weights = s.rule.weights.map((w, b) => b === block ? 1 : 0)
  s.block = block
  return s
}

function byDifficulty(step) { // the prompt before or after, from easy to hard
  const order = contents.prompts.slice().sort((a, b) => a.distance - b.distance)
  const n = order.length
  return order[(order.indexOf(state.prompt) + step + n) % n]
}

const go = asked => show(approximate(asked) === approximate(state.prompt) ?
  { ...state, prompt: asked, block: null } : fresh(asked), 'pushState')

function find(text) { // the strings of a text
  const own = asked(text)
  if (own) go(own); else offer()
}

function listen() {
  $('previous').addEventListener('click', () => go(byDifficulty(-1)))
  $('next').addEventListener('click', () => go(byDifficulty(1)))
  $('any').addEventListener('click', () => go(contents.prompts[Math.floor(Math.random() * contents.prompts.length)]))
  $('search').addEventListener('change', () => {
    const typed = $('search').value, signs = p => shown(p.text)
    const some = typed.trim() ? contents.prompts.find(p => signs(p).includes(typed.trim())) : null
    const prepared = contents.prompts.find(p => signs(p) === typed) ?? (contents.ask ? null : some)
    if (prepared) go(prepared); else if (typed) find(typed.replace(/↵/g, '\n'))
  })
  for (const b of document.querySelectorAll('[data-rule]')) b.addEventListener('click', () =>
    show({ ...fresh(state.prompt, b.dataset.rule), itself: state.itself }, 'pushState'))
  $('itself').addEventListener('change', () => { state.itself = $('itself').checked; remember(); redraw() })
  // a server does not know which prompt is the hardest, and the examples are of the package's model
  const presets = contents.about ? PRESETS.slice(0, 1) : contents.ask ? PRESETS.slice(0, -1) : PRESETS
  $('presets').replaceChildren(...presets.map(([name, says, preset]) => {
    const button = make('button', { type: 'button' }, name, make('small', {}, says))
    button.addEventListener('click', () => show(preset(state), 'pushState').then(() => $('answer').scrollIntoView({ block: 'nearest' })))
    return button
  }))
  $('list').addEventListener('keydown', walk)
  $('list').addEventListener('focusin', ({ target }) => { if (target.matches('button')) reach(target) })
  $('share').addEventListener('click', async () => {
    remember()
    try { await navigator.clipboard.writeText(location.href); $('shared').textContent = 'copied' }
    catch { $('shared').textContent = 'copy the address of this page' }
  })
  const follow = () => show(fromAddress(location.hash)).then(offer)
  addEventListener('popstate', follow)
  addEventListener('hashchange', () => { if (location.hash !== address()) follow() })
  addEventListener('resize', afresh)
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', afresh)
}

async function fetchTheRest() { // so that all prompts can be shown without a network
  for (const prepared of contents.prompts.filter(p => p.number !== null)) {
    try { await read(prepared) } catch { return }
  }
}

function introduce({ model, text }) { // another model than the package's
  const by = model || "the package's model"
  $('about-model').replaceChildren(`Given the beginning of a text, a language model (${by}) says which ${unit} may follow. ` +
    `Inside it, each block's feed-forward output finds some strings of ${text} similar to the prompt. Count what follows ` +
    'those strings there, and you have, roughly, what the model says. ',
    make('strong', {}, 'Move the sliders until both agree.'))
}

function fit() { // into the page around: its height, and its light or dark
  const around = frameElement?.ownerDocument.body // none if that is another site's
  document.documentElement.classList.add('heart')
  if (!around) return
  const dress = () => {
    for (const scheme of ['light', 'dark'])
      document.documentElement.classList.toggle(scheme, around.classList.contains(`quarto-${scheme}`))
    afresh()
  }
  new MutationObserver(dress).observe(around, { attributeFilter: ['class'] })
  new ResizeObserver(() => { frameElement.style.height = `${document.body.offsetHeight}px` }).observe(document.body)
  dress()
}

if (isHeart) fit()
try {
  ({ contents, text, read } = await open('data'))
  if (isHeart) contents.compact = null // prompts of a reader's own are for the whole page
  const { ask, kind, prompts: { length } } = contents
  unit = kind.slice(0, -1)
  document.body.classList.add(kind)
  if (contents.about) introduce(contents.about)
  if (ask) $('computed').textContent = 'What you move is computed in your browser, from what a server has counted, and is exact.'
  document.querySelector('#bars caption').textContent = `The likeliest next ${kind}`
  if (contents.compact) explainIndex()
  $('search-label').textContent = ask ? `Any text; its last ${contents.length} ${kind} count` : `Find one of ${length}${contents.compact ? ', or type your own' : ''}`
  $('prompts').replaceChildren(...contents.prompts.map(p => make('option', { value: shown(p.text) })))
  for (const section of document.querySelectorAll('section')) section.hidden = false
  listen()
  offerTyping(contents, ask ? text => says('data', contents, text) : null, typed => {
    find(typed.slice(kind === 'characters' ? -contents.length : -200)) // what is cut off does not count
    $('choose').scrollIntoView()
  })
  await show(fromAddress(location.hash))
  offer()
  $('message').hidden = true
  if (!contents.ask && !isHeart) setTimeout(fetchTheRest, 1000)
} catch (e) {
  $('message').textContent = e.message
  $('main').removeAttribute('aria-busy')
  for (const section of document.querySelectorAll('section')) section.hidden = true
  if (e.constructor !== Error) throw e // it is no message of ours
}
