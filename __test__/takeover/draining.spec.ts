import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type IncomingMessage, type ServerResponse, createServer as createHttpServer } from 'node:http'
import { createSecureServer } from 'node:http2'
import { type Socket, connect as dial, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import test from 'ava'
import { onlyIf } from '../helpers/conditions.ts'
import { hasOpenssl, makeKey, readAllOf, readToEnd } from '../helpers/connections.ts'
import { newPath } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'
import { isPending } from '../helpers/promises.ts'
import { ask, begin, open, portOf, saying, tcp } from '../helpers/takeovers.ts'

test('the open connections of an old HTTP server end with their next answer', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const port = portOf(old.listeners.http!)
  const http = createHttpServer({ keepAliveTimeout: 60_000 }, (_request, response) => void response.end('old'))
  const ended = old.serve(http, 'http')
  const client = dial(port, '127.0.0.1')
  const request = async () => {
    client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    return String((await once(client, 'data'))[0])
  }
  t.regex(await request(), /keep-alive[^]*old/)
  await begin(t, { path, listen: tcp })
  await old.superseded
  t.true(await isPending(ended))
  t.regex(await request(), /Connection: close[^]*old/)
  await once(client, 'end')
  await ended
})

const never = (): void => {}

/** Requests, by path: each sets a `Connection` header of its own, or goes by another event than 'request'. */
const promises: Record<string, (response: ServerResponse) => unknown> = {
  '/default': (response) => response.end('old'),
  '/setHeader': (response) => response.setHeader('Connection', 'keep-alive').end('old'),
  '/object': (response) => response.writeHead(200, { connection: 'keep-alive', 'X-Kept': 'yes' }).end('old'),
  '/text': (response) => response.writeHead(200, 'Fine', { Connection: 'keep-alive', 'X-Kept': 'yes' }).end('old'),
  '/both': (response) => {
    response.setHeader('Connection', 'keep-alive')
    response.writeHead(200, { 'X-Kept': 'yes' }).end('old')
  },
  '/array': (response) => response.writeHead(200, ['Connection', 'keep-alive', 'X-Kept', 'yes']).end('old'),
  '/removed': (response) => {
    response.removeHeader('Connection')
    response.end('old')
  },
  '/expect 100-continue': (response) => {
    response.writeContinue()
    response.end('old')
  },
  '/expect other': (response) => response.setHeader('Connection', 'keep-alive').end('old')
}

/** Sends a request of `promises` over a connection; resolves to the response. */
async function requestOn(client: Socket, name: string): Promise<string> {
  const expect = name.startsWith('/expect ') ? `Expect: ${name.slice('/expect '.length)}\r\n` : ''
  client.write(`GET ${encodeURI(name)} HTTP/1.1\r\nHost: x\r\n${expect}\r\n`)
  let received = ''
  while (!/old(\r\n0\r\n\r\n)?$/.test(received)) received += String((await once(client, 'data'))[0])
  return received
}

test('no response of an old HTTP server promises to keep its connection, whatever the program sets [S246]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const port = portOf(old.listeners.http!)
  const answer = ({ url }: IncomingMessage, response: ServerResponse) => void promises[decodeURI(url!)]!(response)
  const http = createHttpServer({ keepAliveTimeout: 60_000 }, answer)
    .on('checkContinue', answer)
    .on('checkExpectation', answer)
  const ended = old.serve(http, 'http')
  const clients = Object.keys(promises).map((name) => [name, dial(port, '127.0.0.1')] as const)
  for (const [name, client] of clients) t.notRegex(await requestOn(client, name), /connection: close/i, name)
  await begin(t, { path, listen: tcp })
  await old.superseded
  await Promise.all(
    clients.map(async ([name, client]) => {
      const over = once(client, 'end')
      const received = await requestOn(client, name)
      t.deepEqual(received.match(/^connection: .*$/gim), ['Connection: close'], name)
      if (/object|text|both|array/.test(name)) t.regex(received, /X-Kept: yes/, name)
      await over
    })
  )
  await ended
})

test('a response that has not begun when the server drains closes its connection [S246]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const responses: ServerResponse[] = []
  const http = createHttpServer((_request, response) => void responses.push(response))
  const ended = old.serve(http, 'http')
  const client = dial(portOf(old.listeners.http!), '127.0.0.1')
  client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(http, 'request')
  await begin(t, { path, listen: tcp })
  await old.superseded
  await new Promise((done) => setImmediate(done)) // the server drains from here on
  responses[0]!.writeHead(200, { Connection: 'keep-alive' }).end('late')
  t.regex(String(await readAllOf(client)), /Connection: close[^]*late/)
  await ended
})

test('a connection that a response promised to keep stays for keepAliveTimeout after that response [S246]', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const responses: ServerResponse[] = []
  const http = createHttpServer({ keepAliveTimeout: 1000 }, (_request, response) => {
    response.writeHead(200).write('begun')
    responses.push(response)
  })
  const ended = old.serve(http, 'http')
  const client = dial(portOf(old.listeners.http!), '127.0.0.1').setEncoding('utf8')
  client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  let received = ''
  while (!received.includes('begun')) received += String((await once(client, 'data'))[0])
  t.regex(received, /Connection: keep-alive/)
  const [response] = responses
  const gone = once(response!.socket!, 'close')
  await begin(t, { path, listen: tcp })
  await old.superseded
  await delay(800) // the server looks for idle connections after 1000
  response!.end('ended')
  await once(response!, 'close')
  const since = performance.now()
  client.resume()
  await gone
  t.true(performance.now() - since > 500)
  await ended
})

