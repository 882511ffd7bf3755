import { once } from 'node:events'
import { closeSync, createReadStream } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import test from 'ava'
import { Descriptor, recvFd, sendFd, socketpair } from 'fdpass'
import {
  type Loose,
  RANGE,
  TYPE,
  VALUE,
  loose,
  looseSocketpair,
  notIntegers,
  notNumbers,
  notOptions,
  notSignals,
  rejects
} from '../helpers/arguments.ts'
import { countFds, openFile, readAll, temporaryFile } from '../helpers/descriptors.ts'
import { receiveBytes, withPair } from '../helpers/sockets.ts'

const looseSendFd = sendFd as Loose

const looseRecvFd = recvFd as Loose

const notBytes = [null, 5, true, 5n, {}, [1, 2], new ArrayBuffer(2), new DataView(new ArrayBuffer(2)), Symbol('bytes')]

/** Values that are not descriptors, and the error of each. */
async function badSources(): Promise<{ sources: (readonly [name: string, source: unknown, code: string])[] }> {
  const closed = Descriptor.from(openFile())
  closed.closeSync()
  const released = Descriptor.from(openFile())
  closeSync(released.release())
  const [closedSocket, other] = socketpair()
  closedSocket.close()
  other.close()
  const handle = await open(temporaryFile())
  await handle.close()
  const unopened = createReadStream(temporaryFile())
  const stream = createReadStream(temporaryFile())
  await once(stream, 'open')
  await once(stream.destroy(), 'close')
  await once(unopened.destroy(), 'close')
  return {
    sources: [
      ...[undefined, ...notNumbers].map((value) => [`the value ${String(value)}`, value, TYPE] as const),
      ...[...notIntegers, -1, 2 ** 31, 2 ** 32, 2 ** 53].map((value) => [`${value}`, value, RANGE] as const),
      ['a closed Descriptor', closed, 'ERR_DESCRIPTOR_CLOSED'],
      ['a released Descriptor', released, 'ERR_DESCRIPTOR_CLOSED'],
      ['a closed UnixSocket', closedSocket, 'ERR_SOCKET_CLOSED'],
      ['a closed FileHandle', handle, VALUE],
      ['a destroyed stream', stream, VALUE],
      ['an object without a prototype', Object.create(null), TYPE]
    ]
  }
}

test.serial('what is no descriptor cannot be sent, by send or by sendFd [C11]', async (t) => {
  const { sources } = await badSources()
  await withPair(t, async (a) => {
    for (const [name, source, code] of sources) {
      await rejects(t, `sendFd of ${name}`, code, () => loose(a, 'sendFd')(source))
      await rejects(t, `the function sendFd of ${name}`, code, () => looseSendFd(a, source))
      await rejects(t, `send of ${name}`, code, () => loose(a, 'send')('x', { fds: [source] }))
    }
  })
})

test.serial(
  'one bad descriptor among good ones refuses the message, and leaves the good ones open [C11]',
  async (t) => {
    const good = openFile('still mine')
    const descriptor = Descriptor.from(openFile('mine too'))
    const { sources } = await badSources()
    await withPair(t, async (a) => {
      for (const [name, source, code] of sources) {
        await rejects(t, name, code, () => loose(a, 'send')('x', { fds: [good, descriptor, source] }))
        await rejects(t, name, code, () => loose(a, 'send')('x', { fds: [source, descriptor, good] }))
      }
      // eslint-disable-next-line no-sparse-arrays -- a hole is what is tested
      await rejects(t, 'a hole', TYPE, () => loose(a, 'send')('x', { fds: [good, , good] }))
    })
    t.is(readAll(good), 'still mine')
    t.is(readAll(descriptor.fd), 'mine too')
    closeSync(good)
    descriptor.closeSync()
  }
)

test.serial('an impostor with the name of FileHandle is refused [C11]', async (t) => {
  class FileHandle {
    readonly fd: unknown
    constructor(fd: unknown) {
      this.fd = fd
    }
  }
  await withPair(t, async (a) => {
    for (const fd of [1.5, NaN, 2 ** 31, -1, '1', null, undefined]) {
      const error = await t.throwsAsync<NodeJS.ErrnoException>(
        a.sendFd(new FileHandle(fd) as never),
        undefined,
        `${fd}`
      )
      t.regex(error?.code ?? '', /^ERR_(INVALID_ARG_TYPE|INVALID_ARG_VALUE|OUT_OF_RANGE)$/)
    }
  })
})

