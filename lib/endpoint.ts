import { socketClosed } from './errors.ts'
import { Handle } from './handle.ts'
import { Receiver } from './receiver.ts'
import { Sender } from './sender.ts'

/** The type of a socket, which decides what a message is. */
export type SocketType = 'stream' | 'seqpacket' | 'dgram'

/** The types by the native side's code for them. */
export const socketTypes: readonly SocketType[] = ['stream', 'seqpacket', 'dgram']

/** A socket that sends and receives. */
export class Endpoint extends Handle {
  readonly type: SocketType
  readonly isStream: boolean
  readonly isDatagram: boolean
  /** Whether descriptors are received; otherwise a message that carries some is refused. */
  readonly takesFds: boolean
  readonly sender: Sender = new Sender(this)
  readonly receiver: Receiver = new Receiver(this)
  /** Those that wait to send to an address of their own, by address: one full receiver does not keep the others waiting. */
  readonly #senders = new Map<string, Sender>()

  constructor(fd: number, typeCode: number, takesFds: boolean) {
    super(fd)
    this.type = socketTypes[typeCode]!
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
    return this.receiver.waiting
  }

  protected override get waitsForRoom(): boolean {
    return this.sender.waitsForRoom
  }

  protected flushInput(): void {
    this.receiver.flush()
  }

  protected override flushOutput(): void {
    this.sender.flush()
  }

  protected fail(error: () => Error): void {
    this.receiver.fail(error)
    this.sender.fail(error)
  }

  protected end(): number[] {
    this.receiver.close()
    for (const sender of this.#allSenders()) sender.fail(socketClosed)
    return this.receiver.takeHeldFds()
  }
}
