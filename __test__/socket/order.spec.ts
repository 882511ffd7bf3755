import { closeSync } from 'node:fs'
import test from 'ava'
import { socketpair } from 'fdpass'
import { openFile, readAll } from '../helpers/descriptors.ts'
import { isPending } from '../helpers/promises.ts'
import { text } from '../helpers/sockets.ts'

const connected = process.platform === 'darwin' ? (['stream'] as const) : (['stream', 'seqpacket'] as const)

test('a send waits for room, and resolves when the peer reads [E5] [S68]', async (t) => {
  for (const type of connected) {
    const [a, b] = socketpair({ type })
    const message = Buffer.alloc(32_768, 'm')
    const sends: Promise<void>[] = []
    do sends.push(a.send(message))
    while (!(await isPending(sends.at(-1)!)))
    let bytes = 0
    const reading = (async () => {
      while (bytes < sends.length * message.length) bytes += (await b.recv())!.data.length
    })()
    await Promise.all(sends)
    await reading
    t.is(bytes, sends.length * message.length)
    t.true(sends.length > 1)
    a.close()
    t.is(await b.recv(), null)
    b.close()
  }
})

test('a datagram send waits for room, and resolves when the peer reads [E5]', async (t) => {
  const [a, b] = socketpair({ type: 'dgram' })
  const sends: Promise<void>[] = []
  do sends.push(a.send(String(sends.length)))
  while (!(await isPending(sends.at(-1)!)))
  for (let i = 0; i < sends.length; i++) t.is(text(await b.recv()), String(i))
  await Promise.all(sends)
  a.close()
  b.close()
})

test('a large message arrives whole, in order, behind and before small ones [E5]', async (t) => {
  const [a, b] = socketpair()
  const content = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => i % 251))
  const sends = [a.send('before'), a.send(content), a.send('after')]
  void Promise.all(sends).then(() => a.close())
  const parts: Uint8Array[] = []
  for await (const { data } of b) parts.push(data)
  const all = Buffer.concat(parts)
  t.true(all.equals(Buffer.concat([Buffer.from('before'), content, Buffer.from('after')])))
  b.close()
})

test('concurrent receives resolve in order, each message once [E6]', async (t) => {
  const types = [...connected, 'dgram'] as const
  for (const type of types) {
    const [a, b] = socketpair({ type })
    const order: number[] = []
    const waiting = Array.from({ length: 20 }, async (_, i) => {
      const message = await b.recv({ maxBytes: 2 })
      order.push(i)
      return text(message)
    })
    for (let i = 10; i < 30; i++) await a.send(String(i))
    t.deepEqual(
      await Promise.all(waiting),
      Array.from({ length: 20 }, (_, i) => String(i + 10))
    )
    t.deepEqual(
      order,
      Array.from({ length: 20 }, (_, i) => i)
    )
    a.close()
    b.close()
  }
})

test('receives of different kinds take turns in the order of their calls [E6]', async (t) => {
  const file = openFile('mixed')
  const [a, b] = socketpair()
  const waiting = [b.recv(), b.recvFd(), b.messages().next(), b.recv()] as const
  for (let i = 0; i < 4; i++) await a.sendFd(file, String(i))
  closeSync(file)
  const [first, second, third, fourth] = await Promise.all(waiting)
  t.deepEqual([first, second, third.value, fourth].map(text), ['0', '1', '2', '3'])
  t.is(readAll(second!.fd!.fd), 'mixed')
  first!.close()
  second![Symbol.dispose]()
  third.value!.close()
  fourth!.close()
  a.close()
  b.close()
})

test('concurrent sends go out in the order of their calls [E6]', async (t) => {
  const [a, b] = socketpair({ type: process.platform === 'darwin' ? 'stream' : 'seqpacket' })
  const order: number[] = []
  const sends = Array.from({ length: 1000 }, (_, i) => a.send(String(i).padStart(4)).then(() => order.push(i)))
  for (let i = 0; i < 1000; i++) t.is(Number(text(await b.recv({ maxBytes: 4 }))), i)
  await Promise.all(sends)
  t.deepEqual(
    order,
    Array.from({ length: 1000 }, (_, i) => i)
  )
  a.close()
  b.close()
})
