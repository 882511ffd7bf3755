import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, readFileSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { type Descriptor, type SocketType, bind, capabilities, connect, listen, memfd, socketpair } from 'fdpass'
import { hasOutOfBand, hasPython, isLinux, onlyIf } from '../helpers/conditions.ts'
import { hasWriter, newFolder, newPath, openPipe, readAll } from '../helpers/descriptors.ts'
import { finish, fixtureSource, play } from '../helpers/processes.ts'
import { isPending } from '../helpers/promises.ts'
import { isReleased, text } from '../helpers/sockets.ts'

const onLinux = onlyIf(isLinux, 'needs Linux')

const withPython = onlyIf(hasPython && isLinux, 'needs Python 3.9 and Linux')

const outOfBandNeeds = [hasOutOfBand(), 'needs Linux 5.15 and Python 3.9'] as const

const withOutOfBand = onlyIf(...outOfBandNeeds)

const serialWithOutOfBand = onlyIf(...outOfBandNeeds, test.serial)

const withPidfds = onlyIf(capabilities().messagePidfd && hasPython, 'needs Linux 6.5 and Python 3.9')

const can = capabilities()

const types: readonly SocketType[] =
  process.platform === 'darwin' ? ['stream', 'dgram'] : ['stream', 'seqpacket', 'dgram']

const connections = types.filter((type) => type !== 'dgram') as readonly ('stream' | 'seqpacket')[]

/** Pipes whose writing ends can be told apart by use. */
function openPipes(count: number): { reads: number[]; writes: number[] } {
  const pipes = Array.from({ length: count }, openPipe)
  return { reads: pipes.map(({ read }) => read), writes: pipes.map(({ write }) => write) }
}

/** Writes through each descriptor, closes it, and returns the index of its pipe. */
function identify(fds: readonly Descriptor[], reads: readonly number[]): number[] {
  return fds.map((fd) => {
    writeSync(fd.fd, '!')
    fd.closeSync()
    return reads.findIndex((read) => {
      try {
        return readSync(read, Buffer.alloc(1)) === 1
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false
        throw error
      }
    })
  })
}

for (const type of types) {
  withPython(
    `a ${type} peer that refuses descriptors fails each send of some with EPERM, and bytes go (Linux scm_rights disabled) [F5.1]`,
    async (t) => {
      const [a, b] = socketpair({ type })
      const { read, write } = openPipe()
      const { socket, done } = play('set_option', 'passrights', '0')
      await socket.sendFd(b)
      const outcome = text(await socket.recv())
      t.is(outcome === 'set', can.passRights, outcome!)
      if (can.passRights) {
        await t.throwsAsync(a.sendFd(write), { code: 'EPERM', message: /, sendmsg$/ })
        await t.throwsAsync(a.send('refused', { fds: [write, write] }), { code: 'EPERM' })
        await a.send('bytes')
        t.is(text(await b.recv()), 'bytes')
        t.true(hasWriter(read), "still the caller's")
      }
      await done
      closeSync(write)
      t.false(hasWriter(read))
      closeSync(read)
      for (const each of [a, b, socket]) each.close()
    }
  )
}

withPython('an unrequested count of bytes closes the descriptors of its message (Linux scm_inq) [B11.2]', async (t) => {
  const [a, b] = socketpair()
  const { read, write } = openPipe()
  const { socket, done } = play('set_option', 'inq', '1')
  await socket.sendFd(b)
  const outcome = text(await socket.recv())
  await done
  await a.send('counted', { fds: [write] })
  closeSync(write)
  if (outcome === 'set') {
    const error = await t.throwsAsync(b.recv(), { code: 'ERR_UNEXPECTED_CONTROL' })
    t.is(text(error as unknown as { data: Uint8Array }), 'counted')
  } else {
    t.regex(outcome!, /not available/) // before Linux 6.17
    ;(await b.recv())!.close()
  }
  t.false(hasWriter(read))
  closeSync(read)
  for (const each of [a, b, socket]) each.close()
})

for (const type of connections) {
  onLinux(
    `a listener that closes with a ${type} connection unaccepted resets it, and closes what was sent (Linux unix_connreset closed_embryo) [E2.1]`,
    async (t) => {
      const server = await listen(newPath(), { type })
      const client = await connect(server.address, { type })
      const { read, write } = openPipe()
      await client.send('unread', { fds: [write] })
      closeSync(write)
      const waiting = client.recv()
      t.true(await isPending(waiting))
      server.close()
      await t.throwsAsync(waiting, { code: 'ECONNRESET' })
      t.is(await client.recv(), null)
      t.false(hasWriter(read))
      closeSync(read)
      client.close()
    }
  )
}

