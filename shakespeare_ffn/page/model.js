// The model itself, a character at a time, in plain typed arrays: model.py says the same.

// Half-precision numbers as single ones; there are only 65,536 of them.
let singles = null
function ofHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  return exponent === 31 ? (fraction ? NaN : sign * Infinity) : sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

const KINDS = { F32: Float32Array, I32: Int32Array }
export function tensorsOf(buffer) { // of a safetensors file → name → numbers, metadata
  const length = Number(new DataView(buffer).getBigUint64(0, true))
  const { __metadata__: metadata, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)))
  singles ??= Float32Array.from({ length: 65536 }, (_, bits) => ofHalf(bits))
  const tensors = {}
  for (const [name, { dtype, data_offsets: [begin, end] }] of Object.entries(entries)) {
    const bytes = buffer.slice(8 + length + begin, 8 + length + end)
    if (dtype === 'F16') {
      const halves = new Uint16Array(bytes), x = tensors[name] = new Float32Array(halves.length)
      for (let i = 0; i < x.length; i++) x[i] = singles[halves[i]]
    } else tensors[name] = new KINDS[dtype](bytes)
  }
  return { tensors, metadata }
}

function product(matrix, x, bias) { // (n, x.length) by rows → (n,)
  const width = x.length, n = matrix.length / width, y = new Float32Array(n)
  for (let row = 0, at = 0; row < n; row++) {
    let a = 0, b = 0, c = 0, d = 0 // four sums, so that the processor need not wait for one
    for (let i = 0; i < width; i += 4, at += 4) {
      a += matrix[at] * x[i]
      b += matrix[at + 1] * x[i + 1]
      c += matrix[at + 2] * x[i + 2]
      d += matrix[at + 3] * x[i + 3]
    }
    y[row] = a + b + c + d + (bias ? bias[row] : 0)
  }
  return y
}

function normed(x, weight, bias) { // LayerNorm
  let mean = 0, variance = 0
  for (const v of x) mean += v / x.length
  for (const v of x) variance += (v - mean) ** 2 / x.length
  const scale = 1 / Math.sqrt(variance + 1e-5)
  return x.map((v, i) => (v - mean) * scale * weight[i] + bias[i])
}

export function softmax(x) {
  const most = x.reduce((a, b) => Math.max(a, b), -Infinity), y = Float64Array.from(x, v => Math.exp(v - most))
  const total = y.reduce((a, b) => a + b, 0)
  return y.map(v => v / total)
}

export class Model {
  constructor(buffer) {
    const { tensors, metadata } = tensorsOf(buffer)
    this.w = tensors
    this.chars = metadata.chars
    this.heads = Number(metadata.n_head)
    this.width = tensors['ln_f.weight'].length
    this.context = tensors['position_embedding.weight'].length / this.width
    this.layers = Object.keys(tensors).filter(name => name.endsWith('.ln1.weight')).length
    this.read = [] // tokens that have been read, and for each of them what later ones attend to
    this.past = []
  }

  tokens(text) { return Array.from(text, char => this.chars.indexOf(char)) } // -1: unknown

  attend(q, seen) { // seen: keys and values of this and all earlier positions
    const size = this.width / this.heads, y = new Float32Array(this.width)
    for (let h = 0; h < this.heads; h++) {
      const from = h * size
      const scores = softmax(seen.map(({ k }) => {
        let s = 0
        for (let i = from; i < from + size; i++) s += q[i] * k[i]
        return s / Math.sqrt(size)
      }))
      seen.forEach(({ v }, j) => { for (let i = from; i < from + size; i++) y[i] += scores[j] * v[i] })
    }
    return y
  }

  step(token, position) { // reads one more token → logits of what follows
    const { w, width } = this, past = []
    let x = Float32Array.from({ length: width }, (_, i) =>
      w['token_embedding.weight'][token * width + i] + w['position_embedding.weight'][position * width + i])
    for (let b = 0; b < this.layers; b++) {
      const of = name => w[`blocks.${b}.${name}`]
      const qkv = product(of('sa.qkv.weight'), normed(x, of('ln1.weight'), of('ln1.bias')))
      const [q, k, v] = [0, 1, 2].map(i => qkv.subarray(i * width, (i + 1) * width))
      past.push({ k, v })
      const seen = [...this.past.slice(0, position).map(p => p[b]), past[b]]
      const sa = product(of('sa.proj.weight'), this.attend(q, seen), of('sa.proj.bias'))
      x = x.map((value, i) => value + sa[i])
      const hidden = product(of('ffwd.fc.weight'), normed(x, of('ln2.weight'), of('ln2.bias')), of('ffwd.fc.bias'))
      const ffwd = product(of('ffwd.out.weight'), hidden.map(value => Math.max(0, value)), of('ffwd.out.bias'))
      x = x.map((value, i) => value + ffwd[i])
    }
    this.past[position] = past
    return product(w['lm_head.weight'], normed(x, w['ln_f.weight'], w['ln_f.bias']), w['lm_head.bias'])
  }

  next(tokens) { // the last of them that fit → probabilities; what was read before is not read again
    const some = tokens.slice(-this.context)
    let same = 0
    while (same < some.length - 1 && some[same] === this.read[same]) same++
    let logits
    for (let i = same; i < some.length; i++) logits = this.step(some[i], i)
    this.read = some.slice()
    return softmax(logits)
  }
}
