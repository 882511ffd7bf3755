import type { ServerResponse } from 'node:http'

/**
 * Has a response close its connection, and say so in its header. Node does so for `shouldKeepAlive = false` only if the program sets no
 * `Connection` header.
 */
export function closeAfter(response: ServerResponse): void {
  response.shouldKeepAlive = false
  // Node calls it for an implicit header too.
  const writeHead = response.writeHead.bind(response) as (...args: unknown[]) => ServerResponse
  const writeClosingHead = (status: number, ...rest: unknown[]): ServerResponse => {
    if (status < 200 || response.headersSent) return writeHead(status, ...rest)
    const text = typeof rest[0] === 'string' ? [rest[0]] : []
    const headers = rest[text.length] ?? rest[1]
    if (headers !== undefined && headers !== null) return writeHead(status, ...text, withClose(headers))
    response.setHeader('Connection', 'close')
    return writeHead(status, ...text)
  }
  response.writeHead = writeClosingHead as ServerResponse['writeHead']
}

const isConnection = (name: unknown): boolean => String(name).toLowerCase() === 'connection'

/** Returns headers in their form, an object, an array of pairs or a flat array, with `Connection: close` only. */
function withClose(headers: unknown): unknown {
  if (!Array.isArray(headers)) {
    const others = Object.entries(headers as object).filter(([name]) => !isConnection(name))
    return { ...Object.fromEntries(others), Connection: 'close' }
  }
  const list = headers as unknown[]
  if (Array.isArray(list[0])) {
    return [...(list as unknown[][]).filter(([name]) => !isConnection(name)), ['Connection', 'close']]
  }
  return [...list.filter((_, index) => !isConnection(list[index - (index % 2)])), 'Connection', 'close']
}