/** What is sent, `!` for a last byte out of band; what is received, with the steps whose descriptors came; and what was lost. */
const outOfBand: readonly (readonly [string, readonly string[], string, readonly number[]])[] = [
  ['oob_drop', ['x!', 'y'], 'y', [1]],
  ['oob_break', ['hello!'], 'hell', [0]],
  ['oob_break_drop', ['hello!', 'world'], 'hellworld', [0, 1]],
  ['ex_oob_break', ['hello!', 'wor!', 'ld'], 'hellowold', [0, 1, 2]],
  ['ex_oob_drop', ['x!', 'y!'], 'x', [0]],
  ['ex_oob_ahead_break', ['hello!', 'wor!', 'ld!'], 'helloworl', [0, 1, 2]]
]

for (const [name, steps, data, came] of outOfBand) {
  withOutOfBand(
    `descriptors beside bytes out of band come once or are closed, and the rest comes (Linux msg_oob ${name}) [B14.1] [S21]`,
    async (t) => {
      const { reads, writes } = openPipes(steps.length)
      const { socket, done } = play('out_of_band', ...steps)
      await socket.send('these', { fds: writes })
      writes.forEach((fd) => closeSync(fd))
      await done // so that all is there: an old byte out of band is an ordinary one once there is a new one
      const bytes: Uint8Array[] = []
      const fds: Descriptor[] = []
      for await (const message of socket) {
        bytes.push(message.data)
        fds.push(...message.fds)
      }
      t.is(Buffer.concat(bytes).toString(), data)
      t.deepEqual(identify(fds, reads), came)
      for (const read of reads) {
        t.false(hasWriter(read))
        closeSync(read)
      }
      socket.close()
    }
  )
}

serialWithOutOfBand(
  'a byte out of band that cannot be received does not keep the event loop busy (Linux msg_oob oob) [B14] [S21]',
  async (t) => {
    const { read, write } = openPipe()
    const { socket, child, done } = play('lone_out_of_band')
    await socket.send('this', { fds: [write] })
    closeSync(write)
    const receiving = socket.recv()
    t.regex(String(await once(child.stdout!, 'data')), /^sent/)
    t.true(await isReleased(read), 'dropped with its byte')
    const before = process.cpuUsage()
    await delay(300)
    const { user, system } = process.cpuUsage(before)
    t.true(user + system < 150_000, `${user + system} µs of 300,000`)
    t.true(await isPending(receiving))
    await socket.send('!')
    t.is(text(await receiving), 'in band')
    await done
    closeSync(read)
    socket.close()
  }
)

for (const type of ['stream', 'dgram'] as const) {
  withPidfds(
    `a message of a process that has exited since identifies that process, and no other (Linux scm_pidfd ${type}) [F4.2] [S32]`,
    async (t) => {
      const [ours, theirs] = socketpair({ type, credentials: true, pidfd: true })
      const child = spawn('python3', [fixtureSource('conformance.py'), 'orphan'], {
        stdio: ['ignore', 'pipe', 'inherit', theirs.fd]
      })
      theirs.close()
      const done = finish(child)
      await once(child, 'exit')
      await done // and so it was reaped
      using message = (await ours.recv())!
      t.is(text(message), 'last words')
      t.is(message.credentials!.pid, child.pid!)
      t.is(message.fds.length, 1)
      // From Linux 6.16 on there is a pidfd of the dead, before that none.
      if (message.pidfd !== undefined)
        t.regex(readFileSync(`/proc/self/fdinfo/${message.pidfd.fd}`, 'utf8'), /^Pid:\s+-1$/m)
      ours.close()
    }
  )
}

/** Sends pipes to a scene that sends them back in so many headers: all arrive, in their order, and nothing else stays open. */
async function comeBack(t: ExecutionContext, scene: string, counts: readonly number[]): Promise<void> {
  const { reads, writes } = openPipes(counts.reduce((sum, count) => sum + count, 0))
  const { socket, done } = play(scene, ...counts.map(String))
  await socket.send('these', { fds: writes })
  writes.forEach((fd) => closeSync(fd))
  const message = (await socket.recv())!
  t.is(text(message), scene)
  await done
  t.deepEqual(identify(message.fds, reads), [...reads.keys()])
  for (const read of reads) {
    t.false(hasWriter(read))
    closeSync(read)
  }
  socket.close()
}

