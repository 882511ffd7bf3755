import type { Descriptor } from '../descriptor/index.ts'
import { adopt, takeFds } from '../descriptor/internal.ts'
import { closeFds, MAX_SENT_FDS } from '../native/internal.ts'
import { ByteBuffer, invalidType, invalidValue, optionsOf, protocolError } from '../base/internal.ts'
import { type ControlError, UnixSocket } from '../socket/index.ts'
import { moveSocket } from '../socket/internal.ts'
import { UnixStream } from '../stream/index.ts'

/** What `'fds'` reports in the place of a descriptor that was lost. */
const LOST = -1

/** Options of {@link DBusStream}. */
export interface DBusStreamOptions {
  /**
   * The most descriptors that belong to bytes that were not read (default, and least: 506; 1,024 on macOS and FreeBSD). The stream
   * receives nothing while the next message of the kernel could exceed it, and `write` returns false while so many wait to be sent.
   */
  maxFds?: number | undefined
}

/**
 * A connection to a D-Bus or to a peer, as the stream through which dbus-native passes descriptors. Pass it to `createClient` or
 * `createConnection` as `stream`.
 *
 * It is a {@link UnixStream} whose event `'fds'` has numbers, as `message.fds` of dbus-native: `(fds: number[])`. The event reports the
 * descriptors of one message, or of a part of one, in order, before the bytes that they arrived with can be read. Each is close-on-exec
 * and belongs to the listener, which must close it. Without a listener they are closed.
 *
 * One message of the kernel carries at most 253 descriptors. dbus-native takes as many as a message claims, and ends the connection
 * if fewer arrived. It keeps descriptors that no message claims until the end, when it closes them by `closeFds` (since 0.16). A bus
 * does not forward such descriptors. Without a bus, accept only peers that you trust with the descriptor table.
 *
 * Descriptors are back-pressure, as bytes are: the stream receives nothing while descriptors of unread bytes leave no room for those of
 * another message (`maxFds`). A message of which the stream cannot receive more for that reason is an ERR_TOO_MANY_DESCRIPTORS error.
 *
 * Descriptors that were lost, for instance because the descriptor table was full, affect only their message: `'fds'` reports -1 in the
 * place of each. `'fdsLost'` reports the error. It destroys the stream if the bytes are not those of D-Bus messages.
 *
 * Any other error destroys the stream. When the peer ends its half, the stream ends its own, as `net.Socket` does.
 */
export class DBusStream extends UnixStream {
  readonly #scanner = new MessageScanner()
  /**
   * Creates a stream over a socket from which nothing was received.
   *
   * @param socket a connected stream socket without pending operations. The stream owns the connection from now on, and this object is
   *   closed
   * @param options `maxFds`
   * @throws ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE; ERR_INVALID_ARG_VALUE for a socket of another type or a closed one; ERR_INVALID_STATE
   *   for one with pending operations. The socket is unchanged then
   */
  constructor(socket: UnixSocket, options?: DBusStreamOptions) {
    if (!(socket instanceof UnixSocket)) throw invalidType('socket', 'an instance of UnixSocket', socket)
    if (socket.type !== 'stream') throw invalidValue('socket', `must be of type 'stream', not '${socket.type}'`)
    if (socket.closed) throw invalidValue('socket', 'is closed')
    super({ maxFds: optionsOf(options)?.maxFds })
    this.attach(moveSocket(socket))
  }

  /**
   * Adds a listener. The events are those of every `Duplex`, and `'fds'`: `(fds: number[])`.
   *
   * @param event the event
   * @param listener for `'fds'`: called with the numbers of descriptors, which it owns
   * @returns the stream
   */
  override on(event: 'fds', listener: (fds: number[]) => void): this
  override on(event: 'data', listener: (chunk: Buffer) => void): this
  override on(event: 'error', listener: (error: Error) => void): this
  override on(event: string | symbol, listener: (...args: any[]) => void): this
  override on(event: string | symbol, listener: (...args: any[]) => void): this {
    return super.on(event, listener)
  }