test.serial('descriptors come in an array [C11]', async (t) => {
  const good = openFile()
  const lists = [5, 0, 'abc', '', true, false, {}, { length: 1, 0: good }, new Set([good]), Int32Array.of(good), good]
  await withPair(t, async (a) => {
    for (const fds of lists) {
      await rejects(t, `fds: ${String(fds)}`, TYPE, () => loose(a, 'send')('x', { fds }))
    }
  })
  closeSync(good)
})

test.serial('bytes are a string or a Uint8Array [C11.1]', async (t) => {
  const file = openFile()
  await withPair(t, async (a) => {
    for (const data of [...notBytes, new Uint16Array(2), new String('x')]) {
      await rejects(t, String(data), TYPE, () => loose(a, 'send')(data))
      await rejects(t, String(data), TYPE, () => loose(a, 'send')(data, { fds: [file] }))
      await rejects(t, String(data), TYPE, () => loose(a, 'sendFd')(file, data))
      await rejects(t, String(data), TYPE, () => looseSendFd(a, file, data))
    }
    await rejects(t, 'no bytes', TYPE, () => loose(a, 'send')())
    await rejects(t, 'no descriptor', TYPE, () => loose(a, 'sendFd')())
  })
  closeSync(file)
})

test.serial('options are an object', async (t) => {
  const file = openFile()
  await withPair(t, async (a) => {
    for (const options of notOptions) {
      const name = String(options)
      await rejects(t, name, TYPE, () => loose(a, 'send')('x', options))
      await rejects(t, name, TYPE, () => loose(a, 'sendFd')(file, 'x', options))
      await rejects(t, name, TYPE, () => looseSendFd(a, file, 'x', options))
      await rejects(t, name, TYPE, () => loose(a, 'recv')(options))
      await rejects(t, name, TYPE, () => loose(a, 'recvFd')(options))
      await rejects(t, name, TYPE, () => looseRecvFd(a, options))
      t.throws(() => loose(a, 'messages')(options), { code: TYPE }, name)
      t.throws(() => looseSocketpair(options), { code: TYPE }, name)
    }
  })
  closeSync(file)
})

test.serial('a signal is an AbortSignal, also where the operation has to wait', async (t) => {
  const file = openFile()
  await withPair(t, async (a) => {
    for (const signal of notSignals) {
      const name = `signal: ${String(signal)}`
      await rejects(t, name, TYPE, () => loose(a, 'send')('x', { signal }))
      await rejects(t, name, TYPE, () => loose(a, 'sendFd')(file, 'x', { signal }))
      await rejects(t, name, TYPE, () => looseSendFd(a, file, 'x', { signal }))
      await rejects(t, name, TYPE, () => loose(a, 'recv')({ signal }))
      await rejects(t, name, TYPE, () => loose(a, 'recvFd')({ signal }))
      await rejects(t, name, TYPE, () => looseRecvFd(a, { signal }))
      t.throws(() => loose(a, 'messages')({ signal }), { code: TYPE }, name)
    }
  })
  closeSync(file)
})

test.serial('what is refused while the socket is full leaves no duplicate behind [C11]', async (t) => {
  const [a, b] = socketpair()
  const file = openFile()
  const length = 4 * 1024 * 1024
  const filler = a.send(Buffer.alloc(length))
  const { sources } = await badSources()
  const before = countFds()
  for (const signal of notSignals) {
    const name = `signal: ${String(signal)}`
    await rejects(t, name, TYPE, () => loose(a, 'send')('x', { fds: [file, file], signal }))
    await rejects(t, name, TYPE, () => loose(a, 'sendFd')(file, 'x', { signal }))
  }
  for (const [name, source, code] of sources) {
    await rejects(t, name, code, () => loose(a, 'send')('x', { fds: [file, file, source] }))
  }
  t.is(countFds(), before)
  const last = a.send('last')
  const { data, fds } = await receiveBytes(b, length + 4)
  t.is(data.subarray(length).toString(), 'last')
  t.deepEqual(fds, [])
  await Promise.all([filler, last])
  closeSync(file)
  a.close()
  b.close()
})

test.serial('a FileHandle stays open, whatever becomes of its send', async (t) => {
  const handle: FileHandle = await open(temporaryFile('of the handle'))
  const [a, b] = socketpair()
  await a.sendFd(handle)
  await t.throwsAsync(a.send('x', { fds: [handle, -1] }), { code: RANGE })
  b.close()
  await t.throwsAsync(a.sendFd(handle), { code: 'EPIPE' })
  a.close()
  await t.throwsAsync(a.sendFd(handle), { code: 'ERR_SOCKET_CLOSED' })
  t.is(await handle.readFile('utf8'), 'of the handle')
  await handle.close()
})
