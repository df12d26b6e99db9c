// Reads what nbs/21_explore.ipynb tells. All numbers of a prompt are whole, from 0 up, seven bits a byte.

import { json, unpacked } from './load.js'
import { ending } from './show.js'

export function* varints(bytes) {
  let n = 0, scale = 1
  for (const byte of bytes) {
    n += (byte & 127) * scale
    scale *= 128
    if (byte < 128) { yield n; n = 0; scale = 1 }
  }
}

// Takes numbers one after the other, in the order in which they were written.
class Numbers {
  constructor(bytes) { this.all = varints(bytes) }
  next() { return this.all.next().value }
  take(n) { return Array.from({ length: n }, () => this.next()) }

  sparse() { // → [[token, count], …]
    let token = 0
    return Array.from({ length: this.next() }, () => [token += this.next(), this.next()])
  }

  probabilities(contents) { return Float64Array.from(this.take(contents.signs.length), n => n / contents.parts) }

  string(contents, text) { // → where it stands first, and what follows it
    const n = this.next(), place = Math.floor(n / 2)
    return { place, next: n % 2 ? this.sparse() : [[text.token(place + contents.length), 1]] }
  }

  list(contents, text) { // → strings, the nearest first
    let far = 0
    return Array.from({ length: this.next() }, () => {
      far += this.next()
      return { cosine: 1 - far / contents.steps, ...this.string(contents, text) }
    })
  }

  block(contents) { // → for each edge, the lowest first: how many strings lie above it, and what follows those below the next
    let n = 0
    return contents.edges.map(() => ({ n: n += this.next(), next: this.sparse() })).reverse()
  }
}

export function decode(bytes, contents, text) { // → all that is known of a prompt
  const numbers = new Numbers(bytes), blocks = contents.tuned.thresholds.length
  return {
    tokens: numbers.take(contents.length),
    model: numbers.probabilities(contents),
    own: numbers.sparse(),
    above: Array.from({ length: blocks }, () => numbers.block(contents)),
    lists: Array.from({ length: blocks }, () => numbers.list(contents, text)),
    votes: contents.nearest.votes.map(() => numbers.list(contents, text)),
  }
}

// The text in tokens, from number 0 on: where each begins, and which it is. Behind the last one all begin at the end.
export function inTokens(whole, contents, bytes = null) { // bytes: that tell of the tokens, where they are not characters
  if (!bytes) return { whole, begin: i => Math.min(i, whole.length), token: i => contents.chars.indexOf(whole[i]) }
  const told = Uint32Array.from(varints(bytes)), n = told.length / 2, begins = new Uint32Array(n + 1)
  for (let i = 0; i < n; i++) begins[i + 1] = begins[i] + told[2 * i + 1]
  return { whole, begin: i => begins[Math.min(i, n)], token: i => i < n ? told[2 * i] : -1 }
}

async function openText(folder, contents) {
  const whole = new TextDecoder('utf-8', { ignoreBOM: true }).decode(await unpacked(`${folder}/text.bin`))
  return inTokens(whole, contents, contents.split ? await unpacked(`${folder}/tokens.bin`) : null)
}

export async function says(folder, contents, text) { // a server → how many tokens a text has, and what comes next
  const asks = new URLSearchParams({ prompt: ending(text, 10_000) }) // more is no address that a server reads
  const numbers = new Numbers(await unpacked(`${folder}/says.bin?${asks}`))
  return { n: numbers.next(), p: numbers.probabilities(contents) }
}

const MOST = 20 // answers of a server that are kept

export async function open(folder) { // → contents, and a function that reads a prompt
  const contents = await json(`${folder}/contents.json`), text = await openText(folder, contents)
  const kept = new Map(), asked = ({ text }) => `ask.bin?${new URLSearchParams({ prompt: text })}`
  async function read(prompt) { // one of the contents' from its file; any, if there is a server that can be asked
    if (!kept.has(prompt.text)) {
      const name = contents.ask ? asked(prompt) : `${contents.prompts.indexOf(prompt)}.bin`
      const bytes = await unpacked(`${folder}/${name}`)
      if (contents.ask && kept.size >= MOST) kept.delete(kept.keys().next().value)
      kept.set(prompt.text, decode(bytes, contents, text))
    }
    return kept.get(prompt.text)
  }
  return { contents, text, read }
}