  /**
   * Closes descriptors that `'fds'` reported and no message claimed. dbus-native calls it at the end of the connection.
   *
   * @param fds their numbers; -1, in the place of a lost one, is skipped
   * @throws `EBADF` for a number that is not open, because other code has closed it
   */
  closeFds(fds: readonly number[]): void {
    const adopted: number[] = []
    try {
      for (const fd of fds) {
        if (fd === LOST) continue
        adopt('fds', fd)
        adopted.push(fd)
      }
    } finally {
      closeFds(adopted)
    }
  }

  /** @internal */
  protected override emitFds(fds: readonly Descriptor[]): void {
    if (this.#scanner.isLate) {
      closeFds(takeFds(fds))
      this.destroy(protocolError('descriptors arrived inside of a message header'))
      return
    }
    this.#emitNumbers(fds.map((fd) => fd.release()))
  }

  /** @internal */
  protected override scan(data: Uint8Array): void {
    const late = this.#scanner.scan(data)
    if (late === undefined)
      this.destroy(protocolError('the header of a message whose descriptors were lost cannot be read'))
    else if (late > 0) this.#emitLost(late)
  }

  /** @internal dbus-native gives each message as many descriptors as it claims, in order. */
  protected override loseFds(error: ControlError, end: number): boolean {
    super.loseFds(error, end)
    const claimed = this.#scanner.claimedFds(error.data)
    if (claimed !== undefined && claimed > 0) this.#emitLost(claimed)
    return claimed !== undefined
  }

  #emitLost(count: number): void {
    this.#emitNumbers(new Array<number>(Math.min(count, MAX_SENT_FDS)).fill(LOST))
  }

  #emitNumbers(numbers: number[]): void {
    this.emit('fds', numbers)
  }
}

/** The length of the fixed part of a message's header, in bytes. */
const FIXED_HEADER = 16
/** The maximum length of a message, in bytes. */
const MAX_MESSAGE = 2 ** 27
/** The maximum length of a header that is kept until the rest of it arrives, in bytes. Those of real messages have some hundred. */
const MAX_LATE_HEADER = 65_536
/** The maximum length of a line of the authentication, in bytes. */
const MAX_LINE = 16_384
/** The header field with the number of descriptors. */
const UNIX_FDS = 9

const LITTLE_ENDIAN = 'l'.charCodeAt(0)
const BIG_ENDIAN = 'B'.charCodeAt(0)

/** The result for a message of which more bytes are needed. */
const INCOMPLETE = -1

/**
 * Follows the messages in the bytes that arrive, to know which of them descriptors belong to. A receive ends with the message that has
 * descriptors, so those that one receive has lost are all that the messages claim which begin in its bytes.
 */
class MessageScanner {
  /** What arrives; undefined for other bytes than those of a D-Bus. */
  #state: 'start' | 'lines of a server' | 'lines of a client' | 'messages' | undefined = 'start'
  /** The current line of the authentication, or the fixed header of the current message, as far as it has arrived. */
  readonly #begun = new ByteBuffer()
  /** The number of bytes that the current message has behind its fixed header and that have not arrived. */
  #following = 0
  /** Where messages begin in the last scanned bytes. */
  #starts: number[] = []
  /** A message whose header is incomplete, and whose descriptors were lost. */
  #late: Buffer | undefined

  /** Whether the header of a message whose descriptors were lost is incomplete. */
  get isLate(): boolean {
    return this.#late !== undefined
  }

