import { spawn } from 'node:child_process'
import { closeSync } from 'node:fs'
import test from 'ava'
import { socketpair } from 'fdpass'
import { RANGE, rejects } from '../helpers/arguments.ts'
import { hasMemory, isLinux, onlyIf } from '../helpers/conditions.ts'
import { isOpen, openFile } from '../helpers/descriptors.ts'
import { finish } from '../helpers/processes.ts'
import { contentsOf, text } from '../helpers/sockets.ts'

const isDarwin = process.platform === 'darwin'

const types = isDarwin ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

const packets = isDarwin ? (['dgram'] as const) : (['seqpacket', 'dgram'] as const)

const mebibyte = 1024 * 1024

for (const type of packets) {
  test(`descriptors are sent and received without a byte over a ${type} pair, which is not the end [B8]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile('alone')
    await a.send('', { fds: [file] })
    await a.sendFd(file, new Uint8Array())
    await a.send('then bytes')
    const first = (await b.recv())!
    t.is(first.data.length, 0)
    t.is(first.size, 0)
    t.deepEqual(contentsOf(first.fds), ['alone'])
    const second = (await b.recvFd())!
    t.is(second.data.length, 0)
    t.true(second.fd !== null)
    second.fd!.closeSync()
    t.is(text(await b.recv()), 'then bytes')
    closeSync(file)
    a.close()
    b.close()
  })

  test(`an empty ${type} message is a message [B8]`, async (t) => {
    const [a, b] = socketpair({ type })
    await a.send('')
    await a.send('')
    const waiting = [b.recv(), b.recvFd(), b.recv()]
    await a.send('')
    t.deepEqual((await Promise.all(waiting)).map(text), ['', '', ''])
    a.close()
    b.close()
  })

  test(`descriptors without a byte are received by an iteration of a ${type} socket [B8]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile('alone')
    for (let i = 0; i < 3; i++) await a.send('', { fds: [file] })
    await a.send('last')
    let count = 0
    for await (const message of b) {
      count += message.fds.length
      message.close()
      if (text(message) === 'last') break
    }
    t.is(count, 3)
    closeSync(file)
    a.close()
    b.close()
  })
}

const withSeqpacket = onlyIf(!isDarwin, 'macOS has no seqpacket sockets')

withSeqpacket(
  'a seqpacket connection that ends with descriptors without a byte yields them, and then the end [B8]',
  async (t) => {
    const [a, b] = socketpair({ type: 'seqpacket' })
    const file = openFile('the last')
    await a.send('', { fds: [file] })
    a.close()
    const message = (await b.recv())!
    t.is(message.data.length, 0)
    t.deepEqual(contentsOf(message.fds), ['the last'])
    t.is(await b.recv(), null)
    closeSync(file)
    b.close()
  }
)

for (const type of types) {
  test(`no descriptors, written in any way, is a plain ${type} send [B9]`, async (t) => {
    const [a, b] = socketpair({ type })
    for (const options of [undefined, {}, { fds: [] }, { fds: undefined }, { fds: null }]) {
      await a.send('plain', options)
      const message = (await b.recv())!
      t.is(text(message), 'plain')
      t.deepEqual(message.fds, [])
    }
    a.close()
    b.close()
  })
}

