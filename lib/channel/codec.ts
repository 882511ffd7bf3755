import { types } from 'node:util'
import { invalidReturn, invalidType, invalidValue } from '../base/errors/argument.ts'
import { undecodable } from '../base/errors/system.ts'

/** What the data of a frame are, by the native side's code. */
export const BYTES = 0
export const JSON_TEXT = 1

/** The most bytes of UTF-8 for one unit of a string. */
export const UTF8 = 3

/** A value on its way: a string is UTF-8. */
export interface Encoded {
  readonly content: string | Uint8Array
  readonly format: number
}

/** The data of a frame that has arrived. */
export interface Arrived {
  /** In memory of their own. */
  bytes(): Uint8Array
  /** As UTF-8. */
  text(): string
}

/** How values become the data of frames, and these values again. */
export interface Codec {
  encode(value: unknown): Encoded
  /** Throws what whoever receives the message is to meet. */
  decode(data: Arrived, format: number): unknown
}

/** Bytes as they are, and everything else as JSON. */
const plain: Codec = {
  encode(value) {
    if (types.isUint8Array(value)) return { content: value, format: BYTES }
    if (value === undefined) return { content: '', format: JSON_TEXT }
    const text: unknown = JSON.stringify(value)
    if (typeof text !== 'string') throw invalidValue('value', 'is neither bytes nor anything that JSON knows')
    return { content: text, format: JSON_TEXT }
  },
  decode(data, format) {
    if (format === BYTES) return data.bytes()
    const text = data.text()
    try {
      return text === '' ? undefined : JSON.parse(text)
    } catch (cause) {
      throw undecodable(data.bytes(), cause)
    }
  }
}

/** The codec of two options; each has a default. */
export function codecOf(encode: unknown, decode: unknown): Codec {
  return {
    encode: encode === undefined ? plain.encode : encoder(encode),
    decode: decode === undefined ? plain.decode : decoder(decode)
  }
}

function encoder(encode: unknown): Codec['encode'] {
  if (typeof encode !== 'function') throw invalidType('options.encode', 'of type function', encode)
  return (value) => {
    const content: unknown = encode(value)
    if (typeof content === 'string' || types.isUint8Array(content)) return { content, format: BYTES }
    throw invalidReturn('options.encode', 'a string or a Uint8Array', content)
  }
}

function decoder(decode: unknown): Codec['decode'] {
  if (typeof decode !== 'function') throw invalidType('options.decode', 'of type function', decode)
  return (arrived) => {
    const data = arrived.bytes()
    try {
      return decode(data) as unknown
    } catch (cause) {
      throw undecodable(data, cause)
    }
  }
}
