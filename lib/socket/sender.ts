import { constants } from 'node:os'
import { clearTimeout, setTimeout } from 'node:timers'
import { putName } from '../address/socket-address.ts'
import { Backoff } from '../base/backoff.ts'
import { rejection } from '../base/errors.ts'
import { MAX_INT } from '../base/validate.ts'
import { Waiters, settle } from '../base/waiters.ts'
import { chargeTick, yieldToLoop } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { AGAIN, BUSY } from '../native/codes.ts'
import { closeFds, duplicateShared } from '../native/owned-fds.ts'
import { putBytes } from '../native/results.ts'
import { SMALL } from '../native/shared-memory.ts'
import { systemError } from '../native/system-error.ts'
import type { SentCredentials } from './credentials.ts'
import { CapturedSend, type DeferredMessage, DeferredSend, type PendingSend } from './pending-send.ts'

/** The maximum number of messages that one wake sends before it returns to the event loop. */
const MESSAGES_PER_WAKE = 64

/** The promise of a send that completed at once. */
export const sentAtOnce: Promise<void> = Promise.resolve()

/** A deferred message that is pending. */
export interface PendingHandle {
  /** Resolves when the kernel has taken the whole message. */
  readonly taken: Promise<void>
  /** Rejects the send if it is still pending. */
  cancel(error: () => Error): void
}

/** What a sender needs of the socket that it sends through. */
export interface SendingSocket {
  readonly fd: number
  readonly closed: boolean
  readonly isStream: boolean
  /** Whether pending operations keep the process alive. */
  readonly referenced: boolean
  /** Watches for what the pending operations need. */
  update(): void
  /** Notes whether the sender to an address has pending messages. */
  setWaiting(address: string, sender: Sender, waits: boolean): void
}

