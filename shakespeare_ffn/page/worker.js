// Works beside the page, so that it stays smooth: asked by nearby.js, a name and what it takes; answers each in turn.
import { Keys } from './keys.js'
import { Model, tensorsOf } from './model.js'
import { Search } from './search.js'

let model, keys, search

const jobs = {
  take(weights) {
    model = new Model(weights)
    keys = new Keys(model, 64)
  },
  open(about, tensors, codes, text) {
    search = new Search(about, tensorsOf(tensors).tensors, codes.map(part => new Uint8Array(part)), text, model.chars)
  },
  says: prompt => model.next(model.tokens(prompt)),
  keys: (strings, block) => keys.of(strings.map(s => model.tokens(s)), block),
  begin: (prompt, block) => search.begin(prompt, keys.of([model.tokens(prompt)], block)[0]),
  end: (candidates, found) => search.end(candidates, found),
}

addEventListener('message', ({ data: [id, name, ...values] }) => {
  try { postMessage([id, jobs[name](...values)]) }
  catch (e) { postMessage([id, null, e.message]) }
})
