import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, readSync } from 'node:fs'
import { Socket } from 'node:net'
import test from 'ava'
import { type Capabilities, type ControlError, UnixSocket, capabilities, recvFd, socketpair } from 'fdpass'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds, hasWriter, openFile, openPipe, readAll, temporaryFile } from '../helpers/descriptors.ts'
import { startLimited } from '../helpers/processes.ts'
import { receiveBytes, text } from '../helpers/sockets.ts'

const types =
  process.platform === 'darwin' ? (['stream', 'dgram'] as const) : (['stream', 'seqpacket', 'dgram'] as const)

const onLinux = onlyIf(isLinux, 'macOS has other limits', test.serial)

/** As many open file descriptions of one file, the offset of each its index. */
function openMany(count: number): number[] {
  const path = temporaryFile('x'.repeat(count))
  return Array.from({ length: count }, (_, i) => {
    const fd = openSync(path, 'r')
    readSync(fd, Buffer.alloc(i))
    return fd
  })
}

async function next(socket: UnixSocket): Promise<string | null> {
  return text(await socket.recv())
}

for (const type of types) {
  test.serial(`a ${type} message carries from 0 to 253 descriptors [C1] [C2] [C7]`, async (t) => {
    const [a, b] = socketpair({ type })
    const before = countFds()
    for (const count of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 99, 128, 252, 253]) {
      const sent = openMany(count)
      await a.send(`with ${count}`, { fds: sent })
      sent.forEach((fd) => closeSync(fd))
      const message = (await b.recv())!
      t.is(text(message), `with ${count}`)
      t.deepEqual(
        message.fds.map(({ fd }) => readAll(fd).length),
        sent.map((_, i) => count - i)
      )
      message.close()
    }
    t.is(countFds(), before)
    a.close()
    b.close()
  })

  test.serial(
    `a ${type} message with 254 descriptors is refused: the limit is named, and nothing is sent [C1]`,
    async (t) => {
      const [a, b] = socketpair({ type })
      const file = openFile('still mine')
      const before = countFds()
      for (const count of [254, 255, 512, 513, 5000]) {
        await t.throwsAsync(a.send('too many', { fds: Array.from({ length: count }, () => file) }), {
          code: 'ERR_OUT_OF_RANGE',
          message: new RegExp(`253.*${count}`)
        })
      }
      await a.send('next')
      const message = (await b.recv())!
      t.is(text(message), 'next')
      t.deepEqual(message.fds, [])
      t.is(countFds(), before)
      t.is(readAll(file), 'still mine')
      closeSync(file)
      a.close()
      b.close()
    }
  )
}

const refusals = [
  ['recv with maxFds: 2', 5, (socket: UnixSocket) => socket.recv({ maxFds: 2 })],
  ['recv with maxFds: 1', 2, (socket: UnixSocket) => socket.recv({ maxFds: 1 })],
  ['recv with maxFds: 0', 1, (socket: UnixSocket) => socket.recv({ maxFds: 0 })],
  ['recv with maxFds: 252', 253, (socket: UnixSocket) => socket.recv({ maxFds: 252 })],
  ['recvFd', 2, (socket: UnixSocket) => socket.recvFd()],
  ['the function recvFd', 3, (socket: UnixSocket) => recvFd(socket)],
  ['iteration with maxFds: 1', 2, (socket: UnixSocket) => socket.messages({ maxFds: 1 }).next()]
] as const

for (const type of types) {
  for (const [name, count, receive] of refusals) {
    test.serial(
      `${name} refuses a ${type} message with ${count} descriptors: closed are all, kept the bytes [C3] [C4] [S12]`,
      async (t) => {
        const [a, b] = socketpair({ type })
        const { read, write } = openPipe()
        const file = openFile('accepted')
        const before = countFds()
        for (const waits of [false, true]) {
          const fds = Array.from({ length: count }, () => write)
          let sending: Promise<void> | undefined
          if (!waits) await a.send('refused', { fds })
          const receiving = receive(b)
          if (waits) sending = a.send('refused', { fds })
          const error = (await t.throwsAsync(receiving as Promise<unknown>, {
            code: 'ERR_TOO_MANY_DESCRIPTORS'
          })) as ControlError
          t.is(text(error), 'refused')
          await sending
          t.is(countFds(), before)
          // The socket goes on.
          await a.send('accepted', { fds: [file] })
          const message = (await b.recv())!
          t.is(text(message), 'accepted')
          t.is(message.fds.length, 1)
          message.close()
        }
        closeSync(write)
        t.false(hasWriter(read))
        closeSync(read)
        closeSync(file)
        a.close()
        b.close()
      }
    )
  }
}

test.serial('what is left of a refused message on a stream is received as plain bytes [C3]', async (t) => {
  const [a, b] = socketpair()
  const file = openFile()
  await a.send('refused', { fds: [file, file] })
  const error = (await t.throwsAsync(b.recv({ maxBytes: 2, maxFds: 1 }), {
    code: 'ERR_TOO_MANY_DESCRIPTORS'
  })) as ControlError
  t.is(text(error), 're')
  const rest = (await b.recv())!
  t.is(text(rest), 'fused')
  t.deepEqual(rest.fds, [])
  closeSync(file)
  a.close()
  b.close()
})

