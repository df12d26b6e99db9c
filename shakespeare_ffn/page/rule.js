// The two rules of the package, on what is known of a prompt: similar_space.py and nearest_strings.py say the same.

export const sum = x => x.reduce((a, b) => a + b, 0)
const zeros = n => new Float64Array(n)

export function normalised(x) { // zeros stay zeros
  const total = sum(x)
  return total > 0 ? x.map(v => v / total) : x
}

export function hellinger(p, q) {
  let total = 0
  for (let i = 0; i < p.length; i++) total += (Math.sqrt(p[i]) - Math.sqrt(q[i])) ** 2
  return Math.sqrt(total / 2)
}

function added(counts, pairs, weight = 1) {
  for (const [token, count] of pairs) counts[token] += count * weight
  return counts
}

// What a block counts above a threshold: the nearest edge from below, as the page's sliders have it.
export function counted(prompt, contents, block, threshold, withItself) {
  const at = contents.edges.findIndex(edge => edge > threshold - 1e-9)
  const bins = prompt.above[block].slice(at < 0 ? -1 : at), counts = zeros(contents.signs.length)
  for (const { next } of bins) added(counts, next)
  return withItself ? { n: bins[0].n + 1, counts: added(counts, prompt.own) } : { n: bins[0].n, counts }
}

// { thresholds, weights } → what is predicted, and for each block what it says, how many strings it has, its share
export function byThresholds(prompt, contents, rule, withItself) {
  const blocks = rule.thresholds.map((t, b) => counted(prompt, contents, b, t, withItself))
  const total = zeros(contents.signs.length)
  blocks.forEach(({ counts }, b) => counts.forEach((v, i) => { total[i] += v * rule.weights[b] }))
  const all = sum(total)
  return {
    empty: all === 0,
    says: all > 0 ? normalised(total) : Float64Array.from(contents.unigram),
    blocks: blocks.map(({ n, counts }, b) => ({
      block: b, n, says: normalised(counts), share: all > 0 ? rule.weights[b] * sum(counts) / all : 0,
      list: prompt.lists[b].filter(s => s.cosine > rule.thresholds[b]),
    })),
  }
}

// { k, votes: [{ block, beta, power, share }] } → the same
export function byNearest(prompt, contents, rule, withItself) {
  const itself = { cosine: 1, next: prompt.own }
  const blocks = rule.votes.map((vote, v) => {
    const others = prompt.votes[v].slice(0, rule.k - (withItself ? 1 : 0))
    const list = withItself ? [itself, ...others] : others
    const weights = list.map(s => Math.exp(vote.beta * (s.cosine - list[0].cosine)))
    const counts = zeros(contents.signs.length)
    list.forEach((s, i) => added(counts, s.next, weights[i]))
    const says = normalised(normalised(counts).map(p => p ** vote.power))
    return { block: vote.block, n: list.length, says, share: vote.share, list: others }
  })
  const shares = normalised(blocks.map(b => sum(b.says) > 0 ? b.share : 0))
  const says = zeros(contents.signs.length)
  blocks.forEach((b, i) => { b.share = shares[i]; b.says.forEach((p, t) => { says[t] += p * shares[i] }) })
  const empty = sum(shares) === 0
  return { empty, says: empty ? Float64Array.from(contents.unigram) : says, blocks }
}

export const predict = (prompt, contents, rule, withItself) => // what the corpus does not have cannot be with itself
  (rule.votes ? byNearest : byThresholds)(prompt, contents, rule, withItself && prompt.own.length > 0)
