import { type Descriptor, wrapFd } from '../descriptor/descriptor.ts'
import { native } from '../native/binding.ts'
import { FrameFormat, FrameKind } from '../native/codes.ts'
import { type FrameFields, readFrameResult, copyBytes, fdAt } from '../native/results.ts'
import { bytes, text } from '../native/shared-memory.ts'

// Constants, because reading a property of the generated enums for each frame costs more.
export const {
  Message: MESSAGE,
  Request: REQUEST,
  Response: RESPONSE,
  Error: ERROR,
  Cancel: CANCEL,
  Close: CLOSE
} = FrameKind
export const { Bytes: BYTES, Json: JSON_TEXT } = FrameFormat

const noDescriptors: readonly Descriptor[] = []

/** The frame received last. One object serves all frames of a channel, so its content is valid until the next receive. */
export class ReceivedFrame implements FrameFields {
  kind = 0
  format = 0
  /** The id of the request that the frame belongs to. */
  id = 0
  /** The number of bytes of its data. */
  size = 0
  /** Whether its descriptors were lost because the descriptor table is full. */
  fdsLost = false
  /** Whether another whole frame has arrived, which no event will report. */
  hasMore = false
  fds = noDescriptors
  /** The data if they are too long for the shared bytes. */
  #large: Uint8Array | undefined

  /** Reads the frame that `channelReceive` received from a socket, and takes ownership of its descriptors. */
  read(socket: number, size: number): void {
    this.size = size
    this.#large = undefined
    if (size > bytes.length) {
      this.#large = new Uint8Array(Buffer.allocUnsafeSlow(size).buffer) // filling it with zeros first costs measurably
      native.channelTake(this.#large, socket)
    }
    const count = readFrameResult(this)
    this.fds = count === 0 ? noDescriptors : wrapShared(count)
  }

  /** Returns the data, in memory of their own. */
  bytes(): Uint8Array {
    return this.#large ?? copyBytes(0, this.size)
  }

  /** Returns the data as a string, decoded from UTF-8. */
  text(): string {
    const large = this.#large
    return large === undefined ? text.toString('utf8', 0, this.size) : Buffer.from(large.buffer).toString()
  }
}

function wrapShared(count: number): readonly Descriptor[] {
  const descriptors: Descriptor[] = []
  for (let i = 0; i < count; i++) descriptors.push(wrapFd(fdAt(i)))
  return descriptors
}
