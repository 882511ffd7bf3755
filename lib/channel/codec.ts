import { types } from 'node:util'
import { unshared } from '../base/validate.ts'
import { invalidReturn, invalidType, invalidValue, outOfRange, undecodable } from '../base/errors.ts'
import { takeFds } from '../descriptor/descriptor.ts'
import { closeFds } from '../native/owned-fds.ts'
import { ControlStatus } from '../native/codes.ts'
import { controlError } from '../socket/errors.ts'
import { BYTES, JSON_TEXT, type ReceivedFrame } from './frame.ts'
import { ChannelMessage, type Received } from './message.ts'

/** The maximum number of UTF-8 bytes for one code unit of a string. */
export const MAX_UTF8_PER_UNIT = 3

/** The data of a frame to send. A string is sent as UTF-8. */
export interface Encoded {
  readonly content: string | Uint8Array
  readonly format: number
}

type Encode = (value: unknown) => Encoded
type Decode = (frame: ReceivedFrame) => unknown

/** Converts values to the data of frames, and frames to messages. */
export class Codec {
  readonly #encode: Encode
  readonly #decode: Decode
  readonly #maxBytes: number

  /**
   * @param encode the channel's `encode` option; by default bytes stay bytes, and all other values become JSON
   * @param decode the channel's `decode` option
   * @param maxBytes the maximum number of bytes of an encoded value
   */
  constructor(encode: unknown, decode: unknown, maxBytes: number) {
    this.#encode = encode === undefined ? encodeByDefault : customEncode(encode)
    this.#decode = decode === undefined ? decodeByDefault : customDecode(decode)
    this.#maxBytes = maxBytes
  }

  /** Encodes a value; throws ERR_OUT_OF_RANGE if it is too long, and what a custom `encode` throws. */
  encode(value: unknown): Encoded {
    const encoded = this.#encode(value)
    const { content } = encoded
    const max = this.#maxBytes
    // Counting a string's bytes takes time, and most strings are too short to reach the limit.
    const short = typeof content === 'string' && content.length * MAX_UTF8_PER_UNIT <= max
    const length = short ? 0 : typeof content === 'string' ? Buffer.byteLength(content) : content.length
    if (length > max) throw outOfRange('value', `at most ${max} bytes when it is encoded (options.maxBytes)`, length)
    return encoded
  }

  /** Returns the message in a frame, or the error to reject its receiver with; the frame's descriptors are closed then. */
  decode(frame: ReceivedFrame): Received {
    const { fds } = frame
    if (frame.fdsLost) {
      const bytes = frame.bytes()
      const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
      return () => controlError(ControlStatus.Truncated, data)
    }
    try {
      return new ChannelMessage(this.#decode(frame), fds)
    } catch (error) {
      closeFds(takeFds(fds))
      return () => error
    }
  }
}

function encodeByDefault(value: unknown): Encoded {
  if (types.isUint8Array(value)) return { content: unshared(value), format: BYTES }
  if (value === undefined) return { content: '', format: JSON_TEXT }
  const text: unknown = JSON.stringify(value)
  if (typeof text !== 'string') throw invalidValue('value', 'is neither bytes nor representable in JSON')
  return { content: text, format: JSON_TEXT }
}

function decodeByDefault(frame: ReceivedFrame): unknown {
  if (frame.format === BYTES) return frame.bytes()
  try {
    const text = frame.text() // throws above 512 MiB
    return text === '' ? undefined : JSON.parse(text)
  } catch (cause) {
    throw undecodable(frame.bytes(), cause)
  }
}

function customEncode(encode: unknown): Encode {
  if (typeof encode !== 'function') throw invalidType('options.encode', 'of type function', encode)
  return (value) => {
    const content: unknown = encode(value)
    if (typeof content === 'string') return { content, format: BYTES }
    if (types.isUint8Array(content)) return { content: unshared(content), format: BYTES }
    throw invalidReturn('options.encode', 'a string or a Uint8Array', content)
  }
}

function customDecode(decode: unknown): Decode {
  if (typeof decode !== 'function') throw invalidType('options.decode', 'of type function', decode)
  return (frame) => {
    const data = frame.bytes()
    try {
      return decode(data) as unknown
    } catch (cause) {
      throw undecodable(data, cause)
    }
  }
}
