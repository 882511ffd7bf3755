import { Waiter, Waiters, withCode } from '../base/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { closeQuietly } from '../descriptor/internal.ts'
import type { UnixSocket } from '../socket/index.ts'

/** How often a descriptor is sent again after the peer failed to receive it: as often as Node does. */
const MAX_RETRIES = 3

/** A pending send. */
class PendingSend extends Waiter<void> {
  readonly line: Buffer
  /** A duplicate, which is kept until the peer has acknowledged it. */
  readonly descriptor: Descriptor | undefined
  retries = 0

  constructor(line: Buffer, descriptor: Descriptor | undefined) {
    super()
    this.line = line
    this.descriptor = descriptor
  }
}

/** Sends messages in order. Messages after a descriptor wait until the peer has acknowledged it. */
export class Sender {
  readonly #socket: UnixSocket
  readonly #onChange: () => void
  readonly #pending = new Waiters<PendingSend>(this)
  /** The pending sends that were not passed to the socket. */
  readonly #unwritten = new Set<PendingSend>()
  #unacknowledged: PendingSend | undefined
  /** The number of lines that were passed to the socket, and have not settled. */
  #writing = 0

  /** @param onChange called when an acknowledgement may be awaited that was not before, or no longer, and when a line has settled */
  constructor(socket: UnixSocket, onChange: () => void) {
    this.#socket = socket
    this.#onChange = onChange
  }

  /** Whether an acknowledgement is awaited. */
  get awaitsAcknowledgement(): boolean {
    return this.#unacknowledged !== undefined
  }

  /** Whether the socket has lines to send. */
  get isWriting(): boolean {
    return this.#writing > 0
  }

  /**
   * Sends a line.
   *
   * @param descriptor a duplicate, which the sender owns from now on
   * @param signal withdraws a line that was not passed to the socket; of one that was, it only ends the waiting
   */
  send(line: Buffer, descriptor: Descriptor | undefined, signal: AbortSignal | undefined): Promise<void> {
    const send = new PendingSend(line, descriptor)
    const sent = this.#pending.add<void>(send, signal)
    if (this.#unacknowledged === undefined && this.#unwritten.size === 0) void this.#write(send)
    else this.#unwritten.add(send)
    this.#onChange()
    return sent
  }

  waiterAborted(send: PendingSend): void {
    if (this.#unwritten.delete(send)) closeQuietly(send.descriptor)
  }

  /** Passes lines to the socket, up to and including one with a descriptor. */
  #flush(): void {
    for (const send of this.#unwritten) {
      if (this.#unacknowledged !== undefined) break
      this.#unwritten.delete(send)
      void this.#write(send)
    }
    this.#onChange()
  }

  async #write(send: PendingSend): Promise<void> {
    const { descriptor, line } = send
    if (descriptor !== undefined) this.#unacknowledged = send
    this.#writing++
    try {
      // Without the signal: an abort within a line would end the stream.
      await this.#socket.send(line, { fds: descriptor === undefined ? [] : [descriptor] })
      this.#writing--
      if (descriptor === undefined) this.#finish(send)
    } catch (error) {
      this.#writing--
      this.#finish(send, () => error as Error)
      if (this.#unacknowledged === send) {
        this.#unacknowledged = undefined
        if (!this.#socket.closed) return this.#flush()
      }
    }
    this.#onChange()
  }

  #finish(send: PendingSend, error?: () => Error): void {
    closeQuietly(send.descriptor)
    if (error === undefined) this.#pending.resolve(send, undefined)
    else this.#pending.reject(send, error)
  }

  /** Called when the peer has received the descriptor. */
  acknowledge(): void {
    this.#finishUnacknowledged()
  }

  /** Called when the peer could not receive the descriptor: sends it again, or rejects it. */
  retry(): void {
    const send = this.#unacknowledged
    if (send === undefined) return
    if (send.retries++ < MAX_RETRIES) void this.#write(send)
    else this.#finishUnacknowledged(notReceived)
  }

  #finishUnacknowledged(error?: () => Error): void {
    const send = this.#unacknowledged
    if (send === undefined) return
    this.#unacknowledged = undefined
    this.#finish(send, error)
    this.#flush()
  }

  /** Rejects the sends that wait for an acknowledgement, or for their turn. Sends in the socket settle by themselves. */
  fail(error: () => Error): void {
    if (this.#unacknowledged !== undefined) this.#finish(this.#unacknowledged, error)
    this.#unacknowledged = undefined
    for (const send of this.#unwritten) {
      this.#unwritten.delete(send)
      this.#finish(send, error)
    }
  }
}

/** The peer could not receive a descriptor in any attempt. */
function notReceived(): Error {
  return withCode(
    new Error(
      'The peer could not receive the descriptor: its descriptor table is full, or a security module refused the descriptor'
    ),
    'ERR_HANDLE_NOT_RECEIVED'
  )
}
