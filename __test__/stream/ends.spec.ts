import { once } from 'node:events'
import { closeSync } from 'node:fs'
import test from 'ava'
import { socketpair } from 'fdpass'
import { hasWriter, openFile, openPipe, readAll } from '../helpers/descriptors.ts'
import { event, openStream, receiveBytes, text } from '../helpers/sockets.ts'

const soon = () => ({ signal: AbortSignal.timeout(30_000) })

test('with allowHalfOpen, a stream is written to after the end of its peer', async (t) => {
  const [ours, socket] = socketpair()
  const stream = ours.toStream({ allowHalfOpen: true })
  socket.shutdown('write')
  stream.resume()
  await once(stream, 'end', soon())
  stream.end('an answer')
  t.is(text(await socket.recv()), 'an answer')
  t.is(await socket.recv(), null)
  socket.close()
  await event(stream, 'close')
})

test('end sends pending data and then the end; what the peer still sends is read', async (t) => {
  const { stream, socket } = openStream(t)
  const file = openFile('last')
  stream.write(Buffer.alloc(2 * 1024 * 1024))
  stream.writeWithFds('last', [file])
  stream.end()
  closeSync(file)
  const { fds } = await receiveBytes(socket, 2 * 1024 * 1024 + 4)
  t.is(readAll(fds[0]!.fd), 'last')
  fds[0]!.closeSync()
  t.is(await socket.recv(), null)
  await socket.send('an answer')
  const [data] = await once(stream, 'data', soon())
  t.is(String(data), 'an answer')
  t.false(stream.destroyed)
  socket.close()
  await once(stream, 'close', soon())
})

test("the peer's end ends the stream, which closes", async (t) => {
  const { stream, socket } = openStream(t)
  await socket.send('last')
  socket.shutdown('write')
  const ended = once(stream, 'end', soon())
  stream.resume()
  await ended
  await once(stream, 'close', soon())
  t.is(await socket.recv(), null)
})

test('a peer that has gone is an error of the stream: EPIPE', async (t) => {
  const { stream, socket } = openStream(t)
  socket.close()
  const failed = event(stream, 'close')
  const error = event(stream, 'error')
  stream.writeWithFds('x', [0])
  t.like(await error, { code: 'EPIPE', syscall: 'sendmsg' })
  await failed
  t.true(stream.destroyed)
})

test('writing after the end, or after destroy, is the error of any stream, and nothing is captured', async (t) => {
  for (const finish of ['end', 'destroy'] as const) {
    const { stream } = openStream(t)
    const { read, write } = openPipe()
    stream[finish]()
    const error = event(stream, 'error')
    t.false(stream.writeWithFds('late', [write]))
    if (finish === 'end') t.like(await error, { code: 'ERR_STREAM_WRITE_AFTER_END' })
    closeSync(write)
    t.false(hasWriter(read))
    closeSync(read)
  }
})
