// Channels to other processes, with descriptors and requests in both directions, while these processes are killed, and both sides'
// descriptor tables are near their limit. Each request is answered with what belongs to it, or rejects; messages keep their order.
import { fstatSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { Channel, type ChannelMessage, type Descriptor, memfd, socketpair } from 'fdpass'
import { type Program, type Scene, play, programPath } from './scene.ts'

const PEERS = 3
const MAX_FDS = 64

interface Question {
  n: number
  inodes: number[]
  back: number
  pause: number
  text: string
}
interface Answer {
  n: number
  inodes: number[]
  text: string
}

const inode = (descriptor: Descriptor) => fstatSync(descriptor.fd).ino

/** What a request may reject with where its peer was killed, or has broken the channel. */
const GONE = ['ECONNRESET', 'EPIPE', 'ERR_SOCKET_CLOSED', 'EMSGSIZE', 'EPROTO']
/** Where one of the descriptor tables was full. */
const FULL = ['ERR_CONTROL_TRUNCATED', 'EMFILE']

function same(left: readonly number[], right: readonly number[]): boolean {
  return left.length === right.length && left.every((ino, i) => ino === right[i])
}

/** One peer from its start to its end. */
class Peer {
  readonly channel: Channel
  readonly program: Program
  isOver = false
  /** Whether nothing is asked any more. */
  isDone = false
  #next = 0
  #received = 0

  readonly scene: Scene
  readonly files: readonly Descriptor[]

  constructor(scene: Scene, files: readonly Descriptor[]) {
    this.scene = scene
    this.files = files
    const [socket, theirs] = socketpair()
    try {
      this.program = scene.start(programPath('clients'), ['channel', `${scene.random.below(2 ** 31)}`, `${MAX_FDS}`], {
        stdio: ['ignore', 'ignore', 'inherit', theirs.fd],
        limit: scene.between(70, 200)
      })
    } finally {
      theirs.close()
    }
    this.channel = new Channel(socket, { maxFds: MAX_FDS + 8 })
    this.channel.onRequest(async ({ value, fds }) => {
      const asked = value as { n: number }
      scene.count('requests handled')
      await delay(scene.random.below(5))
      for (const fd of fds) fd.closeSync()
      return { value: { n: asked.n }, fds: [memfd({ data: `${asked.n}` })] }
    })
  }

  kill(): void {
    this.isOver = true
    this.program.child.kill('SIGKILL')
    this.scene.count('kills')
  }

  /** Takes what the peer sends on its own. */
  async receive(): Promise<void> {
    for (;;) {
      let message: ChannelMessage | null
      try {
        message = await this.channel.receive()
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        this.scene.told('receive', error, [...FULL, ...(this.isOver ? GONE : [])])
        if (!FULL.includes(code!)) return
        this.#received++
        continue
      }
      if (message === null) return
      const { n } = message.value as { n: number }
      if (n !== this.#received++) this.scene.problem(`message ${n} came in the place of ${this.#received - 1}`)
      this.scene.count('messages')
      this.scene.count('transfers', message.fds.length)
      message.close()
    }
  }

  async ask(): Promise<void> {
    const { scene } = this
    const { below } = scene.random
    const files = Array.from({ length: scene.oneIn(3) ? below(MAX_FDS) : below(4) }, () => below(this.files.length))
    const question: Question = {
      n: this.#next++,
      inodes: files.map((file) => inode(this.files[file]!)),
      back: below(files.length + 1),
      pause: below(20),
      text: 'x'.repeat(scene.oneIn(20) ? below(300_000) : below(1000))
    }
    const signal = scene.oneIn(20) ? AbortSignal.timeout(below(20)) : undefined
    scene.count('requests')
    let full = false
    try {
      const fds = files.map((file) => this.files[file]!)
      const answer = await scene.settles('request', this.channel.request(question, fds, { signal }))
      const { n, inodes, text } = answer.value as Answer
      const right =
        n === question.n &&
        text.length === question.text.length &&
        same(inodes, question.inodes) &&
        same(answer.fds.map(inode), question.inodes.slice(0, question.back))
      if (!right)
        scene.problem(
          `request ${question.n} got the answer ${n} with ${answer.fds.length} of ${question.back} descriptors`
        )
      scene.count('answered')
      scene.count('transfers', files.length + answer.fds.length)
      answer.close()
    } catch (error) {
      full = FULL.includes((error as NodeJS.ErrnoException).code!)
      scene.told('request', error, [...FULL, ...(this.isOver ? GONE : []), ...(signal ? ['ABORT_ERR'] : [])])
      scene.count('told')
    }
    if (full) await delay(20)
  }
}

await play(async (scene) => {
  const files = Array.from({ length: 16 }, (_, i) => memfd({ data: `${i}` }))
  const peers = new Set<Peer>()
  const lane = async () => {
    while (!scene.stopped) {
      await scene.room()
      const peer = new Peer(scene, files)
      peers.add(peer)
      const receiving = peer.receive()
      const closed = peer.channel.closed
      const askers = Array.from({ length: 6 }, async () => {
        while (!peer.isDone) {
          await peer.ask()
          await delay(scene.random.below(60))
        }
      })
      const life = scene.between(500, 8000)
      for (let left = life; left > 0 && !scene.stopped; left -= 100) await delay(Math.min(left, 100))
      const end = scene.stopped ? 0 : scene.random.below(4)
      if (end === 3) {
        // A message over the other end's limit ends the channel at both, with a reason.
        peer.isOver = true
        const over = Array.from({ length: MAX_FDS + 4 }, () => files[0]!)
        try {
          await peer.channel.send('too many', over)
          const why = await scene.settles('the end after a message over the limit', closed)
          scene.count(`ended: ${(why as NodeJS.ErrnoException | null)?.code}`)
        } catch (error) {
          // Where it could not be sent the channel goes on.
          scene.told('a message over the limit', error, [...FULL, ...GONE])
        }
        peer.program.child.kill('SIGKILL')
      } else if (end > 0) peer.kill()
      peer.isDone = true
      if (end === 0) {
        await Promise.all(askers)
        peer.isOver = true
        peer.channel.close()
      }
      await Promise.all(askers)
      await scene.settles('the end of a channel', closed)
      peer.channel.close()
      await receiving
      await scene.settles('the end of a peer', peer.program.ended)
      peers.delete(peer)
    }
  }
  await Promise.all([
    ...Array.from({ length: PEERS }, async () => {
      while (!scene.stopped) {
        try {
          await lane()
        } catch (error) {
          scene.told('lane', error, FULL)
        }
      }
    }),
    scene.repeat(2000, 6000, () => scene.fillTable(200))
  ])
  for (const file of files) file.closeSync()
})