for (const counts of [[0], [0, 1], [1, 0], [0, 2, 0], [1, 0, 2], [1, 1, 1]]) {
  withPython(
    `headers with ${counts.join(', ')} descriptors in one message: all arrive (CPython testFDPassSeparate, testFDPassEmpty, FreeBSD empty_rights_message) [B10.1]`,
    (t) => comeBack(t, 'headers', counts)
  )
}

for (const [name, counts] of [
  ['testFDPassPartialInt', [1]],
  ['testFDPassPartialIntInMiddle', [1, 2]]
] as const) {
  withPython(
    `half a number behind the descriptors of a header is no descriptor, and no harm (CPython ${name}) [C7.1]`,
    (t) => comeBack(t, 'partial', counts)
  )
}

const HEADER = 16

// CMSG_LEN(0) where a size_t has 8 bytes
for (const [name, size, most] of [
  ['testCmsgTruncNoBufSize', 0, 0],
  ['testCmsgTrunc1', 1, 0],
  ['testCmsgTrunc2Int', 8, 0],
  ['testCmsgTruncLen0Minus1', HEADER - 1, 0],
  ['testCmsgTruncLen0', HEADER, 0],
  ['testCmsgTruncLen0Plus1', HEADER + 1, 0],
  ['testCmsgTruncLen1', HEADER + 4, 1],
  ['testCmsgTruncLen2Minus1', HEADER + 7, 1],
  ['testMultipleFDPass', HEADER + 8, 2]
] as const) {
  withPython(
    `a peer with room for ${size} bytes of control data gets ${most} of two descriptors, and the next message whole (CPython ${name}) [C6.1]`,
    async (t) => {
      const { read, write } = openPipe()
      const { socket, done } = play('room', `${size}`)
      await socket.send('first', { fds: [write, write] })
      await socket.send('second', { fds: [write, write] })
      closeSync(write)
      t.is(await done, `first ${most} ${most === 2 ? 'whole' : 'truncated'}\nsecond 2 whole\n`)
      t.false(hasWriter(read), 'what the peer did not get is open nowhere')
      closeSync(read)
      socket.close()
    }
  )
}

withPython(
  'a process that shares a socket and peeks gets duplicates, and this process gets all (tokio-seqpacket ancillary_fds_peek, CPython testRecvmsgPeek) [D7.1]',
  async (t) => {
    const [a, b] = socketpair()
    const { read, write } = openPipe()
    await a.send('whole', { fds: [write, write] })
    closeSync(write)
    const { socket, done } = play('peek')
    await socket.sendFd(b)
    t.is(await done, 'whole 2\nwhole 2\n')
    const message = (await b.recv())!
    t.is(text(message), 'whole')
    t.is(message.fds.length, 2)
    writeSync(message.fds[1]!.fd, 'received')
    message.close()
    t.is(readAll(read), 'peeked,peeked,received')
    closeSync(read)
    for (const each of [a, b, socket]) each.close()
  }
)

withPython(
  'the path of a sender that is not UTF-8 is decoded with U+FFFD (CPython testBytesAddr) [F3.2]',
  async (t) => {
    const receiver = bind(newPath())
    const folder = newFolder()
    const { socket, done } = play('bytes_path', folder, receiver.localAddress!)
    const message = (await receiver.recv())!
    t.is(message.address, join(folder, 'caf\ufffd'))
    await done
    receiver.close()
    socket.close()
  }
)

for (const type of connections) {
  test(`1,024 questions with a descriptor over a ${type} socket get theirs back (tokio-seqpacket echo_loop) [E6.1]`, async (t) => {
    const [client, server] = socketpair({ type })
    const memory = memfd({ data: 'the same' })
    const serving = (async () => {
      for await (const message of server) {
        await server.send(message.data, { fds: message.fds })
        message.close()
      }
    })()
    for (let i = 0; i < 1024; i++) {
      await client.send(`Hello #${i}`, { fds: [memory] })
      using answer = (await client.recv())!
      t.is(text(answer), `Hello #${i}`)
      t.is(answer.fds[0]!.kind, 'memfd')
      if (i % 256 === 0) {
        const content = Buffer.alloc(8)
        readSync(answer.fds[0]!.fd, content, { position: 0 })
        t.is(content.toString(), 'the same')
      }
    }
    client.close()
    await serving
    memory.closeSync()
    server.close()
  })
}
