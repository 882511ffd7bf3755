import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2'
import { type AddressInfo, type Socket, type TcpNetConnectOpts, connect, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import type { ProcessEvent, ServiceOptions } from 'fdpass/superserver'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasOpenssl, makeKey, readToEnd } from '../helpers/connections.ts'
import { fixturePath } from '../helpers/processes.ts'
import { until } from '../helpers/inetds.ts'
import {
  begin,
  closeSoon,
  dial,
  fetchFrom,
  handoffs,
  pidsOf,
  readSlowly,
  readTo,
  where
} from '../helpers/superserver.ts'

/** A service whose workers serve with one of the servers of `superserver-worker.ts`. */
function serving(server: string, options: Partial<ServiceOptions> = {}): ServiceOptions {
  const { args = [], ...others } = options
  const module = fixturePath('superserver-worker')
  return { listen: 'tcp:127.0.0.1:0', module, args: ['server', server, ...args], workers: 1, ...others }
}

/** Resolves to the response to an HTTP/2 request; rejects if its stream fails. */
async function answerOf(session: ClientHttp2Session, path: string): Promise<string> {
  let answer = ''
  for await (const part of session.request({ ':path': path }).setEncoding('utf8')) answer += part
  return answer
}

const GOAWAY = 7

/** The types of the HTTP/2 frames that have arrived as a whole: RFC 9113, 4.1. */
function frameTypes(bytes: Buffer): number[] {
  const types: number[] = []
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) types.push(bytes[at + 3]!)
  return types
}

