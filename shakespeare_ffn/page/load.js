// What the page fetches; where that fails, the error is for its readers.

async function got(url) { // → response
  const name = url.split('?')[0]
  const response = await fetch(url).catch(() => { throw new Error(`${name} did not come. Is there a connection?`) })
  if (response.ok) return response
  if (response.headers.get('content-type')?.startsWith('text/plain')) throw new Error(await response.text()) // our own server's words
  throw new Error(`${name} did not come (${response.status}). In a copy of your own, \`make play\` writes it.`)
}

async function whole(url, read) { // a response → what is read of it
  const response = await got(url)
  try { return await read(response) }
  catch { throw new Error(`${url.split('?')[0]} came damaged or in part. Load the page again.`) }
}

export const json = url => whole(url, response => response.json())

export const unpacked = url => whole(url, async response => // a compressed file → its bytes
  new Uint8Array(await new Response(response.body.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer()))

export const large = (url, size, progress) => // a file of so many bytes → ArrayBuffer; progress: told how many have come
  whole(url, response => arrived(response, size, progress))

const coming = new Map()
export function once(url, size, progress) { // the same; what is asked for twice, by typing and by the index, comes once
  if (!coming.has(url)) coming.set(url, large(url, size, progress))
  return coming.get(url).then(all => { progress(size); return all }, e => { coming.delete(url); throw e })
}

async function arrived({ body }, size, progress) {
  const bytes = new Uint8Array(size)
  let n = 0
  for (const reader = body.getReader(); ;) {
    const { done, value } = await reader.read()
    if (done) break
    bytes.set(value, n) // an error, if there is no room
    progress(n += value.length)
  }
  if (n < size) throw new Error()
  return bytes.buffer
}
