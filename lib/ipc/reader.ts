import { ByteBuffer, Queue, protocolError, tooLarge, undecodable } from '../base/internal.ts'
import type { Descriptor } from '../descriptor/index.ts'
import { closeQuietly } from '../descriptor/internal.ts'
import type { UnixSocket } from '../socket/index.ts'
import { isControlError } from '../socket/internal.ts'

/** The maximum number of descriptors that are held until their lines arrive. */
const MAX_UNCLAIMED_FDS = 64

/** The receiver of the values that a reader decodes. */
export interface ValueConsumer {
  /** Whether it can use further values. */
  readonly waitsForInput: boolean
  /** Called with each value, and the number of bytes of its line. */
  consume(value: unknown, bytes: number): void
  /** Called when the peer has disconnected. */
  finish(): void
  /** Called when the peer violated the protocol, or a receive failed. */
  fail(error: () => Error): void
}

/** Reads lines of JSON from a socket as long as their consumer can use them, and holds descriptors until their lines arrive. */
export class Reader {
  readonly #socket: UnixSocket
  readonly #maxBytes: number
  readonly #consumer: ValueConsumer
  readonly #lines = new LineSplitter()
  readonly #descriptors = new Queue<Descriptor>()
  /** Whether any bytes have arrived. */
  #hasBegun = false
  #isReading = false
  /** Aborts the current receive. */
  #receive: AbortController | undefined

  /** @param maxBytes the maximum number of bytes of a line */
  constructor(socket: UnixSocket, maxBytes: number, consumer: ValueConsumer) {
    this.#socket = socket
    this.#maxBytes = maxBytes
    this.#consumer = consumer
  }

  /** Removes and returns the first descriptor that arrived and was not taken. */
  takeDescriptor(): Descriptor | undefined {
    return this.#descriptors.shift()
  }

  /** Starts or stops reading, depending on the consumer. */
  update(): void {
    if (!this.#consumer.waitsForInput) {
      this.#receive?.abort()
    } else if (!this.#isReading) {
      this.#isReading = true
      void this.#read()
    }
  }

  async #read(): Promise<void> {
    while (this.#consumer.waitsForInput) {
      this.#receive ??= new AbortController()
      const { signal } = this.#receive
      try {
        const message = await this.#socket.recv({ signal })
        if (this.#socket.closed) message?.close()
        else if (message === null) this.#finish()
        else this.#accept(message.data, message.fds)
      } catch (error) {
        if (signal.aborted) this.#receive = undefined
        // The descriptor was lost, and its line was not. The line without a descriptor is refused, so that the peer sends both again.
        else if (isControlError(error)) this.#accept(error.data, [])
        else this.#consumer.fail(() => error as Error)
      }
    }
    this.#receive = undefined
    this.#isReading = false
  }

  #finish(): void {
    if (this.#lines.pendingBytes > 0) {
      this.#consumer.fail(() => protocolError('the peer disconnected within a message'))
    } else {
      this.#consumer.finish()
    }
  }

  #accept(data: Uint8Array, descriptors: readonly Descriptor[]): void {
    for (const descriptor of descriptors) this.#descriptors.push(descriptor)
    if (this.#descriptors.length > MAX_UNCLAIMED_FDS) {
      return this.#consumer.fail(() => protocolError('descriptors arrived without a message'))
    }
    if (!this.#hasBegun && data[0] === 0) {
      // A message in V8's format begins with its length, most significant byte first.
      return this.#consumer.fail(() => protocolError("the peer does not send JSON: it uses serialization: 'advanced'"))
    }
    this.#hasBegun = true
    for (const line of this.#lines.split(data)) {
      if (line.length > this.#maxBytes) return this.#failForLength(line.length)
      try {
        this.#consumer.consume(JSON.parse(line.toString()), line.length)
      } catch (error) {
        return this.#consumer.fail(() => undecodable(line, error))
      }
      if (this.#socket.closed) return // while the line was consumed
    }
    if (this.#lines.pendingBytes > this.#maxBytes) this.#failForLength(this.#lines.pendingBytes)
  }

  #failForLength(length: number): void {
    this.#consumer.fail(() => tooLarge(`${length} bytes or more, and ${this.#maxBytes}`))
  }

  /** Closes the descriptors that were not taken. */
  close(): void {
    for (let fd = this.#descriptors.shift(); fd !== undefined; fd = this.#descriptors.shift()) closeQuietly(fd)
  }
}

const LINE_FEED = 0x0a

/** Splits the bytes of a stream into lines. */
class LineSplitter {
  /** The beginning of a line whose end has not arrived. */
  readonly #pending = new ByteBuffer()

  /** The number of bytes of a line whose end has not arrived. */
  get pendingBytes(): number {
    return this.#pending.length
  }

  /** Yields the lines that end in this part of the stream, without their line feeds. */
  *split(part: Uint8Array): Generator<Buffer, void> {
    let from = 0
    for (let end = part.indexOf(LINE_FEED); end >= 0; end = part.indexOf(LINE_FEED, from)) {
      this.#pending.append(part.subarray(from, end))
      from = end + 1
      yield this.#pending.take()
    }
    if (from < part.length) this.#pending.append(part.subarray(from))
  }
}
