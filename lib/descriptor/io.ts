import { constants } from 'node:os'
import { aborted, onAbort } from '../base/abort.ts'
import { rejection } from '../base/errors.ts'
import { MAX_INT } from '../base/validate.ts'
import { Waiter, Waiters, settle } from '../base/waiters.ts'
import { PollHandle } from '../event-loop/poll-handle.ts'
import { chargeTick, yieldToLoop } from '../event-loop/tick-budget.ts'
import { native } from '../native/binding.ts'
import { AGAIN, END, READABLE, WRITABLE } from '../native/codes.ts'
import { MOST_BYTES, SMALL, bytes as shared } from '../native/shared-memory.ts'
import { systemError } from '../native/system-error.ts'
import { descriptorClosed } from './casts.ts'

/** The number of reads, and of writes, that one wake serves before it returns to the event loop. */
const OPERATIONS_PER_WAKE = 16

/** The most bytes that the thread pool reads or writes at a time, so that an abort or a close waits for no more. */
const FILE_PIECE = 2 ** 20

/** The position of a read or write; undefined for the offset that belongs to the open file description. */
export type Position = bigint | undefined

/**
 * The operations on one descriptor. Reads take place in the order of their calls, and so do writes.
 *
 * Each `holder` is kept from being collected while its operation is pending.
 */
export interface DescriptorIo {
  /** Reads at most `maxBytes` bytes; null at the end. */
  read(holder: object, maxBytes: number, position: Position, signal: AbortSignal | undefined): Promise<Buffer | null>
  /** Reads until the end or until `maxBytes` bytes. An error's `data` holds the bytes that were read before it. */
  readToEnd(holder: object, maxBytes: number, position: Position, signal: AbortSignal | undefined): Promise<Buffer>
  /** Writes all bytes. An error's `bytesWritten` counts those that were written before it. */
  write(holder: object, data: Uint8Array, position: Position, signal: AbortSignal | undefined): Promise<void>
  /** Waits until the descriptor is ready for the event. */
  poll(holder: object, event: number, signal: AbortSignal | undefined): Promise<void>
  /** Leaves the descriptor to another watcher; `resume` takes it back. */
  suspend(): void
  resume(): void
  /** Rejects the pending operations, because the descriptor has another owner now, or none. */
  detach(): void
}

/** Prepares a descriptor of the native side for reading and writing. */
export function openIo(fd: number): DescriptorIo {
  const code = native.openIo(fd)
  if (code < 0) throw systemError(code, 'fstat')
  return code === 1 ? new StreamHandle(fd) : new FileHandle(fd)
}

/** A pending read. */
class PendingRead extends Waiter<any> {
  readonly holder: object
  readonly maxBytes: number
  /** The bytes of a read to the end so far; undefined for a single read. */
  readonly chunks: Buffer[] | undefined
  length = 0

  constructor(holder: object, maxBytes: number, toEnd: boolean) {
    super()
    this.holder = holder
    this.maxBytes = maxBytes
    this.chunks = toEnd ? [] : undefined
  }

  /** The most bytes that the next system call may read. */
  get missing(): number {
    return this.chunks === undefined ? this.maxBytes : Math.min(this.maxBytes - this.length, MOST_BYTES)
  }

  /** Adds bytes, or null for the end. Returns whether the read is complete. */
  add(chunk: Buffer | null): boolean {
    if (this.chunks === undefined || chunk === null) return true
    this.chunks.push(chunk)
    this.length += chunk.length
    return this.length >= this.maxBytes
  }

  /** The result of a complete read, whose last chunk was `chunk`. */
  result(chunk: Buffer | null): Buffer | null {
    return this.chunks === undefined ? chunk : joined(this.chunks)
  }

  override annotate(error: unknown): unknown {
    return this.chunks === undefined ? error : Object.assign(error as Error, { data: joined(this.chunks) })
  }
}

/** A pending write. */
class PendingWrite extends Waiter<any> {
  readonly holder: object
  readonly data: Uint8Array
  /** The number of bytes to write. */
  readonly size: number
  /** The number of bytes written. */
  offset = 0