/** The sending half of a socket, or its datagrams to one address. Messages that cannot be sent at once are sent in order. */
export class Sender {
  readonly #socket: SendingSocket
  /** The destination, as a string and as bytes; undefined for the socket's peer. */
  readonly #address: string | undefined
  readonly #name: Uint8Array | undefined
  readonly #waiters = new Waiters<PendingSend>(this)
  #backoff: Backoff | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(socket: SendingSocket, address?: string, name?: Uint8Array) {
    this.#socket = socket
    this.#address = address
    this.#name = name
  }

  /** Whether no send is pending. */
  get idle(): boolean {
    return this.#waiters.length === 0
  }

  /** Whether to watch for room: not while a retry is scheduled, because no event reports that it would succeed. */
  get waitsForRoom(): boolean {
    return this.#waiters.length > 0 && this.#timer === undefined
  }

  /** Whether a scheduled retry keeps the process alive. */
  set referenced(on: boolean) {
    if (on) this.#timer?.ref()
    else this.#timer?.unref()
  }

  /**
   * Sends a message with the first `count` descriptors of the shared numbers, or captures it: a duplicate refers to the open file
   * that the number referred to at the call, even if the number is closed and reused.
   */
  send(
    socket: object,
    data: Uint8Array,
    count: number,
    signal: AbortSignal | undefined,
    credentials?: SentCredentials
  ): Promise<void> {
    let offset = 0
    let busy = false
    if (this.#waiters.length === 0) {
      const sent = this.#transmit(data, 0, count, credentials)
      if (sent >= 0) {
        if (this.#isWhole(sent, data, 0)) return chargeTick() ? sentAtOnce : yieldToLoop()
        offset = sent
        count = 0 // they went with the first byte
      } else if (sent !== AGAIN && sent !== BUSY) {
        return Promise.reject(this.#error(sent))
      }
      busy = sent === BUSY
    }
    const duplicates = count > 0 ? duplicateShared(count) : undefined
    const promise = this.#waiters.add<void>(new CapturedSend(socket, data, offset, credentials, duplicates), signal)
    if (busy) this.#retryLater()
    this.#update()
    return promise
  }

  /** Sends a message that is built when there is room for it. */
  sendDeferred(socket: object, message: DeferredMessage, signal: AbortSignal | undefined): PendingHandle {
    const pending = new DeferredSend(socket, message)
    const taken = this.#waiters.add<void>(pending, signal)
    if (this.#waiters.length === 1) this.flushOutput()
    this.#update()
    return {
      taken,
      cancel: (error) => {
        if (this.#waiters.reject(pending, error)) this.waiterAborted(pending)
      }
    }
  }

  /** Whether everything was sent: a stream takes as much as it has room for, a packet goes whole or not at all. */
  #isWhole(sent: number, data: Uint8Array, offset: number): boolean {
    return offset + sent >= data.length || !this.#socket.isStream
  }

  /** One sendmsg, with the first `count` of the shared numbers. */
  #transmit(data: Uint8Array, offset: number, count: number, credentials: SentCredentials | undefined): number {
    if (offset > MAX_INT) {
      if (data.length < offset) return -constants.errno.EFAULT // detached or resized since
      return this.#transmit(data.subarray(offset), 0, count, credentials) // the native calls take offsets of 32 bits
    }
    const { fd } = this.#socket
    const length = data.length
    if (this.#name !== undefined || credentials !== undefined)
      return this.#transmitMessage(data, offset, count, credentials)
    if (length > SMALL || offset > 0) return native.sendFrom(data, fd, offset, count)
    putBytes(data)
    return native.send(fd, length, count)
  }

  #transmitMessage(data: Uint8Array, offset: number, count: number, credentials: SentCredentials | undefined): number {
    const { fd } = this.#socket
    const length = this.#name === undefined ? 0 : putName(this.#name)
    const { pid, uid, gid } = credentials ?? { pid: 0, uid: 0, gid: 0 }
    // A small array may be in a SharedArrayBuffer, which the native call refuses.
    const own = data.length > SMALL ? data : Uint8Array.from(data)
    const sent = native.sendMessage(own, fd, offset, count, length, credentials === undefined ? 0 : 1, pid, uid, gid)
    // poll(2) reports whether this socket has room, not whether the receiver has (unix_dgram_poll in af_unix.c).
    return sent === AGAIN && length > 0 ? BUSY! : sent
  }

  #error(code: number): Error {
    return systemError(code, 'sendmsg', this.#address)
  }

  /** Watches for what the pending sends need. */
  #update(): void {
    if (this.#address === undefined) {
      this.#socket.update()
      return
    }
    const waits = this.#waiters.length > 0
    this.#socket.setWaiting(this.#address, this, waits)
    if (waits) this.#retryLater()
  }

  /** Sends pending messages while there is room. */
  flushOutput(): void {
    const sentFds: number[] = []
    try {
      this.#flush(sentFds)
    } finally {
      closeFds(sentFds)
    }
  }

  /** Sends pending messages, and collects the duplicates that were sent: one call closes neighbouring numbers. */
  #flush(sentFds: number[]): void {
    for (let left = MESSAGES_PER_WAKE; left > 0; left--) {
      const pending = this.#waiters.first
      if (pending === undefined) break
      const count = this.#prepare(pending)
      if (count === undefined) continue
      const sent = this.#transmit(pending.data, pending.offset, count, pending.credentials)
      if (sent < 0) pending.rollback()
      if (sent === AGAIN) break
      if (sent === BUSY) {
        this.#retryLater()
        break
      }
      this.#backoff?.reset()
      if (sent < 0) {
        this.#waiters.reject(pending, () => this.#error(sent))
        sentFds.push(...pending.takeFds())
        if (pending.offset > 0) this.#endHalf()
        continue
      }
      const whole = this.#isWhole(sent, pending.data, pending.offset)
      pending.advance(sent, whole)
      sentFds.push(...pending.takeFds())
      if (whole) settle(this.#waiters.shift()!, undefined)
    }
  }

  /** Prepares an attempt and returns the number of descriptors; undefined if the send has ended instead. */
  #prepare(pending: PendingSend): number | undefined {
    try {
      const count = pending.prepare()
      if (this.#waiters.first === pending) return count
      pending.rollback() // a function of the caller that `prepare` called has ended the send
    } catch (error) {
      this.#waiters.reject(pending, () => error)
    }
    return undefined
  }

  /**
   * Fails pending sends after the writing side was shut down: poll(2) reports no room on a stream that is full, although a send
   * would fail at once.
   */
  flushEnded(): void {
    let before: number
    do {
      before = this.#waiters.length
      this.flushOutput()
    } while (this.#waiters.length < before)
    this.#update()
  }

  /** Tries again after a delay. */
  #retryLater(): void {
    if (this.#timer !== undefined) return
    this.#backoff ??= new Backoff()
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.flushOutput()
      this.#update()
    }, this.#backoff.next())
    this.referenced = this.#socket.referenced
  }

  /** Releases what a send held that was aborted or cancelled. */
  waiterAborted(pending: PendingSend): void {
    closeFds(pending.takeFds())
    if (pending.offset > 0) this.#endHalf()
    this.#cancelRetryIfIdle()
    this.#update()
  }

  /** Ends the stream after half a message: a receiver would take whatever followed for its other half. */
  #endHalf(): void {
    native.shutdown(this.#socket.fd, 'write')
    queueMicrotask(() => this.flushEnded()) // after a signal has ended its other operations
  }

  /** Rejects all pending sends. */
  fail(error: () => Error): void {
    const isHalf = (this.#waiters.first?.offset ?? 0) > 0
    this.#waiters.settleAll((pending) => {
      closeFds(pending.takeFds())
      return rejection(error)
    })
    if (isHalf && !this.#socket.closed) this.#endHalf()
    this.#cancelRetryIfIdle()
  }

  #cancelRetryIfIdle(): void {
    if (this.#waiters.length > 0 || this.#timer === undefined) return
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#backoff?.reset()
  }
}