  /**
   * Scans received bytes. Returns the number of lost descriptors that a message claims whose header they complete; undefined if that header
   * cannot be read.
   */
  scan(data: Uint8Array): number | undefined {
    this.#starts = []
    let at = 0
    while (at < data.length && this.#state !== undefined) {
      at = this.#state === 'messages' ? this.#scanMessage(data, at) : this.#scanLine(data, at)
    }
    if (this.#late === undefined) return 0
    const late = Buffer.concat([this.#late, data.subarray(0, MAX_LATE_HEADER)])
    const claimed = claimedFdsOf(late)
    const isComplete = claimed !== INCOMPLETE
    this.#late = isComplete || late.length >= MAX_LATE_HEADER ? undefined : late
    if (isComplete) return claimed
    return this.#late === undefined ? undefined : 0
  }

  /** Returns the number of descriptors that messages claim which begin in the last scanned bytes; undefined if it is unknown. */
  claimedFds(data: Uint8Array): number | undefined {
    if (this.#state === undefined || this.#late !== undefined) return undefined
    let sum = 0
    for (const start of this.#starts) {
      const claimed = claimedFdsOf(data.subarray(start))
      if (claimed === undefined) return undefined
      if (claimed === INCOMPLETE) this.#late = Buffer.from(data.subarray(start))
      else sum += claimed
    }
    return sum
  }

  /** Scans a part of a message; returns where the next one begins. */
  #scanMessage(data: Uint8Array, from: number): number {
    if (this.#following > 0) {
      const count = Math.min(this.#following, data.length - from)
      this.#following -= count
      return from + count
    }
    if (this.#begun.length === 0) this.#starts.push(from)
    const to = Math.min(from + FIXED_HEADER - this.#begun.length, data.length)
    let fixed = data.subarray(from, to)
    if (fixed.length < FIXED_HEADER) {
      this.#begun.append(fixed)
      if (this.#begun.length < FIXED_HEADER) return to
      fixed = this.#begun.take()
    }
    const header = new MessageHeader(fixed)
    if (header.isValid) this.#following = header.following
    else this.#state = undefined
    return to
  }

  /** Scans a part of the authentication; returns where the next one begins. */
  #scanLine(data: Uint8Array, from: number): number {
    // A client sends a NUL first. No line of a server begins as a message does.
    if (this.#state === 'start') this.#state = data[from] === 0 ? 'lines of a client' : 'lines of a server'
    const first = data[from]!
    if (this.#state === 'lines of a server' && this.#begun.length === 0 && isByteOrder(first)) {
      this.#state = 'messages'
      return from
    }
    const end = data.indexOf(NEWLINE, from)
    const to = end < 0 ? data.length : end + 1
    this.#begun.append(data.subarray(from, to))
    if (this.#begun.length > MAX_LINE) this.#state = undefined
    else if (end >= 0 && this.#begun.take().toString('latin1') === 'BEGIN\r\n' && this.#state === 'lines of a client') {
      this.#state = 'messages'
    }
    return to
  }
}

const NEWLINE = 10

function isByteOrder(byte: number | undefined): boolean {
  return byte === LITTLE_ENDIAN || byte === BIG_ENDIAN
}

/** The fixed part of a message's header. */
class MessageHeader {
  readonly #bytes: Buffer

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  /** Whether it begins as a message does, of a length that D-Bus allows. */
  get isValid(): boolean {
    return isByteOrder(this.#bytes[0]) && this.following <= MAX_MESSAGE
  }

  /** The length of the header fields. */
  get fields(): number {
    return this.uint32(12)
  }

  /** The number of bytes behind the fixed part. */
  get following(): number {
    return Math.ceil(this.fields / 8) * 8 + this.uint32(4)
  }

  /** Returns a number; 0 behind the end. */
  uint32(at: number): number {
    if (at + 4 > this.#bytes.length) return 0
    return this.#bytes[0] === LITTLE_ENDIAN ? this.#bytes.readUInt32LE(at) : this.#bytes.readUInt32BE(at)
  }
}

/** Returns the number of descriptors that a message claims; `INCOMPLETE`, or undefined if its header cannot be read. */
function claimedFdsOf(message: Uint8Array): number | undefined {
  if (message.length < FIXED_HEADER) return INCOMPLETE
  const header = new MessageHeader(message)
  if (!header.isValid) return undefined
  const end = FIXED_HEADER + header.fields
  if (end > message.length) return INCOMPLETE
  for (let at = FIXED_HEADER; at < end;) {
    at = Math.ceil(at / 8) * 8
    // A field is its code and a variant, and the values of all known fields have these types.
    const [field, length, type] = message.subarray(at, at + 3)
    at += 4
    if (length !== 1) return undefined
    if (type === code('u')) {
      if (field === UNIX_FDS) return header.uint32(at)
      at += 4
    } else if (type === code('s') || type === code('o')) {
      at += 4 + header.uint32(at) + 1
    } else if (type === code('g')) {
      at += 1 + (message[at] ?? 0) + 1
    } else {
      return undefined
    }
  }
  return 0
}

function code(character: string): number {
  return character.charCodeAt(0)
}
