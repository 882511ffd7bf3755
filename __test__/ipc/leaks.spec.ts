import test from 'ava'
import { type UnixSocket, memfd, socketpair } from 'fdpass'
import { NodeChannel } from 'fdpass/ipc'
import { isLinux, onlyIf } from '../helpers/conditions.ts'
import { countFds } from '../helpers/descriptors.ts'
import { turns } from '../helpers/promises.ts'
import { receiveSoon } from '../helpers/sockets.ts'

const serially = onlyIf(isLinux, 'counts descriptors by /proc', test.serial)
const line = (value: unknown) => `${JSON.stringify(value)}\n`
const HANDLE = line({ cmd: 'NODE_HANDLE', type: 'net.Socket', msg: 'message' })

/** What happens to a channel, its other end, and a stream to be sent. */
type Scene = (channel: NodeChannel, peer: UnixSocket, thing: UnixSocket) => Promise<unknown>

const scenes: Record<string, Scene> = {
  async acknowledged(channel, peer, thing) {
    const sending = channel.send('message', thing)
    ;(await receiveSoon(peer)).close()
    await peer.send(line({ cmd: 'NODE_HANDLE_ACK' }))
    await sending
  },
  async received(channel, peer, thing) {
    await peer.sendFd(thing, HANDLE)
    ;(await channel.receive())![Symbol.dispose]()
  },
  async 'not received'(channel, peer, thing) {
    await peer.sendFd(thing, HANDLE + line('plain'))
    void channel.send('waits', thing).catch(() => {})
    ;(await receiveSoon(peer)).close()
  },
  async refused(channel, _, thing) {
    using memory = memfd({ data: 'x' })
    const calls = [
      channel.send('message', memory),
      channel.send({ cmd: 'NODE_X' }, thing),
      channel.send({ a: 1n }, thing)
    ]
    await Promise.allSettled(calls)
  },
  async 'not acknowledged'(channel, peer, thing) {
    const sent = [channel.send('one', thing), channel.send('two', thing)]
    ;(await receiveSoon(peer)).close()
    peer.close()
    await Promise.allSettled([...sent, channel.receive()])
  },
  async 'sent in vain'(channel, peer, thing) {
    peer.close()
    await Promise.allSettled([channel.send('one', thing), channel.send('two', thing)])
  },
  async aborted(channel, _, thing) {
    const ending = new AbortController()
    const { signal } = ending
    const calls = [
      channel.send('one', thing, { signal }),
      channel.send('two', thing, { signal }),
      channel.receive({ signal })
    ]
    ending.abort()
    await Promise.allSettled(calls)
  },
  async 'broken off'(channel, peer, thing) {
    void channel.send('waits', thing).catch(() => {})
    await peer.send('no JSON\n', { fds: [thing, thing] })
    await channel.receive().catch(() => {})
  },
  async 'without a message'(channel, peer, thing) {
    await peer.send(' ', { fds: [thing, thing] })
    peer.close()
    await channel.receive().catch(() => {})
  },
  async 'lost four times'(channel, peer, thing) {
    const sending = channel.send('lost', thing)
    for (let i = 0; i < 4; i++) {
      ;(await receiveSoon(peer)).close()
      await peer.send(line({ cmd: 'NODE_HANDLE_NACK' }))
    }
    await sending.catch(() => {})
  }
}

async function run(scene: Scene): Promise<void> {
  const [socket, peer] = socketpair()
  const [thing, other] = socketpair()
  const channel = new NodeChannel(socket)
  await scene(channel, peer, thing)
  for (const each of [channel, peer, thing, other]) each.close()
  await turns() // sends that have failed are over
}

for (const [title, scene] of Object.entries(scenes)) {
  serially(`a channel leaves no descriptor open: ${title}`, async (t) => {
    await run(scene) // opens what is open once
    const before = countFds()
    for (let i = 0; i < 20; i++) await run(scene)
    t.is(countFds(), before)
  })
}
