// What the parts of the page are made of.
export const $ = id => document.getElementById(id)
const SIGNS = { '\n': '⏎', ' ': '␣' }
export const shown = s => s.replace(/\n/g, '⏎')                       // in a string
export const sign = char => SIGNS[char] ?? char                        // alone
export const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== 'string') element[name] = value
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}
export const likeliest = (p, n) => [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, n)

export function bar(kind, who, value) {
  const percent = `${(100 * value).toFixed(value < .0995 ? 1 : 0)}%`
  return make('div', { class: 'bar', title: `${who}: ${percent}` },
    make('i', { class: kind, style: `width: ${(80 * value).toFixed(2)}%` }), percent)
}