// It stops this process for a while, as the next one does.
test.serial(
  'a request that has arrived before the server closes idle connections is answered, however late it is read',
  async (t) => {
    const path = newPath()
    const old = await begin(t, { path, listen: tcp })
    const http = createHttpServer({ keepAliveTimeout: 60_000 }, (_request, response) => void response.end('old'))
    const ended = old.serve(http, 'http')
    const client = dial(portOf(old.listeners.http!), '127.0.0.1')
    await requestOn(client, '/default')
    http.keepAliveTimeout = 100 // of the drain; the timer of Node's own runs already
    await begin(t, { path, listen: tcp })
    await old.superseded
    await new Promise<void>((done) => process.nextTick(done)) // the server drains, in the same turn
    client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200)
    t.regex(String(await readAllOf(client)), /Connection: close[^]*old/)
    await ended
  }
)

/** An HTTP/2 client in a thread, which runs while the server's thread is blocked. It sends a request, and another one after a message. */
const asker = `
  import { once } from 'node:events'
  import { connect } from 'node:http2'
  import { parentPort, workerData } from 'node:worker_threads'
  const session = connect(workerData, { rejectUnauthorized: false })
  const ask = async () => {
    const stream = session.request({ ':path': '/' }).setEncoding('utf8').on('error', () => {})
    let answer = ''
    stream.on('data', (text) => (answer += text))
    await once(stream, 'close')
    return answer
  }
  parentPort.postMessage(await ask())
  await once(parentPort, 'message')
  parentPort.postMessage(await ask())
  parentPort.close()
`

onlyIf(
  hasOpenssl,
  'needs openssl',
  test.serial
)('an HTTP/2 stream that has arrived before GOAWAY is sent is served, however late it is read', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const folder = makeKey()
  const [key, cert] = ['key.pem', 'cert.pem'].map((name) => readFileSync(join(folder, name)))
  const http = createSecureServer({ key, cert }, (_request, response) => void response.end('old'))
  const ended = old.serve(http, 'http')
  const url = new URL(`data:text/javascript,${encodeURIComponent(asker)}`)
  const thread = new Worker(url, { workerData: `https://127.0.0.1:${portOf(old.listeners.http!)}` })
  t.is((await once(thread, 'message'))[0], 'old')
  await begin(t, { path, listen: tcp })
  await old.superseded
  await new Promise<void>((done) => process.nextTick(done)) // the server drains, in the same turn
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port of a Worker has no origin
  thread.postMessage('again')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500) // GOAWAY is sent after 1000
  t.is((await once(thread, 'message'))[0], 'old')
  await ended
})

test('a response that is not sent as a whole is no idle connection for a server that drains', async (t) => {
  const path = newPath()
  const old = await begin(t, { path, listen: tcp })
  const large = 'x'.repeat(16 * 1024 * 1024)
  const http = createHttpServer({ keepAliveTimeout: 100 }, ({ url }, response) => {
    response.end(url === '/large' ? large : 'old')
  })
  const ended = old.serve(http, 'http')
  const [slow, idle] = [1, 2].map(() => dial(portOf(old.listeners.http!), '127.0.0.1')) as [Socket, Socket]
  slow.write('GET /large HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(slow, 'data')
  slow.pause()
  http.keepAliveTimeout = 60_000 // Node's own for the idle connection, which the drain is to close
  await requestOn(idle, '/default')
  http.keepAliveTimeout = 100
  const closed = once(idle.resume(), 'close')
  await begin(t, { path, listen: tcp })
  await closed
  const read = await readAllOf(slow.resume())
  t.is(read.lastIndexOf('x') + 1, read.length)
  t.true(read.length > large.length - 2 ** 20)
  await ended
})

for (const kind of ['HTTP', 'net'] as const) {
  test(`a ${kind} server that was replaced ends after drainTimeout what its clients hold [S247]`, async (t) => {
    const path = newPath()
    const old = await begin(t, { path, listen: tcp, drainTimeout: 300 })
    const server = kind === 'HTTP' ? createHttpServer({ keepAliveTimeout: 60_000 }, never) : createServer(never)
    const ended = old.serve(server, 'http')
    const requests = ['', 'GET / HT', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n']
    const clients = requests.map(() =>
      dial(portOf(old.listeners.http!), '127.0.0.1').setEncoding('utf8').on('error', never)
    )
    for (const [i, client] of clients.entries()) client.write(requests[i]!)
    let count = 0
    server.on('connection', () => count++)
    await until(() => count === clients.length)
    const ends = Promise.all(clients.map(readToEnd))
    await begin(t, { path, listen: tcp })
    await ended
    const seen = await ends
    // Connections of other protocols are ended before, unless this process is too late for that.
    if (kind === 'HTTP') t.deepEqual(seen, [' ECONNRESET', ' ECONNRESET', ' ECONNRESET'])
    else for (const one of seen) t.true(['', ' ECONNRESET'].includes(one), one)
  })
}

test('close has a server finish what it has, and listens no more', async (t) => {
  const path = newPath()
  const place = await begin(t, { path, listen: tcp })
  const port = portOf(place.listeners.http!)
  let answer: (() => void) | undefined
  const ended = place.serve(
    createServer((connection) => void (answer = () => connection.end('late'))),
    'http'
  )
  const asked = ask(port)
  await until(() => answer !== undefined)
  place.close()
  await t.throwsAsync(ask(port), { code: 'ECONNREFUSED' })
  t.true(await isPending(ended))
  answer!()
  t.is(await asked, 'late')
  await ended
})

test('a server that is not begun yet is left alone by close', async (t) => {
  const place = await open(t, { path: newPath(), listen: tcp })
  const server = saying('never')
  const ended = place.serve(server, 'http')
  place.close()
  await ended
  t.false(server.listening)
  t.throws(() => place.listeners.http!.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  await t.throwsAsync(place.ready(), { code: 'ERR_INVALID_STATE' })
})
