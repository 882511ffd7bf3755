import { once } from 'node:events'
import { constants } from 'node:fs'
import { Descriptor } from 'fdpass'
import { VALUE, loose, throws } from '../helpers/arguments.ts'
import { hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { statusFlags } from '../helpers/descriptors.ts'
import { openPty } from '../helpers/things.ts'

const isNode = !('bun' in process.versions || 'deno' in process.versions)

const withPython = onlyIf(isNode && isLinux && hasPython, "needs Node's own handles, Linux and Python 3.9")

withPython('a terminal that Node refuses to make a stream stays as it was', async (t) => {
  const [master, slave] = await openPty()
  for (const end of [master, slave]) {
    using before = end.duplicate()
    throws(t, 'objectMode', VALUE, () => loose(end, 'toSocket')({ objectMode: true }))
    throws(t, 'highWaterMark', VALUE, () => loose(end, 'toSocket')({ highWaterMark: -1 }))
    end.setBlocking(false)
    t.not(statusFlags(before.fd) & constants.O_NONBLOCK, 0)
    end.setBlocking(true)
  }
  const terminal = slave.toSocket()
  const socket = master.toSocket().on('error', () => {})
  socket.write('works')
  t.is(String(((await once(terminal, 'data')) as [Buffer])[0]), 'works')
  socket.destroy()
  terminal.destroy()
})

/** Whether a descriptor's description is in non-blocking mode. */
const isNonBlocking = (descriptor: Descriptor) => (statusFlags(descriptor.fd) & constants.O_NONBLOCK) !== 0

withPython("a terminal is opened anew, so that its sender's mode stays", async (t) => {
  const [master, slave] = await openPty()
  using kept = slave.duplicate()
  const socket = slave.toSocket()
  t.false(isNonBlocking(kept))
  t.true(socket instanceof (await import('node:tty')).ReadStream)
  socket.destroy()
  master.closeSync()
})

withPython('a terminal can be read and written as files are', async (t) => {
  const [master, slave] = await openPty()
  const reader = slave.duplicate().toReadStream()
  const writer = slave.toWriteStream()
  const socket = master.toSocket()
  writer.write('out')
  t.is(String(((await once(socket, 'data')) as [Buffer])[0]), 'out')
  socket.write('in')
  t.is(String(((await once(reader, 'data')) as [Buffer])[0]), 'in')
  reader.destroy()
  writer.end()
  socket.on('error', () => {}) // EIO, once the other side is closed
  // The reader waits in read(2), on the thread pool.
  socket.write('more')
  await once(reader, 'close')
  socket.destroy()
})
