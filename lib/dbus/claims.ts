import { MAX_RECEIVED_FDS } from '../native.ts'

/** The most bytes of a message's header fields, and of a message (D-Bus Specification, "Message Format"). */
const MOST_FIELDS = 2 ** 26
const MOST_BYTES = 2 ** 27
/** The header up to the length of its fields. */
const FIXED = 16
/** The header field that tells how many descriptors a message has. */
const UNIX_FDS = 9
/** The most containers within each other: 32 arrays in 32 structs, in a variant (D-Bus Specification, "Valid Signatures"). */
const DEEPEST = 65
/** The last line of the handshake, which the client sends. */
const BEGIN = 'BEGIN\r\n'
const LINE_FEED = 0x0a
/** What a message begins with: "l" for little endian, "B" for big. */
const LITTLE = 0x6c
const BIG = 0x42

/**
 * How many descriptors the messages of a D-Bus connection claim, by their headers: what comes beside them is nobody's.
 *
 * A sender gives them to the kernel with the first byte of their message, so that they are there when its header is. What comes with the body
 * is taken for the message's as well, as far as it claims more. One that claims more than came is for the library to refuse.
 */
export class Claims {
  readonly #received = new Handshake()
  readonly #sent = new Handshake()
  /** How many came and are claimed by no header yet. */
  #unclaimed = 0
  /** How many the message may still bring whose body comes now. */
  #owed = 0
  /** How many bytes of the body are still to come. */
  #body = 0
  /** What has come of a header, and how much it takes to go on; undefined where the bytes are no messages. */
  #header: Uint8Array[] | undefined = []
  #length = 0
  #needed = FIXED

