import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import { socketClosed } from './errors.ts'
import { PollHandle } from '../event-loop/poll-handle.ts'
import { Receiver, type ReceivingSocket } from './receiver.ts'
import { Sender, type SendingSocket } from './sender.ts'

/** The type of a socket. */
export type SocketType = 'stream' | 'seqpacket' | 'dgram'

/** The channel of a socket, which replaces its sender and receiver. */
export interface Framing {
  /** Whether an operation is pending that needs a frame. */
  readonly waitsForInput: boolean
  /** Whether frames are pending that need room. */
  readonly waitsForRoom: boolean
  /** Whether a scheduled retry keeps the process alive. */
  set referenced(on: boolean)
  flushInput(): void
  flushOutput(): void
  /** Rejects all pending operations. */
  fail(error: () => Error): void
  /** Settles all pending operations, because this side has closed. */
  end(): void
  /** Closes the held messages, which outlive the socket if the peer has ended the channel. */
  drop(): void
}

/** The bounds of the count of tries: at the lower one, the next sixteen are left out. */
const MAX_HITS = 3
const MIN_HITS = -16

/** The handle of a socket that sends and receives. */
export class Endpoint extends PollHandle implements SendingSocket, ReceivingSocket {
  readonly type: SocketType
  /** Whether descriptors are accepted; otherwise a message that carries any is refused. */
  readonly takesFds: boolean
  #sender: Sender | undefined
  #receiver: Receiver | undefined
  /** A connection received by `receiveConnection` whose message is still incomplete; closed with the socket. */
  arriving: Descriptor | undefined
  /** The channel that the socket belongs to. */
  framing: Framing | undefined
  /** Called when the socket is closed or released. */
  onEnd: (() => void) | undefined
  /** Counts recent tries to receive that no event had caused. */
  #hits = MAX_HITS
  /** The senders with pending messages, by destination: one full receiver does not delay the others. */
  #senders: Map<string, Sender> | undefined

  constructor(fd: number, type: SocketType, takesFds: boolean) {
    super(fd)
    this.type = type
    this.takesFds = takesFds
  }

  get isStream(): boolean {
    return this.type === 'stream'
  }

  get isDatagram(): boolean {
    return this.type === 'dgram'
  }

  /** The sending half. Each half is made when it is first used. */
  get sender(): Sender {
    this.#sender ??= new Sender(this)
    return this.#sender
  }

  /** The receiving half. */
  get receiver(): Receiver {
    this.#receiver ??= new Receiver(this)
    return this.#receiver
  }

  /**
   * Whether a try to receive is worth its system call, although no event reports anything: in a ping-pong it never finds
   * anything, in a stream it always does. Each try that is left out brings the next one nearer.
   */
  isHopeful(): boolean {
    return this.#hits > 0 || ++this.#hits > 0
  }

  /** Notes whether a try that no event had caused has found something. */
  noteTry(found: boolean): void {
    if (found) this.#hits = Math.min(Math.max(this.#hits, 0) + 1, MAX_HITS)
    else this.#hits = this.#hits > 1 ? this.#hits - 1 : MIN_HITS
  }

  override get referenced(): boolean {
    return super.referenced
  }

  override set referenced(on: boolean) {
    super.referenced = on
    for (const sender of this.#allSenders()) sender.referenced = on
    if (this.framing !== undefined) this.framing.referenced = on
  }

  /** Returns the sender to an address. The socket keeps it while it has pending messages. */
  senderTo(address: string, name: Uint8Array): Sender {
    return this.#senders?.get(address) ?? new Sender(this, address, name)
  }

  /** Notes whether the sender to an address has pending messages. */
  setWaiting(address: string, sender: Sender, waits: boolean): void {
    this.#senders ??= new Map()
    if (waits) this.#senders.set(address, sender)
    else if (this.#senders.get(address) === sender) this.#senders.delete(address)
  }

  *#allSenders(): Iterable<Sender> {
    if (this.#sender !== undefined) yield this.#sender
    if (this.#senders !== undefined) yield* this.#senders.values()
  }

  protected get waitsForInput(): boolean {
    return (this.framing ?? this.#receiver)?.waitsForInput === true
  }

  protected override get waitsForRoom(): boolean {
    return (this.framing ?? this.#sender)?.waitsForRoom === true
  }

  protected flushInput(): void {
    ;(this.framing ?? this.#receiver)?.flushInput()
  }

  protected override flushOutput(): void {
    ;(this.framing ?? this.#sender)?.flushOutput()
  }

  protected fail(error: () => Error): void {
    this.framing?.fail(error)
    this.#receiver?.fail(error)
    this.#sender?.fail(error)
  }

  protected end(): number[] {
    this.onEnd?.()
    this.framing?.end()
    this.#receiver?.close()
    if (this.arriving !== undefined) closeFds(takeFds([this.arriving]))
    for (const sender of this.#allSenders()) sender.fail(socketClosed)
    return this.#receiver?.takeHeldFds() ?? []
  }
}
