// The keys of many strings at once: feed-forward outputs at their last characters. corpus_keys.py says the same.
import { tile } from './kernel.js'

const LANES = 8, TOGETHER = 8 // columns of a tile, and groups of columns that a row of weights meets while it is near

// The distinct prefixes of strings, a node each → for each node its token and the nodes up to it; the last of each string.
export function tree(strings) { // of tokens, sorted, so that those that begin alike stand together
  const nodes = [], leaves = []
  let path = []
  strings.forEach((string, i) => {
    let same = 0
    while (i && same < string.length && string[same] === strings[i - 1][same]) same++
    path = path.slice(0, same)
    for (const token of string.slice(same)) {
      path = [...path, nodes.length]
      nodes.push({ token, path })
    }
    leaves.push(path.at(-1))
  })
  return { nodes, leaves }
}

// Activations stand in groups of eight nodes, feature by feature: this is where a node's first one is.
const place = (node, width) => (node >> 3) * LANES * width + (node & 7)

export class Keys {
  constructor(model, strings) { // strings: how many at a time, of ten characters
    const most = LANES * Math.ceil(10 * strings / LANES) // nodes
    Object.assign(this, { model, strings })
    const { w, width } = model, names = Object.keys(w).filter(name => /blocks.*(qkv|proj|fc|out)\./.test(name))
    const sizes = { x: width, normed: width, qkv: 3 * width, sa: width, hidden: 4 * width, ffwd: width }
    const numbers = names.reduce((n, name) => n + w[name].length, 4 * width) + most * Object.values(sizes).reduce((a, b) => a + b)
    const memory = new WebAssembly.Memory({ initial: Math.ceil(numbers / 2 ** 14) })
    let used = 0
    const room = n => new Float32Array(memory.buffer, 4 * (used += n) - 4 * n, n)
    this.zeros = room(4 * width)
    for (const name of names) {
      this[name] = room(w[name].length)
      this[name].set(w[name])
      w[name] = this[name] // so that there is one of it
    }
    for (const [name, size] of Object.entries(sizes)) this[name] = room(most * size)
    this.tiles = { [width]: tile(width, memory), [4 * width]: tile(4 * width, memory) }
  }

  product(name, x, y, width, n) { // x (n, width) → y (n, rows of the matrix)
    const matrix = this[`${name}.weight`], bias = this[`${name}.bias`] ?? this.zeros
    const rows = matrix.length / width, groups = Math.ceil(n / LANES), go = this.tiles[width]
    for (let first = 0; first < groups; first += TOGETHER) {
      const last = Math.min(first + TOGETHER, groups)
      for (let row = 0; row < rows; row += 4) {
        for (let g = first; g < last; g++) {
          go(x.byteOffset + 32 * g * width, matrix.byteOffset + 4 * row * width, bias.byteOffset + 4 * row,
            y.byteOffset + 32 * (g * rows + row))
        }
      }
    }
  }

  norm(name, n) { // LayerNorm of x
    const { x, normed, model: { w, width } } = this, weight = w[`${name}.weight`], bias = w[`${name}.bias`]
    for (let node = 0; node < n; node++) {
      const begin = place(node, width), end = begin + LANES * width
      let mean = 0, variance = 0
      for (let i = begin; i < end; i += LANES) mean += x[i]
      mean /= width
      for (let i = begin; i < end; i += LANES) variance += (x[i] - mean) ** 2
      const scale = 1 / Math.sqrt(variance / width + 1e-5)
      for (let i = begin, f = 0; i < end; i += LANES, f++) normed[i] = (x[i] - mean) * scale * weight[f] + bias[f]
    }
  }

  attend(nodes) { // every node to those up to it
    const { qkv, sa, model: { width, heads } } = this, size = width / heads
    nodes.forEach(({ path }, node) => {
      const own = place(node, 3 * width), to = place(node, width), seen = path.map(p => place(p, 3 * width))
      for (let h = 0; h < heads; h++) {
        const begin = LANES * h * size, end = begin + LANES * size
        const scores = seen.map(from => {
          let s = 0
          for (let i = begin; i < end; i += LANES) s += qkv[own + i] * qkv[from + LANES * width + i]
          return s / Math.sqrt(size)
        })
        const most = Math.max(...scores), weights = scores.map(s => Math.exp(s - most))
        const total = weights.reduce((a, b) => a + b)
        for (let i = begin; i < end; i += LANES) {
          let y = 0
          for (let j = 0; j < seen.length; j++) y += weights[j] * qkv[seen[j] + 2 * LANES * width + i]
          sa[to + i] = y / total
        }
      }
    })
  }

  embed(nodes) {
    const { x, model: { w, width } } = this
    nodes.forEach(({ token, path }, node) => {
      for (let i = 0, at = place(node, width); i < width; i++, at += LANES) {
        x[at] = w['token_embedding.weight'][token * width + i] + w['position_embedding.weight'][(path.length - 1) * width + i]
      }
    })
  }

  of(strings, block) { // sorted strings of tokens → a key of each
    const found = []
    for (let i = 0; i < strings.length; i += this.strings) found.push(...this.some(strings.slice(i, i + this.strings), block))
    return found
  }

  some(strings, block) { // the same, of as many as there is room for
    const { x, normed, qkv, sa, hidden, ffwd, model: { width } } = this, { nodes, leaves } = tree(strings), n = nodes.length
    const filled = LANES * Math.ceil(n / LANES)
    this.embed(nodes)
    for (let b = 0; b <= block; b++) {
      this.norm(`blocks.${b}.ln1`, n)
      this.product(`blocks.${b}.sa.qkv`, normed, qkv, width, n)
      this.attend(nodes)
      this.product(`blocks.${b}.sa.proj`, sa, ffwd, width, n)
      for (let i = 0; i < filled * width; i++) x[i] += ffwd[i]
      this.norm(`blocks.${b}.ln2`, n)
      this.product(`blocks.${b}.ffwd.fc`, normed, hidden, width, n)
      for (let i = 0; i < filled * 4 * width; i++) hidden[i] = Math.max(0, hidden[i])
      this.product(`blocks.${b}.ffwd.out`, hidden, ffwd, 4 * width, n)
      for (let i = 0; i < filled * width; i++) x[i] += ffwd[i]
    }
    return leaves.map(leaf => Float32Array.from({ length: width }, (_, i) => ffwd[place(leaf, width) + LANES * i]))
  }
}