  constructor(holder: object, data: Uint8Array) {
    super()
    this.holder = holder
    // A small array may be in a SharedArrayBuffer, which the native call refuses.
    this.data = data.length > SMALL ? data : Uint8Array.from(data)
    this.size = data.length
  }

  override annotate(error: unknown): unknown {
    return Object.assign(error as Error, { bytesWritten: this.offset })
  }
}

/** A pending wait for readiness. */
class PendingPoll extends Waiter<void> {
  readonly holder: object

  constructor(holder: object) {
    super()
    this.holder = holder
  }
}

/** The error of a system call, to settle an operation with. */
class Failure {
  readonly code: number
  readonly syscall: string

  constructor(code: number, syscall: string) {
    this.code = code
    this.syscall = syscall
  }

  error(): Error {
    return systemError(this.code, this.syscall)
  }
}

/**
 * A descriptor that the event loop watches: a pipe, terminal, socket, eventfd, pidfd and the like. No call waits, in the loop or on the
 * thread pool.
 */
export class StreamHandle extends PollHandle implements DescriptorIo {
  readonly #reads = new Waiters<PendingRead>(this)
  readonly #writes = new Waiters<PendingWrite>(this)
  readonly #readable = new Waiters<PendingPoll>(this)
  readonly #writable = new Waiters<PendingPoll>(this)

  read(holder: object, maxBytes: number, position?: Position, signal?: AbortSignal): Promise<Buffer | null> {
    if (position !== undefined) return Promise.reject(new Failure(NO_POSITION, 'pread').error())
    if (this.#reads.length === 0 && chargeTick()) {
      const chunk = this.#tryRead(maxBytes)
      if (chunk instanceof Failure) return Promise.reject(chunk.error())
      if (chunk !== undefined) return Promise.resolve(chunk)
    }
    return this.#enqueue(this.#reads, new PendingRead(holder, maxBytes, false), signal)
  }

  readToEnd(holder: object, maxBytes: number, position?: Position, signal?: AbortSignal): Promise<Buffer> {
    if (position !== undefined) return Promise.reject(new Failure(NO_POSITION, 'pread').error())
    return this.#enqueue(this.#reads, new PendingRead(holder, maxBytes, true), signal)
  }

  write(holder: object, data: Uint8Array, position?: Position, signal?: AbortSignal): Promise<void> {
    if (position !== undefined) return Promise.reject(new Failure(NO_POSITION, 'pwrite').error())
    const pending = new PendingWrite(holder, data)
    if (this.#writes.length === 0) {
      const outcome = this.#tryWrite(pending)
      if (outcome instanceof Failure) return Promise.reject(pending.annotate(outcome.error()))
      if (outcome) return chargeTick() ? Promise.resolve() : yieldToLoop()
    }
    return this.#enqueue(this.#writes, pending, signal)
  }

  poll(holder: object, event: number, signal?: AbortSignal): Promise<void> {
    const ready = native.isReady(this.fd, event)
    if (ready < 0) return Promise.reject(systemError(ready, 'poll'))
    if (ready === 1) return chargeTick() ? Promise.resolve() : yieldToLoop()
    return this.#enqueue(event === READABLE ? this.#readable : this.#writable, new PendingPoll(holder), signal)
  }

