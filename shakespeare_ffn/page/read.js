// Reads what nbs/21_explore.ipynb tells. All numbers of a prompt are whole, from 0 up, seven bits a byte.

async function complaint(response) { // in the words of our own server, if it is one
  const own = response.headers.get('content-type')?.startsWith('text/plain')
  return own ? response.text() : `${response.url} could not be read (${response.status})`
}

async function unpacked(response) { // a compressed response → ArrayBuffer
  if (!response.ok) throw new Error(await complaint(response))
  return new Response(response.body.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer()
}

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

  sparse() { // → [[char, count], …]
    let char = 0
    return Array.from({ length: this.next() }, () => [char += this.next(), this.next()])
  }

  string(contents, text) { // → where it stands first, and what follows it
    const n = this.next(), place = Math.floor(n / 2)
    return { place, next: n % 2 ? this.sparse() : [[contents.chars.indexOf(text[place + 10]), 1]] }
  }

  list(contents, text) { // → strings, the nearest first
    let far = 0
    return Array.from({ length: this.next() }, () => {
      far += this.next()
      return { cosine: 1 - far / contents.steps, ...this.string(contents, text) }
    })
  }

  block(contents) { // → for each edge, the lowest first: how many strings lie above it, and counts of what follows
    let n = 0
    const counts = new Float64Array(contents.chars.length)
    return contents.edges.map(() => {
      n += this.next()
      for (const [char, count] of this.sparse()) counts[char] += count
      return { n, counts: counts.slice() }
    }).reverse()
  }
}

export function decode(bytes, contents, text) { // → all that is known of a prompt
  const numbers = new Numbers(bytes), blocks = contents.tuned.thresholds.length
  return {
    model: Float64Array.from(numbers.take(contents.chars.length), n => n / 65535),
    own: numbers.sparse(),
    above: Array.from({ length: blocks }, () => numbers.block(contents)),
    lists: Array.from({ length: blocks }, () => numbers.list(contents, text)),
    votes: contents.nearest.votes.map(() => numbers.list(contents, text)),
  }
}

export async function open(folder) { // → contents, and a function that reads a prompt
  const response = await fetch(`${folder}/contents.json`)
  if (!response.ok) throw new Error('the data of this page is missing; `make play` writes it')
  const contents = await response.json()
  const text = new TextDecoder().decode(await unpacked(await fetch(`${folder}/text.bin`)))
  const kept = new Map(), asked = prompt => `ask.bin?prompt=${encodeURIComponent(prompt.text)}`
  async function read(prompt) { // one of the contents' from its file; any, if there is a server that can be asked
    if (!kept.has(prompt.text)) {
      const name = contents.ask ? asked(prompt) : `${contents.prompts.indexOf(prompt)}.bin`
      const response = await fetch(`${folder}/${name}`)
      kept.set(prompt.text, decode(new Uint8Array(await unpacked(response)), contents, text))
    }
    return kept.get(prompt.text)
  }
  return { contents, text, read }
}