test.serial(
  'up to maxFds descriptors are received, and maxFds may exceed what a message can carry [C4] [S76]',
  async (t) => {
    const [a, b] = socketpair()
    const file = openFile()
    for (const [count, maxFds] of [
      [0, 0],
      [1, 1],
      [2, 2],
      [253, 253],
      [253, 1000],
      [253, 2 ** 31 - 1],
      [253, undefined]
    ] as const) {
      await a.send('x', { fds: Array.from({ length: count }, () => file) })
      const message = (await b.recv({ maxFds }))!
      t.is(message.fds.length, count)
      message.close()
    }
    closeSync(file)
    a.close()
    b.close()
  }
)

test.serial('a receive takes maxBytes at most, which may be more than ever comes [B6.1] [S11]', async (t) => {
  const [a, b] = socketpair()
  await a.send('0123456789')
  for (const [maxBytes, expected] of [
    [1, '0'],
    [2, '12'],
    [7, '3456789']
  ] as const) {
    t.is(text(await b.recv({ maxBytes })), expected)
  }
  const content = randomBytes(1_000_000)
  const sending = a.send(content)
  t.true((await receiveBytes(b, content.length, { maxBytes: 2 ** 31 - 1 })).data.equals(content))
  await sending
  a.close()
  b.close()
})

onLinux('default limits take 65,536 bytes of a longer packet [S75]', async (t) => {
  const [a, b] = socketpair({ type: 'seqpacket' })
  await a.send(Buffer.alloc(100_000))
  const cut = (await b.recv())!
  t.is(cut.data.length, 65_536)
  t.is(cut.size, 100_000)
  await a.send(Buffer.alloc(100_000, 'w'))
  const whole = (await b.recv({ maxBytes: 100_000 }))!
  t.true(Buffer.alloc(100_000, 'w').equals(whole.data))
  a.close()
  b.close()
})

for (const room of [0, 1, 2, 4]) {
  onLinux(
    `with room for ${room} of 5, a receive that waits rejects with ERR_CONTROL_TRUNCATED, keeps the bytes and closes the rest; the next message arrives [C5] [S14]`,
    async (t) => {
      const { socket, done } = startLimited(64, 'tables', ['receive', `${room}`])
      const { read, write } = openPipe()
      t.is(await next(socket), 'full')
      await socket.send('truncated', { fds: Array.from({ length: 5 }, () => write) })
      closeSync(write)
      t.is(await next(socket), `ERR_CONTROL_TRUNCATED truncated, room ${room}`)
      t.false(hasWriter(read))
      await socket.send('without')
      t.is(await next(socket), `message without 0, room ${room}`)
      await socket.send('whole', { fds: Array.from({ length: 5 }, () => read) })
      t.regex((await next(socket))!, /^message whole 5, room /)
      closeSync(read)
      await done
      socket.close()
    }
  )

  onLinux(
    `with room for ${room} of 5, an iteration throws ERR_CONTROL_TRUNCATED, and a new one goes on [C5]`,
    async (t) => {
      const { socket, done } = startLimited(64, 'tables', ['iterate', `${room}`], 'seqpacket')
      const { read, write } = openPipe()
      await socket.send('begin')
      await socket.send('truncated', { fds: Array.from({ length: 5 }, () => write) })
      await socket.send('again', { fds: Array.from({ length: 5 }, () => write) })
      closeSync(write)
      t.is(await next(socket), `ERR_CONTROL_TRUNCATED truncated, room ${room}`)
      t.is(await next(socket), `ERR_CONTROL_TRUNCATED again, room ${room}`)
      t.false(hasWriter(read))
      await socket.send('whole', { fds: Array.from({ length: 5 }, () => read) })
      t.regex((await next(socket))!, /^message whole 5, room /)
      closeSync(read)
      await done
      socket.close()
    }
  )
}

onLinux(
  'a send that has to wait rejects with EMFILE where the table has no room for duplicates, and keeps none [C5]',
  async (t) => {
    for (const room of [1, 3]) {
      const { socket, child, done } = startLimited(64, 'tables', ['send', `${room}`])
      // Nothing is received before the table is full.
      t.is(String(await once(child.stdout!, 'data')), `EMFILE, room ${room}`)
      const { data, fds } = await receiveBytes(socket, 1024 * 1024 + 'waits'.length)
      t.is(data.subarray(1024 * 1024).toString(), 'waits')
      t.is(fds.length, room)
      fds.forEach((fd) => fd.closeSync())
      await done
      socket.close()
    }
  }
)

test.serial('a reader that takes only the bytes gets no descriptors: the kernel closes them [C6]', async (t) => {
  const [a, b] = socketpair()
  const { read, write } = openPipe()
  const before = countFds()
  for (let i = 0; i < 10; i++) await a.send('x', { fds: [write, write] })
  const reader = new Socket({ fd: b.release() })
  const received: Buffer[] = []
  reader.on('data', (data: Buffer) => received.push(data))
  while (Buffer.concat(received).length < 10) await once(reader, 'data')
  t.is(countFds(), before)
  closeSync(write)
  t.false(hasWriter(read))
  reader.destroy()
  closeSync(read)
  a.close()
})

test('what capabilities() could not try in a full descriptor table is tried again [S191]', async (t) => {
  for (let room = 0; room < 4; room++) {
    const { socket, done } = startLimited(64, 'tables', ['capabilities', `${room}`])
    const { first, later, again } = JSON.parse(await done) as Record<'first' | 'later', Capabilities> & {
      again: boolean
    }
    if (room === 0) t.deepEqual([first.abstract, first.seqpacket, first.messageCredentials], [false, false, false])
    t.deepEqual(later, { ...capabilities() }, `room for ${room}`)
    t.true(again)
    socket.close()
  }
})
