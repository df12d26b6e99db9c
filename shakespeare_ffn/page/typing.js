// Text of one's own: the model says what comes next, after every key, and writes on if it is asked to.
import { load } from './model.js'
import { $, bar, likeliest, make, sign } from './show.js'

let model = null, writing = 0 // the timer of the next character, 0 if it does not write

const say = message => { $('typing-message').textContent = message }

function unknown(text) { // → the first character that the model has not seen, or ''
  return Array.from(text).find(char => !model.chars.includes(char)) ?? ''
}

// Where what it reads begins. It sees no more than its context; were this to move with every character, all would
// have to be read again each time. So it moves in steps of half a context.
function start(length) {
  const step = model.context / 2
  return Math.max(0, Math.ceil((length - model.context) / step) * step)
}

function probabilities() { // of what comes after the text; null if there is nothing to say
  const text = $('typed').value, wrong = unknown(text), from = start(text.length)
  if (wrong) say(`The model has never seen ‘${wrong}’. It knows A to Z, a to z, spaces, new lines and some signs.`)
  else if (text) say(from ? `It sees the last ${text.length - from} characters.` : '')
  else say('Type something.')
  return wrong || !text ? null : model.next(model.tokens(text.slice(from)))
}

function draw() {
  const p = probabilities()
  $('typed-bars').tBodies[0].replaceChildren(...(p ? likeliest(p, 8) : []).map(i => make('tr', {},
    make('th', { scope: 'row', class: 'char' }, sign(model.chars[i])), make('td', {}, bar('model', 'the model', p[i])))))
  return p
}

function drawn(p) { // a character by its probability
  let left = Math.random()
  const i = p.findIndex(share => (left -= share) < 0)
  return model.chars[i < 0 ? likeliest(p, 1)[0] : i]
}

function stop() {
  clearTimeout(writing)
  writing = 0
  $('write').setAttribute('aria-pressed', 'false')
  $('write').textContent = 'Let it write on'
}

function writeOn() {
  const p = draw(), typed = $('typed')
  if (!p) return stop()
  typed.value += drawn(p)
  typed.scrollTop = typed.scrollHeight
  writing = setTimeout(writeOn, 60)
}

async function begin(url) {
  $('load-model').disabled = true
  $('loading').hidden = false
  say('')
  try { model = await load(url, share => { if (share) $('loading').value = share }) }
  catch (e) {
    say(`${e.message} Try again.`)
    $('load-model').disabled = false
    return
  }
  finally { $('loading').hidden = true }
  $('load-model').hidden = true
  $('typing-inside').hidden = false
  $('typed').value = 'ROMEO:\nWhat l'
  $('typed').focus({ preventScroll: true })
  draw()
}

export function offerTyping(url, find) { // url: of the weights; find: told the text whose strings are wanted
  $('find').addEventListener('click', () => find($('typed').value))
  $('load-model').addEventListener('click', () => begin(url))
  $('typed').addEventListener('input', () => { stop(); draw() })
  $('write').addEventListener('click', () => {
    if (writing) return stop()
    $('write').setAttribute('aria-pressed', 'true')
    $('write').textContent = 'Stop'
    writeOn()
  })
}
