import { type Descriptor, takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import { socketClosed } from './errors.ts'
import { PollHandle } from '../event-loop/poll-handle.ts'
import { Receiver, type ReceivingSocket } from './receiver.ts'
import { Sender, type SendingSocket } from './sender.ts'

/** The type of a socket, which decides what a message is. */
export type SocketType = 'stream' | 'seqpacket' | 'dgram'

/** What takes the place of a socket's own sender and receiver: the two halves of a channel. */
export interface Framing {
  /** Whether frames that come in are wanted. */
  readonly waitsForInput: boolean
  /** Whether frames wait for room, and the reactor should tell when there is some. */
  readonly waitsForRoom: boolean
  /** Whether a pause keeps the process alive. */
  set referenced(on: boolean)
  flushInput(): void
  flushOutput(): void
  /** Fails everything that waits. */
  fail(error: () => Error): void
  /** Ends everything that waits, because this side has closed. */
  end(): void
  /** Closes what is held: it outlives the socket where the other end has ended the channel. */
  drop(): void
}

/** A socket that sends and receives. */
export class Endpoint extends PollHandle implements SendingSocket, ReceivingSocket {
  readonly type: SocketType
  readonly isStream: boolean
  readonly isDatagram: boolean
  /** Whether descriptors are received; otherwise a message that carries some is refused. */
  readonly takesFds: boolean
  readonly sender: Sender = new Sender(this)
  readonly receiver: Receiver = new Receiver(this)
  /** A connection of whose message the rest is still to come (`receiveConnection`): closed with the socket. */
  arriving: Descriptor | undefined
  /** The channel that the socket belongs to. */
  framing: Framing | undefined
  /** Those that wait to send to an address of their own, by address: one full receiver does not keep the others waiting. */
  readonly #senders = new Map<string, Sender>()

  constructor(fd: number, type: SocketType, takesFds: boolean) {
    super(fd)
    this.type = type
    this.isStream = this.type === 'stream'
    this.isDatagram = this.type === 'dgram'
    this.takesFds = takesFds
  }

  override get referenced(): boolean {
    return super.referenced
  }

  override set referenced(on: boolean) {
    super.referenced = on
    for (const sender of this.#allSenders()) sender.referenced = on
    if (this.framing !== undefined) this.framing.referenced = on
  }

  /** The sender to an address. It is known for as long as something waits in it. */
  senderTo(address: string, name: Uint8Array): Sender {
    return this.#senders.get(address) ?? new Sender(this, address, name)
  }

  /** Notes whether something waits in the sender to an address. */
  setWaiting(address: string, sender: Sender, waits: boolean): void {
    if (waits) this.#senders.set(address, sender)
    else if (this.#senders.get(address) === sender) this.#senders.delete(address)
  }

  *#allSenders(): Iterable<Sender> {
    yield this.sender
    yield* this.#senders.values()
  }

  protected get waitsForInput(): boolean {
    return (this.framing ?? this.receiver).waitsForInput
  }

  protected override get waitsForRoom(): boolean {
    return (this.framing ?? this.sender).waitsForRoom
  }

  protected flushInput(): void {
    ;(this.framing ?? this.receiver).flushInput()
  }

  protected override flushOutput(): void {
    ;(this.framing ?? this.sender).flushOutput()
  }

  protected fail(error: () => Error): void {
    this.framing?.fail(error)
    this.receiver.fail(error)
    this.sender.fail(error)
  }

  protected end(): number[] {
    this.framing?.end()
    this.receiver.close()
    if (this.arriving !== undefined) closeFds(takeFds([this.arriving]))
    for (const sender of this.#allSenders()) sender.fail(socketClosed)
    return this.receiver.takeHeldFds()
  }
}
