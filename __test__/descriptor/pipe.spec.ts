import { writeSync } from 'node:fs'
import test from 'ava'
import { Descriptor, pipe } from 'fdpass'
import { type Loose } from '../helpers/arguments.ts'
import { readToEnd } from '../helpers/casts/common.ts'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { CLOEXEC, readAll, statusFlags } from '../helpers/descriptors.ts'
import { startProgram } from '../helpers/processes.ts'

const onNode = onlyIf(!('bun' in process.versions || 'deno' in process.versions), "needs Node's own handles")

onNode('a pipe carries what is written, up to the end, and both ends are in blocking mode', async (t) => {
  const [read, write] = pipe()
  if (isLinux) {
    for (const { fd } of [read, write]) t.is(statusFlags(fd) & (0o4000 | CLOEXEC), CLOEXEC)
  }
  writeSync(write.fd, 'through a pipe')
  write.closeSync()
  t.is(readAll(read.fd), 'through a pipe')
  read.closeSync()
})

onNode("a pipe's ends are a program's standard input and output", async (t) => {
  const [input, output] = [pipe(), pipe()]
  const { socket, done } = startProgram('cat', [], { standard: [input[0].fd, output[1].fd, 'inherit'] })
  input[0].closeSync()
  output[1].closeSync()
  const writer = input[1].toSocket()
  writer.end('through cat')
  t.is(await readToEnd(output[0].toSocket()), 'through cat')
  await done
  socket.close()
})

onNode('writing to a pipe without a reader is EPIPE', (t) => {
  const [read, write] = pipe()
  read.closeSync()
  t.throws(() => writeSync(write.fd, 'x'), { code: 'EPIPE' })
  write.closeSync()
})

test('pipe takes nothing', (t) => {
  const [read, write] = (pipe as Loose)(5, {}) as [Descriptor, Descriptor]
  t.deepEqual([read.kind, write.kind], ['fifo', 'fifo'])
  read.closeSync()
  write.closeSync()
})
