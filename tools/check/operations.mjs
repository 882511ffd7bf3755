// Runs a few hundred operations on one back end, under the checkers of tools/check/sanitizers.mjs, and leaves nothing open. It is no test
// of behaviour, and it is small, because a checker makes Node about fifty times slower.
import assert from 'node:assert/strict'
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Channel, Descriptor, connect, listen, memfd, pipe, recvFd, sendFd, socketpair } from 'fdpass'

const rounds = Number(process.argv[2] ?? 20)
let operations = 0
const done = (value) => ((operations += 1), value)
const inode = ({ fd }) => fstatSync(fd).ino

/** Sends messages over each type of socket, with and without descriptors, before and after the receive begins. */
async function messages(type) {
  const [a, b] = socketpair({ type })
  for (let round = 0; round < rounds; round += 1) {
    const file = openSync('/dev/null')
    const memory = memfd({ size: 4 })
    writeSync(memory.fd, 'abcd', 0)
    const pending = b.recv({ maxFds: 2 })
    done(await a.send(`message ${round}`, { fds: [file, memory] }))
    closeSync(file)
    const message = done(await pending)
    assert.equal(Buffer.from(message.data).toString(), `message ${round}`)
    assert.equal(inode(message.fds[1]), inode(memory))
    assert.equal(readFileSync(message.fds[1].fd, 'utf8'), 'abcd')
    message.close()
    memory.closeSync()
    done(await a.send('plain'))
    done(await b.recv())
  }
  const abort = new AbortController()
  const never = assert.rejects(b.recv({ signal: abort.signal }), { name: 'AbortError' })
  abort.abort()
  done(await never)
  await assert.rejects(a.send('x', { fds: [987_654] }), { code: 'EBADF' })
  a.close()
  b.close()
}

/** Sends more than the socket's buffer holds, so that sends wait. */
async function flood() {
  const [a, b] = socketpair()
  const [end, other] = pipe()
  const sends = Array.from({ length: 3 * rounds }, () => sendFd(a, other, Buffer.alloc(20_000)))
  for (let received = 0; received < sends.length;) {
    const { fd, data } = done(await recvFd(b, { maxBytes: 100_000 }))
    assert(data.length > 0)
    if (fd !== null) {
      received += 1
      fd.closeSync()
    }
  }
  await Promise.all(sends)
  for (const one of [a, b]) one.close()
  for (const one of [end, other]) one.closeSync()
}

/** Makes requests over a channel, including one that fails. */
async function channels() {
  const [a, b] = socketpair().map((socket) => new Channel(socket))
  b.onRequest(({ value, fds }) => {
    if (value === 'fail') throw new Error('failed')
    return { value, fds } // the descriptors return with the answer
  })
  for (let round = 0; round < rounds; round += 1) {
    const memory = memfd({ size: 1 })
    const answer = done(await a.request({ round }, [memory], { timeout: 300_000 }))
    assert.deepEqual(answer.value, { round })
    assert.equal(inode(answer.fds[0]), inode(memory))
    answer.close()
    memory.closeSync()
  }
  done(await assert.rejects(a.request('fail'), { message: 'failed' }))
  a.close()
  done(await b.closed)
}

/** Accepts connections, and adopts and releases descriptors. */
async function connections() {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-operations-'))
  const server = await listen(join(folder, 'socket'))
  for (let round = 0; round < rounds; round += 1) {
    const [client, connection] = await Promise.all([connect(join(folder, 'socket')), server.accept()])
    const file = Descriptor.from(openSync('/dev/null'))
    done(await client.send('x', { fds: [file] }))
    file.closeSync()
    client.close()
    done(await connection.recv()).close()
    assert.equal(done(await connection.recv()), null)
    connection.close()
  }
  server.close()
  rmSync(folder, { recursive: true })
}

for (const type of ['stream', 'seqpacket', 'dgram']) await messages(type)
await flood()
await channels()
await connections()
console.log(`${operations} operations`)
