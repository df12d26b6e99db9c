// A product of matrices in WebAssembly, assembled here: four numbers at a time, as every browser can.

// https://webassembly.github.io/spec/core/binary: numbers of variable length, and the few instructions that are used
const number = n => n < 128 ? [n] : [n & 127 | 128, ...number(n >>> 7)]
const signed = n => n < 64 ? [n] : [n & 127 | 128, ...signed(n >>> 7)]
const get = i => [0x20, i], set = i => [0x21, i], plus = n => [0x41, ...signed(n), 0x6a], SIMD = 0xfd
const load = (at, offset) => [...get(at), SIMD, 0, 0, ...number(offset)]   // four numbers
const spread = (at, offset) => [...get(at), SIMD, 9, 0, ...number(offset)] // one number, four times
const store = (at, offset, what) => [...get(at), ...get(what), SIMD, 11, 0, ...number(offset)]
const TIMES = [SIMD, 0xe6, 1], PLUS = [SIMD, 0xe4, 1]
const section = (id, ...bytes) => [id, ...number(bytes.length), ...bytes]
const text = s => [s.length, ...new TextEncoder().encode(s)]

// tile(x, w, bias, y), all places in memory: eight columns of x times four rows of w make four rows of y.
// x is (width, 8), w is (4, width), bias is (4,), y is (4, 8).
function module(width) {
  const [x, w, bias, y, end, left, right, one] = Array(8).keys(), sums = 8, at = (row, half) => sums + 2 * row + half
  const rows = [0, 1, 2, 3], halves = [0, 1], STEPS = 4 // of the loop at a time
  const body = [
    2, 1, 0x7f, 11, 0x7b, // local variables: a place, and eleven times four numbers
    ...rows.flatMap(r => halves.flatMap(h => [...spread(bias, 4 * r), ...set(at(r, h))])),
    ...get(x), ...plus(32 * width), ...set(end),
    0x03, 0x40, // a loop
    ...[...Array(STEPS).keys()].flatMap(i => [
      ...load(x, 32 * i), ...set(left), ...load(x, 32 * i + 16), ...set(right),
      ...rows.flatMap(r => [...spread(w, 4 * (width * r + i)), ...set(one), ...halves.flatMap(h =>
        [...get(one), ...get(left + h), ...TIMES, ...get(at(r, h)), ...PLUS, ...set(at(r, h))])]),
    ]),
    ...get(w), ...plus(4 * STEPS), ...set(w),
    ...get(x), ...plus(32 * STEPS), 0x22, x, ...get(end), 0x49, 0x0d, 0, 0x0b, // on, while x is before the end
    ...rows.flatMap(r => halves.flatMap(h => store(y, 32 * r + 16 * h, at(r, h)))),
    0x0b,
  ]
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, 1, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 0),        // the type of the function
    ...section(2, 1, ...text('js'), ...text('memory'), 2, 0, 0), // memory comes from outside
    ...section(3, 1, 0), ...section(7, 1, ...text('tile'), 0, 0), // the function, and its name
    ...section(10, 1, ...number(body.length), ...body),
  ])
}

export const tile = (width, memory) => // width: a multiple of four
  new WebAssembly.Instance(new WebAssembly.Module(module(width)), { js: { memory } }).exports.tile
