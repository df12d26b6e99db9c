// What the parts of the page are made of.
export const $ = id => document.getElementById(id)
const SIGNS = { '\n': '↵', '\t': '⇥' }
const hex = char => char.codePointAt().toString(16).toUpperCase().padStart(4, '0')
// a text in one line; what has no picture of its own has a sign, as in core.py
export const shown = s => s.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, char =>
  SIGNS[char] ?? (char < ' ' ? String.fromCharCode(0x2400 + char.charCodeAt()) : `⟨U+${hex(char)}⟩`))
export const ending = (text, n) => Array.from(text.slice(-2 * n)).slice(-n).join('') // its last n characters, none cut in two
const AROUND = 500 // characters on either side are enough, in a text without lines
export function line(whole, begin, end) { // of a text, where a string stands
  const before = whole.slice(Math.max(0, begin - AROUND), begin), after = whole.slice(end, end + AROUND)
  const first = before.lastIndexOf('\n') + 1, last = after.indexOf('\n')
  const found = before.slice(first) + whole.slice(begin, end) + (last < 0 ? after : after.slice(0, last))
  return (first || begin <= AROUND ? '' : '…') + found.split('\n').map(shown).join('\n') +
    (last >= 0 || end + AROUND >= whole.length ? '' : '…')
}

// What a sign is called, for those who hear the page: most screen readers pass over signs, and say a and A alike.
const NAMES = { '␣': 'space', '↵': 'new line', '.': 'full stop', ',': 'comma', ':': 'colon', ';': 'semicolon', '!': 'exclamation mark',
  '?': 'question mark', "'": 'apostrophe', '-': 'hyphen', '&': 'ampersand', $: 'dollar' }
export const called = sign => NAMES[sign] ?? (/^[A-Z]$/.test(sign) ? `capital ${sign}` : sign.replaceAll('␣', ' '))
export const percent = value => `${(100 * value).toFixed(value < .0995 ? 1 : 0)}%`
export const told = (p, signs, n) => likeliest(p, n).filter(i => p[i] > 0).map(i => `${called(signs[i])} ${percent(p[i])}`).join(', ')

let resting = 0
export function hear(what) { // what there is to say, once nothing moves any more: not at each step of a slider
  clearTimeout(resting)
  resting = setTimeout(() => { $('heard').textContent = what() }, 600)
}

export const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== 'string') element[name] = value
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}
export function likeliest(p, n) { // → numbers of the n largest, the largest first
  const best = []
  for (let i = 0; i < p.length; i++) {
    if (best.length === n && !(p[i] > p[best[n - 1]])) continue
    if (best.length === n) best.pop()
    let at = best.length
    while (at && p[i] > p[best[at - 1]]) at--
    best.splice(at, 0, i)
  }
  return best
}

// A parent's n children, made where there are too few: to change what is there is quicker than to make it anew.
export function children(parent, n, create) {
  while (parent.children.length > n) parent.lastChild.remove()
  while (parent.children.length < n) parent.append(create())
  return [...parent.children]
}

// Rows of a table, a token each: what it is, and a bar of each kind, { model: [who, probabilities], … }
export function fill(table, tokens, signs, kinds) {
  const row = () => make('tr', {}, make('th', { scope: 'row', class: 'char' }), make('td', {},
    ...Object.entries(kinds).map(([kind, [who]], i, { length }) => make('div', { class: 'bar', title: who },
      make('i', { class: kind }), make('span', { class: 'unseen' }, length > 1 ? `${who} ` : ''), ''))))
  children(table.tBodies[0], tokens.length, row).forEach(({ firstChild, lastChild }, n) => {
    firstChild.textContent = signs[tokens[n]]
    firstChild.setAttribute('aria-label', called(signs[tokens[n]]))
    Object.values(kinds).forEach(([, p], i) => {
      const value = p[tokens[n]], bar = lastChild.children[i]
      bar.firstChild.style.width = `${(80 * value).toFixed(2)}%`
      bar.lastChild.data = percent(value)
    })
  })
}
