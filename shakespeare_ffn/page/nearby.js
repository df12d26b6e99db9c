// The nearest strings of any prompt, by a compact index that this page loads, and two workers that search it.
import { large, once } from './load.js'

class Colleague { // a worker that answers promises
  constructor() {
    this.worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' })
    this.waiting = []
    this.worker.addEventListener('error', e => { // such as a browser that knows no modules in workers
      this.waiting.forEach(({ reject }) => reject(new Error(e.message || 'this browser cannot search beside the page')))
    })
    this.worker.addEventListener('message', ({ data: [id, answer, error] }) => {
      const { resolve, reject } = this.waiting[id]
      delete this.waiting[id]
      if (error) reject(new Error(error)); else resolve(answer)
    })
  }

  ask(name, values, given = []) { // given: buffers that are its own from now on
    return new Promise((resolve, reject) => {
      this.worker.postMessage([this.waiting.push({ resolve, reject }) - 1, name, ...values], given)
    })
  }
}

// about: what the page's contents say of the compact index; progress: told the share that has arrived
export async function open(folder, { contents, text }, progress) { // → a function that answers a prompt
  const about = contents.compact, [names, sizes] = [Object.keys(about.sizes), Object.values(about.sizes)]
  const all = sizes.reduce((a, b) => a + b), come = sizes.map(() => 0)
  const [weights, tensors, ...codes] = await Promise.all(names.map((name, i) => (i ? large : once)(`${folder}/${name}`, sizes[i], n => { // the first is the model
    come[i] = n
    progress(come.reduce((a, b) => a + b) / all)
  })))
  const first = new Colleague(), second = new Colleague(), [{ block }] = about.rule.votes
  await Promise.all([first.ask('take', [weights]), second.ask('take', [weights])])
  await first.ask('open', [about, tensors, codes, text.whole], [tensors, ...codes])
  async function answer(prompt) {
    const [candidates, model] = await Promise.all([first.ask('begin', [prompt, block]), second.ask('says', [prompt])])
    const strings = candidates.map(c => c.string), half = strings.length >> 1
    const keys = await Promise.all([first.ask('keys', [strings.slice(0, half), block]),
      second.ask('keys', [strings.slice(half), block])])
    return { model, ...await first.ask('end', [candidates, keys.flat()]) }
  }
  let last = Promise.resolve() // one prompt after the other
  return prompt => last = last.catch(() => {}).then(() => answer(prompt))
}