  #enqueue<W extends Waiter<any>>(waiters: Waiters<W>, pending: W, signal: AbortSignal | undefined): Promise<any> {
    const promise = waiters.add<any>(pending, signal)
    this.update()
    return promise
  }

  /** One read(2): the bytes, null at the end, undefined if there are none yet. */
  #tryRead(maxBytes: number): Buffer | null | Failure | undefined {
    const buffer = maxBytes <= MOST_BYTES ? undefined : allocate(maxBytes)
    if (buffer instanceof Failure) return buffer
    const count = buffer === undefined ? native.read(this.fd, maxBytes) : native.readInto(buffer, this.fd)
    if (count >= 0) return copyOf(buffer ?? shared, count)
    if (count === AGAIN) return undefined
    return count === END ? null : new Failure(count, 'read')
  }

  /** One write(2). Returns whether everything is written. */
  #tryWrite(pending: PendingWrite): boolean | Failure {
    const { data, offset, size } = pending
    if (data.length < size) return new Failure(-constants.errno.EFAULT, 'write') // detached or resized since
    // The native call takes offsets of 32 bits.
    const count =
      offset > MAX_INT ? native.write(data.subarray(offset), this.fd, 0) : native.write(data, this.fd, offset)
    if (count === AGAIN) return false
    if (count < 0) return new Failure(count, 'write')
    pending.offset += count
    return pending.offset >= size
  }

  protected get waitsForInput(): boolean {
    return this.#reads.length > 0 || this.#readable.length > 0
  }

  protected override get waitsForRoom(): boolean {
    return this.#writes.length > 0 || this.#writable.length > 0
  }

  protected flushInput(): void {
    this.#settlePolls(this.#readable, READABLE)
    for (let left = OPERATIONS_PER_WAKE; left > 0; left--) {
      const pending = this.#reads.first
      if (pending === undefined) return
      const chunk = this.#tryRead(pending.missing)
      if (chunk === undefined) return
      if (chunk instanceof Failure) this.#reads.reject(pending, () => chunk.error())
      else if (pending.add(chunk)) this.#reads.resolve(pending, pending.result(chunk))
    }
  }

  protected override flushOutput(): void {
    this.#settlePolls(this.#writable, WRITABLE)
    for (let left = OPERATIONS_PER_WAKE; left > 0; left--) {
      const pending = this.#writes.first
      if (pending === undefined) return
      const before = pending.offset
      const outcome = this.#tryWrite(pending)
      if (outcome instanceof Failure) this.#writes.reject(pending, () => outcome.error())
      else if (outcome) this.#writes.resolve(pending, undefined)
      else if (pending.offset === before) return
    }
  }

  /** The event may belong to a descriptor that had this number before. */
  #settlePolls(waiters: Waiters<PendingPoll>, event: number): void {
    if (waiters.length === 0) return
    const ready = native.isReady(this.fd, event)
    if (ready < 0) waiters.fail(() => systemError(ready, 'poll'))
    else if (ready === 1) waiters.settleAll(() => undefined)
  }

  protected fail(error: () => Error): void {
    for (const waiters of [this.#reads, this.#writes, this.#readable, this.#writable]) waiters.fail(error)
  }

  protected end(): number[] {
    this.fail(descriptorClosed)
    return []
  }

  resume(): void {
    this.update()
  }
}

/** An operation of the thread pool on a file. */
type FileOperation = (PendingRead | PendingWrite) & { signal?: AbortSignal | undefined; position?: Position }

/** A file, which the thread pool reads and writes: one operation at a time, in the order of the calls. */
class FileHandle implements DescriptorIo {
  readonly #fd: number
  readonly #waiting = new Waiters<FileOperation>()
  #isBusy = false
  /** The operation on the thread pool, until it settles. */
  #running: FileOperation | undefined

  constructor(fd: number) {
    this.#fd = fd
  }

  read(holder: object, maxBytes: number, position: Position, signal: AbortSignal | undefined): Promise<Buffer | null> {
    return this.#enqueue<Buffer | null>(new PendingRead(holder, maxBytes, false), position, signal)
  }

  readToEnd(holder: object, maxBytes: number, position: Position, signal: AbortSignal | undefined): Promise<Buffer> {
    return this.#enqueue<Buffer>(new PendingRead(holder, maxBytes, true), position, signal)
  }

  write(holder: object, data: Uint8Array, position: Position, signal: AbortSignal | undefined): Promise<void> {
    return this.#enqueue<void>(new PendingWrite(holder, data), position, signal)
  }

  /** poll(2) reports a file as always ready. */
  poll(): Promise<void> {
    return Promise.resolve()
  }

  suspend(): void {}

  resume(): void {}

  detach(): void {
    if (this.#running !== undefined) this.#settle(this.#running, descriptorClosed)
    this.#waiting.fail(descriptorClosed)
  }

  #enqueue<T>(operation: FileOperation, position: Position, signal: AbortSignal | undefined): Promise<T> {
    operation.position = position
    operation.signal = signal
    const promise = this.#waiting.add<T>(operation, signal)
    if (!this.#isBusy) void this.#run()
    return promise
  }

  async #run(): Promise<void> {
    this.#isBusy = true
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      const operation = next
      this.#running = operation
      using _abortion = onAbort(operation.signal, () => this.#cancel(operation))
      while (this.#running === operation) await this.#runPiece(operation)
    }
    this.#isBusy = false
  }

  /** Runs an operation on the thread pool, or a piece of it. */
  async #runPiece(operation: FileOperation): Promise<void> {
    const { position } = operation
    const isRead = operation instanceof PendingRead
    const done = isRead ? operation.length : operation.offset
    const at = position === undefined ? undefined : position + BigInt(done)
    const outcome = await (isRead ? this.#readPiece(operation, at) : this.#writePiece(operation, at))
    if (this.#running !== operation) return // aborted, or the descriptor was closed
    const { signal } = operation
    if (outcome instanceof Failure) this.#settle(operation, () => outcome.error())
    else if (outcome !== undefined) this.#finish(operation, outcome.value)
    else if (signal?.aborted === true) this.#settle(operation, () => aborted(signal))
  }

  /** Returns the result of a read that is complete. */
  async #readPiece(read: PendingRead, at: Position): Promise<{ value: Buffer | null } | Failure | undefined> {
    const isToEnd = read.chunks !== undefined
    const size = isToEnd ? Math.min(read.maxBytes - read.length, FILE_PIECE) : read.maxBytes
    const data = await native.readLater(this.#fd, size, at, isToEnd)
    if (typeof data === 'number') return new Failure(data, at === undefined ? 'read' : 'pread')
    const chunk = data.length === 0 ? null : data
    const isComplete = read.add(chunk)
    return isComplete || data.length < size ? { value: read.result(chunk) } : undefined
  }

  async #writePiece(write: PendingWrite, at: Position): Promise<{ value: undefined } | Failure | undefined> {
    const { data, offset, size } = write
    const piece = data.subarray(offset, offset + FILE_PIECE)
    const isDetached = data.length < size
    const count = isDetached ? -constants.errno.EFAULT : await native.writeLater(piece, this.#fd, at)
    if (count < 0) return new Failure(count, at === undefined ? 'write' : 'pwrite')
    write.offset += count
    return write.offset >= size ? { value: undefined } : undefined
  }

  /** Aborts the running operation unless a system call of it has begun: the bytes that it reads or writes then count. */
  #cancel(operation: FileOperation): void {
    if (native.cancelLater(this.#fd) === 0) this.#settle(operation, () => aborted(operation.signal!))
  }

  /** Rejects the running operation. */
  #settle(operation: FileOperation, error: () => unknown): void {
    this.#finish(
      operation,
      rejection(() => operation.annotate(error()))
    )
  }

  /** Settles the running operation, once. */
  #finish(operation: FileOperation, value: unknown): void {
    if (this.#running !== operation) return
    this.#running = undefined
    settle(operation as Waiter<unknown>, value)
  }
}

/** The error number of a position in a file that has none. */
const NO_POSITION = -constants.errno.ESPIPE

function joined(chunks: readonly Buffer[]): Buffer {
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)
}

/** Returns the first bytes; a copy unless they are most of a buffer that nothing else uses. */
function copyOf(from: Uint8Array, count: number): Buffer {
  if (from instanceof Buffer && count >= from.length / 2) return from.subarray(0, count)
  const copy = Buffer.allocUnsafeSlow(count)
  copy.set(from.subarray(0, count))
  return copy
}

function allocate(length: number): Buffer | Failure {
  try {
    return Buffer.allocUnsafeSlow(length)
  } catch {
    return new Failure(-constants.errno.ENOMEM, 'read')
  }
}