for (const handoff of handoffs) {
  test(`${handoff}: idle keep-alive connections are ended in time, and not reset, whatever keepAliveTimeout is`, async (t) => {
    const server = await begin(t, serving('http', { handoff, args: ['65000'] }))
    const socket = await dial(t, where(server), 'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    await readTo(socket, '\r\n\r\n')
    const ended = readToEnd(socket) // rejects with ECONNRESET
    const exit = once(server, 'exit')
    await closeSoon(server)
    await ended
    t.like((await exit)[0], { code: 0, signal: null, lost: 0 })
  })

  test(`${handoff}: a slow client of a large response gets all of it, when idle connections are ended too`, async (t) => {
    const server = await begin(t, serving('http', { handoff, args: ['65000'] }))
    const exit = once(server, 'exit')
    await readSlowly(t, server)
    t.like((await exit)[0], { code: 0, signal: null, lost: 0 })
  })

  test(`${handoff}: an HTTP/2 session gets GOAWAY, and its stream ends`, async (t) => {
    const server = await begin(t, serving('http2', { handoff }))
    const session = connectHttp2('http://localhost', { createConnection: () => connect(where(server)) })
    const goaway = once(session, 'goaway')
    const stream = session.request({ ':path': '/' }).setEncoding('utf8')
    let read = String(((await once(stream, 'data')) as [string])[0])
    stream.on('data', (text: string) => (read += text))
    const [ended, exit] = [once(stream, 'end'), once(server, 'exit')]
    const closing = server.close()
    // The client is late: its answer to the server's ping comes when the stream has ended.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
    t.is((await goaway)[0], 0)
    await ended
    t.is(read, 'begun\nended')
    await closing
    t.like((await exit)[0], { code: 0, lost: 0 })
  })

  for (const isSecure of [false, true]) {
    onlyIf(hasOpenssl || !isSecure, 'needs openssl')(
      `${handoff}: clients of HTTP/2${isSecure ? ' over TLS' : ''} that ask one request after the other fail none in a reload, and get GOAWAY before a response`,
      async (t) => {
        const server = await begin(t, serving('http2-pid', { handoff, args: isSecure ? [makeKey()] : [] }))
        const [old] = pidsOf(server)
        let begun = 0
        const clients = Array.from({ length: 20 }, async () => {
          const { port } = where(server) as TcpNetConnectOpts
          const session = connectHttp2(`${isSecure ? 'https' : 'http'}://127.0.0.1:${port}`, {
            rejectUnauthorized: false
          })
          const gone = new AbortController()
          session.once('goaway', () => gone.abort())
          let asked = 0
          for (let count = 0; !gone.signal.aborted; count++) {
            const before = asked
            asked = performance.now()
            try {
              t.is(await answerOf(session, '/'), `/ ${old}`)
            } catch (error) {
              // The worker waits a second for the next request. This process can be late on a busy machine.
              if (count === 0 || asked - before < 1000) throw error
              break
            }
            if (count === 0) begun++
          }
          session.close()
        })
        await until(() => begun === 20)
        await server.reload()
        await Promise.all(clients)
        t.is(server.stats().lost, 0)
      }
    )
  }

  test(`${handoff}: an HTTP/2 stream that a client begins before it reads GOAWAY is served`, async (t) => {
    const server = await begin(t, serving('http2-pid', { handoff }))
    const [pid] = pidsOf(server)
    // A relay, which holds back what the server sends.
    let [sent, held] = [Buffer.alloc(0), Buffer.alloc(0)]
    let isHolding = false
    let client: Socket
    const relay = createServer((near) => {
      client = near.on('error', () => {}) // it ends first
      const far = connect(where(server))
      t.teardown(() => far.destroy())
      near.pipe(far.on('error', () => {}))
      far.on('data', (data) => {
        sent = Buffer.concat([sent, data])
        if (isHolding) held = Buffer.concat([held, data])
        else near.write(data)
      })
      far.once('end', () => near.end())
    }).listen(0, '127.0.0.1')
    t.teardown(() => relay.close())
    await once(relay, 'listening')
    const session = connectHttp2(`http://127.0.0.1:${(relay.address() as AddressInfo).port}`)
    await answerOf(session, '/')
    const slow = answerOf(session, '/slow')
    await answerOf(session, '/') // behind the headers of the slow one
    isHolding = true
    const exit = once(server, 'exit')
    const closing = closeSoon(server)
    await until(() => frameTypes(sent).includes(GOAWAY))
    const late = answerOf(session, '/late')
    await until(() => held.includes(`/late ${pid}`))
    isHolding = false
    client!.write(held)
    t.deepEqual(await Promise.all([slow, late]), [`/slow ${pid}`, `/late ${pid}`])
    await closing
    t.like((await exit)[0], { code: 0, lost: 0 })
  })

  test(`${handoff}: an HTTP/2 client that acknowledges nothing does not keep a worker`, async (t) => {
    const server = await begin(t, serving('http2-pid', { handoff }))
    const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])
    const socket = await dial(t, where(server), 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
    socket.write(settings)
    await once(socket, 'data')
    const exit = once(server, 'exit')
    const closing = server.close({ timeout: 2 ** 31 - 1 })
    await once(socket.resume(), 'end')
    socket.destroy()
    await closing
    t.like((await exit)[0], { code: 0, lost: 0 })
  })

  const key = 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13'
  const head = `GET / HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n${key}\r\n\r\n`

  test(`${handoff}: a WebSocket connection that is upgraded while its worker drains gets the response, then the close frame`, async (t) => {
    const server = await begin(t, serving('late-websocket', { handoff }))
    const socket = await dial(t, where(server), 'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    await once(socket, 'data')
    socket.write(head)
    const exit = once(server, 'exit')
    const closing = server.close()
    let received = Buffer.alloc(0)
    while (!received.subarray(-4).equals(Buffer.from([0x88, 2, 3, 0xe9]))) {
      received = Buffer.concat([received, ...((await once(socket, 'data')) as Buffer[])])
    }
    t.regex(received.toString('latin1'), /^HTTP\/1\.1 101 [^]*s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r\n\r\n.{4}$/)
    socket.write(Buffer.from([0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]))
    await closing
    t.like((await exit)[0], { code: 0, lost: 0 })
  })

  test(`${handoff}: a WebSocket client gets the close frame 1001, and answers it`, async (t) => {
    const server = await begin(t, serving('websocket', { handoff }))
    const socket = await dial(t, where(server), head)
    await readTo(socket, 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n')
    const exit = once(server, 'exit')
    const closing = server.close()
    const [frame] = (await once(socket, 'data')) as [Buffer]
    t.deepEqual(frame, Buffer.from([0x88, 2, 3, 0xe9]))
    socket.write(Buffer.from([0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]))
    t.is(await readToEnd(socket), '')
    await closing
    t.like((await exit)[0], { code: 0, lost: 0 })
  })

  test(`${handoff}: streams of events, and connections of other protocols, are ended before the deadline`, async (t) => {
    const [events, others] = await Promise.all([
      begin(t, serving('http', { handoff })),
      begin(t, serving('net', { handoff }))
    ])
    const stream = await dial(t, where(events), 'GET /events HTTP/1.1\r\nHost: x\r\n\r\n')
    const other = await dial(t, where(others))
    await Promise.all([readTo(stream, 'first'), readTo(other, 'welcome')])
    const exits = [once(events, 'exit'), once(others, 'exit')]
    const ends = [readToEnd(stream), readToEnd(other)]
    await Promise.all([closeSoon(events), closeSoon(others)])
    await Promise.all(ends)
    for (const exit of exits) t.like((await exit)[0], { code: 0, lost: 0 })
  })

  test(`${handoff}: onDrain is called with the deadline, and what it writes precedes the end`, async (t) => {
    const server = await begin(t, serving('net:farewell', { handoff }))
    const socket = await dial(t, where(server))
    await readTo(socket, 'welcome\n')
    const read = readToEnd(socket)
    await closeSoon(server)
    t.is(await read, 'good-bye true\n')
  })

  test(`${handoff}: a worker that retires is replaced, and finishes what it has`, async (t) => {
    const server = await begin(t, serving('http', { handoff, workers: 2 }))
    const [pid, id, instance] = (await fetchFrom(where(server))).split(' ')
    t.is(id, instance)
    t.true(['0', '1'].includes(id!))
    const before = pidsOf(server)
    const exit = once(server, 'exit')
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const { port } = where(server) as { port: number }
    const request = get({ port, host: '127.0.0.1', path: '/retire', agent })
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    t.is(await readToEnd(response as unknown as Socket), 'retiring')
    const [left] = (await exit) as [ProcessEvent]
    t.like(left, { code: 0, lost: 0 })
    t.true(before.includes(left.pid))
    const after = pidsOf(server)
    t.is(after.length, 2)
    t.is(after.filter((one) => before.includes(one)).length, 1)
    t.regex(String(pid), /^\d+$/)
    agent.destroy()
  })
}

test.serial(
  'what a client holds until drainTimeout is reset, and counts as lost, however late the superserver kills the worker',
  async (t) => {
    const server = await begin(t, serving('http', { drainTimeout: 500 }))
    const client = await dial(t, where(server), 'GET / HT')
    const ended = readToEnd(client)
    const exit = once(server, 'exit')
    await server.reload()
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500)
    t.like((await exit)[0], { signal: 'SIGKILL', lost: 1, reason: 'drainTimeout' })
    t.is(await ended, ' ECONNRESET')
  }
)

test('a connection whose listener throws is reported when it is closed, and the worker ends', async (t) => {
  const server = await begin(t, serving('throwing'))
  const socket = await dial(t, where(server))
  socket.destroy()
  while (server.stats().completed < 1) await sleep(10)
  const exit = once(server, 'exit')
  await closeSoon(server)
  t.like((await exit)[0], { code: 0, lost: 0 })
})

test('workers that retire as soon as they are ready are replaced after pauses, which double', async (t) => {
  const server = await begin(t, serving('retiring'))
  const times: number[] = []
  server.on('spawn', () => times.push(performance.now()))
  while (times.length < 5) await once(server, 'spawn')
  t.true(times[4]! - times[0]! >= 50 + 100 + 200, times.join(' '))
  t.regex(await fetchFrom(where(server)), /^\d+ 0 0$/)
})

test('a worker is replaced after maxServed connections, and no request fails', async (t) => {
  const server = await begin(t, serving('http', { maxServed: 10 }))
  const spawned: number[] = []
  server.on('spawn', ({ pid }) => spawned.push(pid))
  const pids = new Set<string>()
  while (pids.size < 3) pids.add((await fetchFrom(where(server))).split(' ')[0]!)
  t.true(spawned.length >= 2)
  t.is(server.stats().lost, 0)
})

onlyIf(isLinux, 'needs Linux')('a worker is replaced when it has more than maxMemory', async (t) => {
  const server = await begin(t, serving('http', { maxMemory: 150 * 1024 * 1024 }))
  const [before] = pidsOf(server)
  const exit = once(server, 'exit')
  await fetchFrom(where(server), '/fill')
  await fetchFrom(where(server), '/fill')
  t.like((await exit)[0], { pid: before, code: 0, lost: 0 })
  t.notDeepEqual(pidsOf(server), [before])
})
