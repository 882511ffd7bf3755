import { protocolError, tooLarge } from '../base/errors/system.ts'
import { yieldToLoop } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { AGAIN, BROKEN, END } from '../native/codes.ts'
import { ProtocolViolation, violationResult } from '../native/frame-results.ts'
import { type SystemError, systemError } from '../native/system-error.ts'
import type { Endpoint } from '../socket/endpoint.ts'
import { ReceivedFrame } from './frame.ts'

/** The maximum number of frames that one wake reads. */
const PER_WAKE = 64

/** The receiver of a channel's frames. */
export interface FrameConsumer {
  /** Whether it can use another frame. */
  readonly waitsForInput: boolean
  /** Whether the channel has ended. */
  readonly hasEnded: boolean
  /** Called with each frame, which is valid during the call. */
  consume(frame: ReceivedFrame): void
  /** Called at the end of the stream, with null between two frames, otherwise with the error of the receive. */
  finish(error: Error | null): void
  /** Called when the peer violated the protocol or a limit. */
  refuse(error: Error): void
}

/** The receiving half of a channel: reads frames as long as their consumer can use them. */
export class FrameReader {
  readonly #endpoint: Endpoint
  readonly #consumer: FrameConsumer
  readonly #maxBytes: number
  readonly #maxFds: number
  readonly #frame = new ReceivedFrame()
  /** Whether a frame is being consumed. A `decode` callback must not cause the next one to be read before it. */
  #consuming = false
  #hasMore = false
  #resuming = false

  constructor(endpoint: Endpoint, consumer: FrameConsumer, maxBytes: number, maxFds: number) {
    this.#endpoint = endpoint
    this.#consumer = consumer
    this.#maxBytes = maxBytes
    this.#maxFds = endpoint.takesFds ? maxFds : 0
    const code = native.channelOpen(endpoint.fd, maxBytes, this.#maxFds)
    if (code < 0) throw systemError(code, 'getsockopt')
  }

  /** Whether the last receive brought further frames, which no event will report. */
  get hasMore(): boolean {
    return this.#hasMore
  }

  /** Reads the frames that the consumer can use and one receive brought. An event reports further ones. */
  readAvailable(): void {
    for (let left = PER_WAKE; left > 0; left--) {
      if (!this.#consumer.waitsForInput || !this.readNext() || !this.#hasMore) return
    }
    if (this.#consumer.waitsForInput) this.resume()
  }

  /** Continues to read in the next turn of the event loop. */
  resume(): void {
    if (this.#resuming) return
    this.#resuming = true
    void this.#readInNextTurn()
  }

  async #readInNextTurn(): Promise<void> {
    await yieldToLoop()
    this.#resuming = false
    if (this.#endpoint.closed) return
    this.readAvailable()
    this.#endpoint.update()
  }

  /** Reads one frame; returns false if none is available. */
  readNext(): boolean {
    const consumer = this.#consumer
    if (consumer.hasEnded || this.#endpoint.closed || this.#consuming) return false
    const { fd } = this.#endpoint
    const length = native.channelReceive(fd)
    if (length < 0) {
      this.#hasMore = false
      if (length === END) consumer.finish(null)
      else if (length === BROKEN) consumer.refuse(this.#violation())
      else if (length !== AGAIN) consumer.finish(systemError(length, 'recvmsg'))
      return false
    }
    this.#frame.read(fd, length)
    this.#hasMore = this.#frame.hasMore
    this.#consuming = true
    try {
      consumer.consume(this.#frame)
    } finally {
      this.#consuming = false
    }
    return true
  }

  /** Returns the error for the violation that was just received. */
  #violation(): SystemError {
    const { kind, announced, arrived } = violationResult
    switch (kind) {
      case ProtocolViolation.TooLong:
        return tooLarge(`${announced} bytes, and ${this.#maxBytes}`)
      case ProtocolViolation.TooManyDescriptors:
        return tooLarge(`${announced} descriptors, and ${this.#maxFds}`)
      case ProtocolViolation.WrongDescriptors:
        return protocolError(`a frame announced ${announced} descriptors, and ${arrived} came`)
      case ProtocolViolation.EndedInside:
        return protocolError('the channel ended inside a frame')
      default:
        return protocolError('the peer sent bytes that are not a frame')
    }
  }
}
