// The data path by the package alone, for runtimes whose node:fs and node:net take no foreign descriptors (Deno): a
// descriptor is proved by reading its file through /proc, or by talking over it.
import { closeSync, openSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { Descriptor, UnixSocket, recvFd, sendFd, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { temporaryFile } from '../helpers/descriptors.ts'
import { text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs /proc/self/fd')

onLinux('a file crosses with its bytes, at once and to one that waits', async (t) => {
  const [a, b] = socketpair()
  for (const waits of [false, true]) {
    const file = openSync(temporaryFile(`waits: ${waits}`), 'r')
    const receiving = waits ? recvFd(b) : undefined
    await sendFd(a, file, 'its bytes')
    closeSync(file)
    const received = (await (receiving ?? recvFd(b)))!
    t.is(received.data.toString(), 'its bytes')
    t.is(readFileSync(`/proc/self/fd/${received.fd!.fd}`, 'utf8'), `waits: ${waits}`)
    await received.fd!.close()
  }
  a.close()
  b.close()
})

test('data is a Buffer with memory of its own, whichever way it is received', async (t) => {
  const [a, b] = socketpair()
  const received: Buffer[] = []
  const receive = async (bytes: number, receiving: () => Promise<{ data: Buffer } | null | undefined>) => {
    for (const waits of [false, true]) {
      const waiting = waits ? receiving() : undefined
      await a.send(Buffer.alloc(bytes, 'x'))
      const { data } = (await (waiting ?? receiving()))!
      t.is(data.toString(), 'x'.repeat(bytes))
      received.push(data)
    }
  }
  await receive(1, () => b.recv())
  await receive(1000, () => b.recv())
  await receive(1000, () => b.recv({ maxBytes: 1_000_000 }))
  await receive(100_000, () => b.recvExactly(100_000))
  await receive(2, () => b.recvExactly(2))
  await receive(3, () => b.recvFd())
  await receive(4, async () => (await b.messages().next()).value)
  const [c, d] = socketpair()
  for (const data of ['held', 'held', 'held']) await c.sendFd(a, data)
  for (const message of [
    (await d.messages().next()).value!,
    (await d.recv({ maxBytes: 1 }))!,
    (await d.recv())!,
    (await d.recv())!
  ]) {
    message.close()
    received.push(message.data)
  }
  const error = await t.throwsAsync(a.send('bytes', { fds: [0] }).then(() => b.recv({ maxFds: 0 })))
  received.push((error as unknown as { data: Buffer }).data)
  for (const data of received) {
    t.true(Buffer.isBuffer(data))
    t.is(Object.getPrototypeOf(data), Buffer.prototype)
    t.true(data.buffer.byteLength <= 2 * data.length)
    data.fill(0)
  }
  t.is(new Set(received.map(({ buffer }) => buffer)).size, received.length)
  for (const socket of [a, b, c, d]) socket.close()
})

for (const type of ['stream', 'seqpacket', 'dgram'] as const) {
  const onThis = onlyIf(type !== 'seqpacket' || process.platform !== 'darwin', 'macOS has no seqpacket')

  onThis(`a socket that is passed over a ${type} pair can be talked over, both ways`, async (t) => {
    const [a, b] = socketpair({ type })
    const [near, far] = socketpair()
    await a.sendFd(far)
    far.close()
    const received = (await b.recvFd())!
    t.deepEqual([...received.data], [0])
    const passed = UnixSocket.from(received.fd!)
    const waiting = near.recv()
    await passed.send('from where it went')
    t.is(text((await waiting)!), 'from where it went')
    await near.send('to where it went')
    t.is(text((await passed.recv())!), 'to where it went')
    passed.close()
    t.is(await near.recv(), null)
    for (const socket of [a, b, near]) socket.close()
  })

  onThis(`what meets a full ${type} socket arrives in order, each message with its descriptor`, async (t) => {
    const [a, b] = socketpair({ type })
    const pairs = Array.from({ length: 20 }, () => socketpair())
    const sends = pairs.map(([, far], i) => a.send(`${i}`.padEnd(65_536), { fds: [far] }))
    for (const [, far] of pairs) far.close()
    let [bytes, next] = [0, 0]
    while (bytes < 20 * 65_536) {
      const message = (await b.recv())!
      bytes += message.data.length
      for (const descriptor of message.fds) {
        const passed = UnixSocket.from(descriptor)
        await passed.send(`${next}`)
        t.is(text((await pairs[next]![0].recv())!), `${next++}`)
        passed.close()
      }
    }
    await Promise.all(sends)
    t.is(next, 20)
    for (const [near] of pairs) {
      t.is(await near.recv(), null)
      near.close()
    }
    a.close()
    b.close()
  })
}

test('bytes without a descriptor resolve with a null descriptor, and the end resolves to null', async (t) => {
  const [a, b] = socketpair()
  await a.send('only bytes')
  t.is((await recvFd(b))!.fd, null)
  a.close()
  t.is(await recvFd(b), null)
  b.close()
})

test('253 descriptors go in one message, and 254 are refused', async (t) => {
  const [a, b] = socketpair()
  await t.throwsAsync(a.send('x', { fds: Array.from({ length: 254 }, () => a) }), { code: 'ERR_OUT_OF_RANGE' })
  await a.send('x', { fds: Array.from({ length: 253 }, () => a) })
  const message = (await b.recv())!
  t.is(message.fds.length, 253)
  message.close()
  t.throws(() => message.fds[0]!.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  a.close()
  t.is(await b.recv(), null)
  b.close()
})

test('an iteration yields every message, until the end', async (t) => {
  const [a, b] = socketpair({ type: process.platform === 'darwin' ? 'stream' : 'seqpacket' })
  const sending = (async () => {
    for (let i = 0; i < 1000; i++) await a.sendFd(a, `${i}`.padStart(4))
    a.close()
  })()
  let next = 0
  for await (const message of b.messages({ maxBytes: 4 })) {
    t.is(Number(text(message)), next++)
    t.is(message.fds.length, 1)
    message.close()
  }
  await sending
  t.is(next, 1000)
  b.close()
})

test('an aborted receive loses nothing, and close() rejects pending receives', async (t) => {
  const [a, b] = socketpair()
  const controller = new AbortController()
  const aborted = b.recv({ signal: controller.signal })
  controller.abort('enough')
  const error = await t.throwsAsync(aborted, { name: 'AbortError', code: 'ABORT_ERR' })
  t.is(error?.cause, 'enough')
  await a.send('not lost')
  t.is(text((await b.recv())!), 'not lost')
  const waiting = b.recv()
  b.close()
  await t.throwsAsync(waiting, { code: 'ERR_SOCKET_CLOSED' })
  await t.throwsAsync(a.send('x'), { code: 'EPIPE' })
  a.close()
})

test('receives that never wait leave timers their turn', async (t) => {
  const [a, b] = socketpair()
  const stop = new AbortController()
  let messages = 0
  const loop = (async () => {
    while (!stop.signal.aborted) {
      await a.send('x')
      await b.recv()
      messages++
    }
  })()
  await sleep(20)
  stop.abort()
  await loop
  t.true(messages > 0)
  a.close()
  b.close()
})

test('a descriptor is taken over, duplicated and closed once', async (t) => {
  const [a, b] = socketpair()
  const descriptor = Descriptor.from(b.release())
  const duplicate = descriptor.duplicate()
  await descriptor.close()
  await descriptor.close()
  t.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
  const socket = UnixSocket.from(duplicate)
  await socket.send('over the duplicate')
  t.is(text((await a.recv())!), 'over the duplicate')
  socket.close()
  t.is(await a.recv(), null)
  a.close()
})