for (const type of packets) {
  test(`${type} messages keep their boundaries [B15]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile()
    const sent = ['one', '', 'three', 'four', 'five'.repeat(1000)]
    for (const [i, data] of sent.entries()) await a.send(data, { fds: i % 2 === 0 ? [file] : [] })
    for (const [i, data] of sent.entries()) {
      const message = (await b.recv())!
      t.is(text(message), data)
      t.is(message.size, data.length)
      t.is(message.fds.length, i % 2 === 0 ? 1 : 0)
      message.close()
    }
    closeSync(file)
    a.close()
    b.close()
  })

  test(`a ${type} message longer than maxBytes is cut, reports it, and keeps its descriptors; the next is whole [B15] [S11]`, async (t) => {
    const [a, b] = socketpair({ type })
    const file = openFile('kept')
    for (let i = 0; i < 4; i++) await a.send('0123456789', { fds: [file] })
    await a.send('next')
    const cut = (await b.recv({ maxBytes: 4 }))!
    t.is(text(cut), '0123')
    if (isLinux) t.is(cut.size, 10)
    t.true(cut.size > cut.data.length)
    t.deepEqual(contentsOf(cut.fds), ['kept'])
    const whole = (await b.recv({ maxBytes: 10 }))!
    t.is(whole.size, whole.data.length)
    whole.close()
    const carried = (await b.recvFd({ maxBytes: 1 }))!
    t.is(text(carried), '0')
    carried.fd!.closeSync()
    const waitedFor = (await b.messages({ maxBytes: 9 }).next()).value!
    t.is(text(waitedFor), '012345678')
    t.true(waitedFor.size > 9)
    waitedFor.close()
    t.is(text(await b.recv()), 'next')
    closeSync(file)
    a.close()
    b.close()
  })

  test.serial(
    `a ${type} message that can never go out rejects with EMSGSIZE; those around it arrive [B15]`,
    async (t) => {
      const [a, b] = socketpair({ type })
      const file = openFile()
      await a.send('before')
      await t.throwsAsync(a.send(Buffer.alloc(64 * mebibyte), { fds: [file] }), { code: 'EMSGSIZE' })
      await a.send('after')
      t.is(text(await b.recv()), 'before')
      t.is(text(await b.recv()), 'after')
      t.true(isOpen(file))
      closeSync(file)
      a.close()
      b.close()
    }
  )
}

test('each message has memory of its own', async (t) => {
  for (const maxBytes of [65_536, 4 * mebibyte]) {
    const [a, b] = socketpair()
    const received: Uint8Array[] = []
    for (const length of [1, 63, 64, 65, 1000, 65_536]) {
      await a.send(Buffer.alloc(length, length))
      received.push((await b.recv({ maxBytes }))!.data)
    }
    t.is(new Set(received.map(({ buffer }) => buffer)).size, received.length)
    for (const data of received) t.true(Buffer.alloc(data.length, data.length).equals(data))
    // Nor is a short message kept in the memory of a long one.
    t.true(received.every((data) => data.buffer.byteLength <= data.length * 2))
    a.close()
    b.close()
  }
})

test('strings are sent as UTF-8, and views of memory as what they show [B9.1]', async (t) => {
  const [a, b] = socketpair()
  const memory = Buffer.from('0123456789')
  for (const [data, expected] of [
    ['naïve — 文字 🙂', 'naïve — 文字 🙂'],
    [memory.subarray(3, 6), '345'],
    [new Uint8Array(memory.buffer, memory.byteOffset + 8, 2), '89']
  ] as const) {
    await a.send(data)
    t.is(text(await b.recv()), expected)
  }
  a.close()
  b.close()
})

const GIBIBYTE = 1024 * mebibyte

// The message's pages are untouched: all of them are the kernel's one page of zeros.
const withMemory = onlyIf(hasMemory(4 * GIBIBYTE), 'needs 4 GiB of memory', test.serial)

withMemory('a message of more than 2 GiB arrives whole [S189]', async (t) => {
  const [a, b] = socketpair()
  // Counts the bytes, and those that are not zero by their position.
  const program = `
    const { createReadStream } = require('node:fs')
    const zeros = Buffer.alloc(2 ** 20)
    let position = 0
    const marks = []
    createReadStream('', { fd: 0, highWaterMark: 2 ** 20 }).on('data', (chunk) => {
      if (!chunk.equals(zeros.subarray(0, chunk.length))) {
        chunk.forEach((byte, at) => byte !== 0 && marks.push([position + at, byte]))
      }
      position += chunk.length
    }).on('end', () => console.log(JSON.stringify([position, marks])))`
  const number = b.release()
  const child = spawn(process.execPath, ['-e', program], { stdio: [number, 'pipe', 'inherit'] })
  closeSync(number)
  const done = finish(child)
  const data = Buffer.alloc(2 * GIBIBYTE + 65_537)
  const marks = [0, GIBIBYTE, 2 * GIBIBYTE - 1, 2 * GIBIBYTE, data.length - 1].map((at, i) => [at, i + 1])
  for (const [at, mark] of marks) data[at!] = mark!
  await a.send(data)
  a.close()
  t.deepEqual(JSON.parse(await done), [data.length, marks])
})

test('a limit beyond that of a C int is refused by its name [S189]', async (t) => {
  const [a, b] = socketpair()
  for (const beyond of [0, 2 ** 31, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER, Infinity]) {
    const name = /^The value of "options\.maxBytes" is out of range/
    await rejects(t, `${beyond}`, RANGE, () => b.recv({ maxBytes: beyond }), name)
    await rejects(t, `${beyond}`, RANGE, () => b.recvFd({ maxBytes: beyond }), name)
  }
  for (const beyond of [2 ** 31, 2 ** 32, 2 ** 53]) {
    await rejects(t, `${beyond}`, RANGE, () => a.sendFd(beyond), /^The value of "fd" is out of range/)
    await rejects(
      t,
      `${beyond}`,
      RANGE,
      () => a.send('x', { fds: [beyond] }),
      /^The value of "options\.fds\[0\]" is out/
    )
  }
  await a.send('nothing was sent before')
  t.is(text(await b.recv({ maxBytes: 2 ** 31 - 1 })), 'nothing was sent before')
  a.close()
  b.close()
})