  /** Notes what is sent: no server sends messages before the client has ended the handshake. */
  noteSent(bytes: Uint8Array): void {
    if (this.#received.ended) return
    for (let at = 0; at < bytes.length && !this.#sent.ended;) at += this.#sent.take(bytes.subarray(at))
  }

  /**
   * Notes what came with one receive.
   *
   * @returns whether the messages claim the descriptors, or may still do
   */
  accept(bytes: Uint8Array, count: number): boolean {
    const brought = Math.min(count, this.#owed)
    this.#owed -= brought
    this.#unclaimed += count - brought
    for (let at = 0; at < bytes.length;) at += this.#take(bytes.subarray(at))
    return this.#unclaimed <= (this.#length > 0 ? MAX_RECEIVED_FDS : 0)
  }

  /** Takes the first bytes of some; gives their number. */
  #take(bytes: Uint8Array): number {
    if (!this.#received.ended) {
      // Of a server's last line only what follows it tells that it was the last: no line begins so.
      const begins = this.#sent.ended && this.#received.betweenLines && (bytes[0] === LITTLE || bytes[0] === BIG)
      if (!begins) return this.#received.take(bytes)
      this.#received.ended = true
    }
    if (this.#header === undefined) return bytes.length
    if (this.#body > 0) {
      const taken = Math.min(this.#body, bytes.length)
      this.#body -= taken
      if (this.#body === 0) this.#owed = 0
      return taken
    }
    const part = bytes.subarray(0, this.#needed - this.#length)
    this.#length += part.length
    if (this.#length < this.#needed) {
      this.#header.push(part.slice()) // it becomes the reader's, who may write to it
      return part.length
    }
    this.#takeHeader(this.#header.length === 0 ? part : Buffer.concat([...this.#header, part]))
    return part.length
  }

  #takeHeader(header: Uint8Array): void {
    const fields = new Fields(header)
    if (this.#needed === FIXED) {
      const size = fields.size
      if (size === undefined) {
        this.#giveUp()
        return
      }
      this.#needed = size.header
      if (size.header > FIXED) {
        this.#header = [header.slice()]
        return
      }
    }
    const claim = fields.unixFds()
    if (claim === undefined) {
      this.#giveUp()
      return
    }
    const claimed = Math.min(claim, this.#unclaimed)
    this.#unclaimed -= claimed
    this.#body = fields.size!.body
    this.#owed = this.#body === 0 ? 0 : Math.max(0, Math.min(claim, MAX_RECEIVED_FDS) - claimed)
    this.#header = []
    this.#length = 0
    this.#needed = FIXED
  }

  /** What follows is no D-Bus, and claims nothing. */
  #giveUp(): void {
    this.#header = undefined
    this.#length = 0
  }
}

/** One direction of the handshake, up to BEGIN. */
class Handshake {
  ended = false
  /** What the line begins with. */
  #line = ''

  get betweenLines(): boolean {
    return this.#line === ''
  }

  /** Takes the first bytes of some; gives their number. */
  take(bytes: Uint8Array): number {
    if (this.#line.length < BEGIN.length) {
      this.#line += String.fromCharCode(bytes[0]!)
      this.ended = this.#line === BEGIN
      if (bytes[0] === LINE_FEED) this.#line = ''
      return 1
    }
    const end = bytes.indexOf(LINE_FEED)
    if (end < 0) return bytes.length
    this.#line = ''
    return end + 1
  }
}

/** A message's header, of which nothing but what its descriptors are told by is looked at. */
class Fields {
  readonly #view: DataView
  readonly #little: boolean
  #at = FIXED

  constructor(header: Uint8Array) {
    this.#view = new DataView(header.buffer, header.byteOffset, header.length)
    this.#little = header[0] === LITTLE
  }

  #uint32(at: number): number {
    return this.#view.getUint32(at, this.#little)
  }

  /** How long the header and the body are, padding included; undefined for what is no message. */
  get size(): { header: number; body: number } | undefined {
    const first = this.#view.getUint8(0)
    const body = this.#uint32(4)
    const fields = this.#uint32(12)
    const header = FIXED + Math.ceil(fields / 8) * 8
    if ((first !== LITTLE && first !== BIG) || fields > MOST_FIELDS || header + body > MOST_BYTES) return undefined
    return { header, body }
  }

  /** How many descriptors the message claims; undefined where the fields are malformed. */
  unixFds(): number | undefined {
    const end = FIXED + this.#uint32(12)
    let claim = 0
    try {
      while (this.#at < end) {
        this.#align(8)
        const code = this.#view.getUint8(this.#at++)
        const signature = this.#signature()
        if (code === UNIX_FDS) {
          this.#align(4)
          claim = signature === 'u' ? this.#uint32(this.#at) : 0
        }
        this.#skip(signature, 0, 0)
      }
    } catch (error) {
      if (error instanceof RangeError) return undefined // it goes beyond the header
      throw error
    }
    return this.#at === end ? claim : undefined
  }

  #align(size: number): void {
    this.#at = Math.ceil(this.#at / size) * size
  }

  #signature(): string {
    const length = this.#view.getUint8(this.#at)
    const start = this.#at + 1
    this.#at = start + length + 1
    this.#view.getUint8(this.#at - 1)
    return Buffer.from(this.#view.buffer, this.#view.byteOffset + start, length).toString('latin1')
  }

  /** Skips a value of the type that begins at `from` of a signature; gives where the next type begins. */
  #skip(signature: string, from: number, depth: number): number {
    const type = signature.charAt(from)
    const alignment = ALIGNMENTS[type]
    if (alignment === undefined || depth > DEEPEST) throw new RangeError('no type')
    this.#align(alignment)
    if (type === 'v') {
      this.#skip(this.#signature(), 0, depth + 1)
    } else if (type === 'g') {
      this.#signature()
    } else if (type === 's' || type === 'o') {
      this.#at += 4 + this.#uint32(this.#at) + 1
    } else if (type === 'a') {
      const length = this.#uint32(this.#at)
      this.#at += 4
      this.#align(ALIGNMENTS[signature.charAt(from + 1)] ?? 1)
      this.#at += length
      return endOfType(signature, from + 1)
    } else if (type === '(') {
      let next = from + 1
      while (signature.charAt(next) !== ')') next = this.#skip(signature, next, depth + 1)
      return next + 1
    } else {
      this.#at += alignment
    }
    return from + 1
  }
}

/** Where a type ends that is not looked into. */
function endOfType(signature: string, from: number): number {
  let depth = 0
  for (let at = from; at < signature.length; at++) {
    const type = signature.charAt(at)
    if (type === '(' || type === '{') depth++
    else if (type === ')' || type === '}') depth--
    if (depth === 0 && type !== 'a') return at + 1
  }
  throw new RangeError('no type')
}

/** Where a value of a type begins; of a fixed size, that is its size as well. */
const ALIGNMENTS: Readonly<Record<string, number>> = {
  y: 1,
  n: 2,
  q: 2,
  b: 4,
  i: 4,
  u: 4,
  h: 4,
  x: 8,
  t: 8,
  d: 8,
  s: 4,
  o: 4,
  g: 1,
  v: 1,
  a: 4,
  '(': 8,
  '{': 8
}
