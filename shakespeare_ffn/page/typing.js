// Text of one's own: the model says what comes next, after every key, and writes on if it is asked to.
import { once } from './load.js'
import { Model } from './model.js'
import { $, fill, hear, likeliest, shown, told } from './show.js'

let contents      // of the page
let says = null   // a text → { p, note }: what comes next, and what there is to say of the text; a promise, or an error
let writing = 0   // the timer of the next character, 0 if it does not write
let asks = 0      // how often it has been asked: an answer that comes after a later question is not shown

const say = message => { $('typing-message').textContent = message }

// ---- The model in this page ----------------------------------------------------------------------------------

// Where what it reads begins. It sees no more than its context; were this to move with every character, all would
// have to be read again each time. So it moves in steps of half a context.
function start(length, context) {
  const step = context / 2
  return Math.max(0, Math.ceil((length - context) / step) * step)
}

const inPage = model => text => {
  const from = start(text.length, model.context)
  return { p: model.next(model.tokens(text.slice(from))), note: from ? `It sees the last ${text.length - from} characters.` : '' }
}

async function begin() {
  $('load-model').disabled = true
  $('loading').hidden = false
  say('Loading the model …')
  const name = 'model.safetensors', size = contents.compact.sizes[name]
  try { says = inPage(new Model(await once(`data/${name}`, size, n => { $('loading').value = n / size }))) }
  catch (e) {
    say(e.message)
    $('load-model').disabled = false
    return
  }
  finally { $('loading').hidden = true }
  show('ROMEO:\nWhat l')
  $('typed').focus({ preventScroll: true })
}

// ---- The model of a server -----------------------------------------------------------------------------------

const ofServer = ask => async text => {
  const { n, p } = await ask(text), { kind, context } = contents
  return { p, note: n > context ? `It sees the last ${context} ${kind}.` : '' }
}

// ---- What is shown -------------------------------------------------------------------------------------------

function unknown(text) { // a character that the model does not know, if the page can tell
  const chars = contents.chars && new Set(contents.chars)
  if (chars) for (const char of text) if (!chars.has(char)) return char
}

async function draw() { // → what comes next; null if there is nothing to say, undefined if nobody waits for it any more
  const asking = ++asks, text = $('typed').value
  let said = { p: null, note: 'Type something.' }
  const wrong = unknown(text)
  if (wrong) said.note = `The model has never seen ‘${shown(wrong)}’. It knows A to Z, a to z, spaces, new lines and some signs.`
  else if (text) {
    try { said = await says(text) } catch (e) { said = { p: null, note: e.message } }
  }
  if (asking !== asks) return
  say(said.note)
  const { p } = said
  fill($('typed-bars'), p ? likeliest(p, 8) : [], contents.signs, { model: ['the model', p] })
  if (p) hear(() => `Next: ${told(p, contents.signs, 4)}.`)
  return p
}

function drawn(p) { // a character by its probability
  let left = Math.random()
  const i = p.findIndex(share => (left -= share) < 0)
  return contents.chars[i < 0 ? likeliest(p, 1)[0] : i]
}

function stop() {
  clearTimeout(writing)
  writing = 0
  $('write').setAttribute('aria-pressed', 'false')
  $('write').textContent = 'Let it write on'
}

async function writeOn() {
  const p = await draw(), typed = $('typed')
  if (p === null) return stop()
  if (!p || !writing) return
  typed.value += drawn(p)
  typed.scrollTop = typed.scrollHeight
  writing = setTimeout(writeOn, 60)
}

function show(text) { // to begin with
  $('load-model').hidden = true
  $('typing-inside').hidden = false
  $('typed').value = text
  draw()
}

export function offerTyping(of, ask, find) { // ask: a server, if there is one; find: told the text whose strings are wanted
  contents = of
  $('find').addEventListener('click', () => find($('typed').value))
  $('load-model').addEventListener('click', begin)
  $('typed').addEventListener('input', () => { stop(); draw() })
  $('write').hidden = contents.kind !== 'characters' // a token may be a part of a character
  $('write').addEventListener('click', () => {
    if (writing) return stop()
    $('write').setAttribute('aria-pressed', 'true')
    $('write').textContent = 'Stop'
    writing = setTimeout(writeOn)
  })
  if (!ask) return
  says = ofServer(ask)
  $('about-typing').textContent = `The model says which ${contents.kind.slice(0, -1)} comes next, after every key.`
  show(contents.about ? contents.prompts[0].text : 'ROMEO:\nWhat l')
}
