import { protocolError, tooLarge } from '../base/errors.ts'
import { yieldToLoop } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { AGAIN, BROKEN, END, FULL } from '../native/codes.ts'
import { ProtocolViolation, violationResult } from '../native/results.ts'
import { type SystemError, systemError } from '../native/system-error.ts'
import type { Endpoint } from '../socket/endpoint.ts'
import { ReceivedFrame } from './frame.ts'

/** The maximum number of frames that one wake reads. */
const FRAMES_PER_WAKE = 64

/** The size of a frame above which one wake receives nothing behind it, so that a wake stays short. */
const LONG = 4096

/** How much is read after failed sends, in search of the peer's reason: bytes, of which each frame costs some more than it has. */
const LAST_BYTES = 1024 * 1024
const BYTES_PER_FRAME = 256

/** The receiver of a channel's frames. */
export interface FrameConsumer {
  /** Whether it can use another frame. */
  readonly waitsForInput: boolean
  /** Whether it can hold another frame that it does not wait for. */
  readonly hasRoom: boolean
  /** The maximum number of bytes, and of descriptors, of the next message. */
  readonly roomForBytes: number
  readonly roomForFds: number
  /** Whether the channel has ended. */
  readonly hasEnded: boolean
  /** Called if the next message has more than there is room for. */
  postpone(): void
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
  #lastBytesLeft = LAST_BYTES

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

  /** Reads frames for an event, or the rest of what a receive brought. */
  readAvailable(): void {
    this.#read(true)
  }

  /** Reads frames for a call that waits, unless an event is as good: arming a socket costs more than a try. */
  tryRead(): void {
    const endpoint = this.#endpoint
    if (this.#hasMore) this.#read(true)
    else if (!endpoint.armedForReading || endpoint.isHopeful()) this.#read(false)
  }

  /**
   * Reads the frames that the consumer can use. Descriptors end a receive (unix(7)), so another one follows if earlier ones found
   * something. What follows a frame without descriptors, or a long one, is reported by an event.
   *
   * @param isKnown whether there is a frame
   */
  #read(isKnown: boolean): void {
    for (let left = FRAMES_PER_WAKE; left > 0; left--) {
      if (!this.#consumer.waitsForInput) return
      const found = this.readNext()
      if (!isKnown) this.#endpoint.noteTry(found)
      if (!found) return
      isKnown = this.#hasMore
      if (isKnown) continue
      const { fds, size } = this.#frame
      if (fds.length === 0 || size > LONG || !this.#endpoint.isHopeful()) return
    }
    if (this.#consumer.waitsForInput) this.resume()
  }

  /**
   * Reads frames after a send has failed, up to the peer's reason. A peer that has shut down only its reading side can send
   * without end, so what all calls together read is bounded.
   */
  readLastFrames(): void {
    while (this.#lastBytesLeft > 0 && this.#consumer.hasRoom && this.readNext()) {
      this.#lastBytesLeft -= this.#frame.size + BYTES_PER_FRAME
    }
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
    const length = native.channelReceive(fd, consumer.roomForBytes, consumer.roomForFds)
    if (length < 0) {
      this.#hasMore = length === FULL
      if (length === FULL) consumer.postpone()
      else if (length === END) consumer.finish(null)
      else if (length === BROKEN) consumer.refuse(this.#violation())
      else if (length !== AGAIN) consumer.finish(systemError(length, 'recvmsg'))
      return false
    }
    try {
      this.#frame.read(fd, length)
    } catch (error) {
      consumer.finish(error as Error) // out of memory
      return false
    }
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
      case ProtocolViolation.InvalidControlFrame:
        return protocolError('an error, a cancellation or a close had too many bytes')
      case ProtocolViolation.WrongDescriptors:
        return protocolError(`a frame announced ${announced} descriptors, and ${arrived} arrived`)
      case ProtocolViolation.EndedInside:
        return protocolError('the channel ended inside a frame')
      default:
        return protocolError('the peer sent bytes that are not a frame')
    }
  }
}
