// The compact index: which strings of the plays are nearest, nearly. compact.py says the same.

const bits = new Uint32Array(1), number = new Float32Array(bits.buffer)
function short(x) { // rounded to bfloat16, as the rows of the whole index are
  number[0] = x
  bits[0] = bits[0] + 0x7fff + (bits[0] >>> 16 & 1) & 0xffff0000
  return number[0]
}

export function cosine(a, b) {
  let both = 0, first = 0, second = 0
  for (let i = 0; i < a.length; i++) {
    both += a[i] * b[i]
    first += a[i] * a[i]
    second += b[i] * b[i]
  }
  return first && second ? both / Math.sqrt(first * second) : 0
}

function largest(x, k) { // → places of the k largest numbers, the largest first
  const least = x.slice().sort()[Math.max(0, x.length - k)], places = []
  for (let i = 0; i < x.length; i++) if (x[i] >= least) places.push(i)
  return places.sort((i, j) => x[j] - x[i] || i - j).slice(0, k)
}

export class Search {
  constructor(about, tensors, codes, text, chars) { // about: `compact` of the page's contents; codes: in pieces
    Object.assign(this, about, tensors, { codes, text, chars })
  }

  string(i) { return this.text.slice(this.places[i], this.places[i] + this.length) }

  own(prompt) { return this.places.indexOf(this.text.indexOf(prompt)) } // -1: the index does not have it

  vector(key) { return key.map((x, i) => short(x) - this.minus[i]) }

  table(vector) { // → what each byte adds to the cosine, for each value that it may have; what is the same for all
    const { basis, centroids, centre, bytes } = this, turned = basis.length / vector.length, size = turned / bytes
    const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0)) || 1, query = new Float64Array(turned)
    let constant = 0
    vector.forEach((x, d) => {
      constant += x / length * centre[d]
      for (let j = 0, at = d * turned; j < turned; j++) query[j] += x / length * basis[at + j]
    })
    const table = Float64Array.from({ length: 256 * bytes }, (_, entry) => {
      let sum = 0
      for (let j = 0, from = (entry >> 8) * size; j < size; j++) sum += query[from + j] * centroids[entry * size + j]
      return sum
    })
    return { table, constant }
  }

  approximate(vector) { // → a cosine with every string
    const { table, constant } = this.table(vector), { bytes, places } = this, found = new Float32Array(places.length)
    let i = 0
    for (const codes of this.codes) {
      for (let at = 0; at < codes.length; i++) {
        let sum = constant
        for (let entry = 0; entry < table.length; entry += 256) sum += table[entry + codes[at++]]
        found[i] = sum
      }
    }
    return found
  }

  // Finds the nearest strings → those that are to be ranked again, by their keys.
  begin(prompt, key) {
    this.prompt = prompt
    this.asked = this.vector(key)
    this.found = this.approximate(this.asked)
    const own = this.own(prompt)
    if (own >= 0) this.found[own] = -Infinity
    this.nearest = largest(this.found, Math.min(this.rule.k, this.found.length - (own >= 0)))
    return this.nearest.slice(0, this.again).map(i => ({ i, string: this.string(i) })).sort((a, b) => a.string < b.string ? -1 : 1)
  }

  // Ends it: what `begin` gave, and a key of each → what `decode` says of a prepared prompt, as far as it is known.
  end(candidates, keys) {
    const exact = candidates.map(({ i }, n) => ({ i, cosine: cosine(this.vector(keys[n]), this.asked), exact: true }))
    const others = this.nearest.slice(this.again).map(i => ({ i, cosine: this.found[i], exact: false }))
    const list = [...exact, ...others].sort((a, b) => b.cosine - a.cosine || a.i - b.i)
    const own = this.own(this.prompt), next = this.following([own, ...this.nearest].filter(i => i >= 0))
    return {
      own: next.get(own) ?? [],
      votes: [list.map(({ i, ...s }) => ({ ...s, place: this.places[i], next: next.get(i) }))],
    }
  }

  following(numbers) { // of strings → for each, what follows it in the plays: [[char, count], …]
    const { text, length, chars } = this, counts = new Map(numbers.map(i => [this.string(i), new Map()]))
    for (let place = 0; place + length < text.length; place++) {
      const found = counts.get(text.slice(place, place + length)), char = chars.indexOf(text[place + length])
      found?.set(char, (found.get(char) ?? 0) + 1)
    }
    return new Map(numbers.map(i => [i, [...counts.get(this.string(i))].sort((a, b) => a[0] - b[0])]))
  }
}
