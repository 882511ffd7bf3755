import { closeFds, closeFdsLater } from './descriptor.ts'
import { socketClosed, systemError } from './errors.ts'
import { READABLE, WRITABLE, native } from './native.ts'
import { type Watched, hold, setWatcher } from './reactor.ts'
import { Receiver } from './receiver.ts'
import { Sender } from './sender.ts'

/** The type of a socket, which decides what a message is. */
export type SocketType = 'stream' | 'seqpacket' | 'dgram'

/** The types by the native side's code for them. */
export const socketTypes: readonly SocketType[] = ['stream', 'seqpacket', 'dgram']

/**
 * A socket as the reactor knows it: its number, what waits on it, and what it is armed for.
 *
 * It does not refer to its `UnixSocket`, so that one which nobody uses any more can be collected; an operation that
 * waits does.
 */
export class Endpoint implements Watched {
  readonly fd: number
  readonly type: SocketType
  readonly isStream: boolean
  readonly sender: Sender = new Sender(this)
  readonly receiver: Receiver = new Receiver(this)
  closed = false
  #armed = 0
  #held = false
  #referenced = true

  constructor(fd: number, typeCode: number) {
    this.fd = fd
    this.type = socketTypes[typeCode]!
    this.isStream = this.type === 'stream'
    setWatcher(fd, this)
  }

  /** Whether the reactor watches for something to receive. */
  get armedForReading(): boolean {
    return (this.#armed & READABLE) !== 0
  }

  /** Whether operations that wait keep the process alive. */
  get referenced(): boolean {
    return this.#referenced
  }

  set referenced(on: boolean) {
    this.#referenced = on
    this.sender.referenced = on
    this.update()
  }

  ready(events: number, armed: number): void {
    this.#armed = armed
    // Arming costs a system call, so a socket stays armed for receiving until it reports in vain.
    const inVain = (events & READABLE) !== 0 && !this.receiver.waiting ? READABLE : 0
    if ((events & READABLE) !== 0) this.receiver.flush()
    if ((events & WRITABLE) !== 0) this.sender.flush()
    this.update(inVain)
  }

  /** Brings the reactor in line with what waits. */
  update(inVain = 0): void {
    if (this.closed) return
    const reading = this.receiver.waiting
    const writing = this.sender.waitsForRoom
    const events = (reading ? READABLE : this.#armed & READABLE & ~inVain) | (writing ? WRITABLE : 0)
    if (events !== this.#armed) {
      const code = native.watch(this.fd, events)
      if (code < 0) return this.#fail(code)
      this.#armed = events
    }
    this.#hold(this.#referenced && (reading || writing))
  }

  /** Keeps the process alive, or no longer. */
  #hold(on: boolean): void {
    if (on === this.#held) return
    this.#held = on
    hold(on)
  }

  /** What waits cannot be told when to go on. */
  #fail(code: number): void {
    const error = () => systemError(code, 'uv_poll_start')
    this.receiver.fail(error)
    this.sender.fail(error)
    this.#hold(false)
  }

  /** Ends what waits and gives the numbers to the caller: the socket's, and those of what was received ahead. */
  #detach(): number[] {
    this.closed = true
    setWatcher(this.fd, undefined)
    this.#hold(false)
    this.receiver.close()
    this.sender.fail(socketClosed)
    return [this.fd, ...this.receiver.takeHeldFds()]
  }

  /** Closes the socket and all that belongs to it. */
  close(): void {
    if (!this.closed) closeFds(this.#detach())
  }

  /** As `close`, on the thread pool. */
  async closeLater(): Promise<void> {
    if (!this.closed) await closeFdsLater(this.#detach())
  }

  /** Gives the number up; nothing may be held. */
  release(): number {
    this.#detach()
    native.release(this.fd)
    return this.fd
  }
}
