// Named views of the results that the native calls leave in the shared arrays. A result is valid until the next native call.
import { binding } from './binding.ts'
import { SMALL, batch, bytes, fds, outcome, turn } from './shared-memory.ts'
import type * as Binding from '#binding'

// Without a binary no call is made, and no result is read.
const layout = (binding ?? {
  TurnField: {},
  ReceiveField: {},
  BatchField: {},
  BatchEntryField: {},
  FrameField: {},
  FlushField: {},
  ViolationField: {},
  ProtocolViolation: {}
}) as typeof Binding
const receiveField = layout.ReceiveField
const FD_COUNT = receiveField.FdCount
const STATUS = receiveField.Status
const SIZE = receiveField.Size
const EXTRAS = receiveField.Extras
const NAME_LENGTH = receiveField.NameLength
const { HAS_CREDENTIALS, HAS_PIDFD, UNKNOWN_UID, UNKNOWN_GID, BATCH_HEADER_LENGTH, BATCH_ENTRY_LENGTH } = layout
const BATCH_COUNT = layout.BatchField.Count
const BATCH_BYTES = BATCH_HEADER_LENGTH + layout.BatchEntryField.ByteCount
const BATCH_FDS = BATCH_HEADER_LENGTH + layout.BatchEntryField.FdCount
const { FdCount, FdsLost, Kind, Format, Id, HasMore } = layout.FrameField
const { Stopped } = layout.FlushField
const { Kind: ViolationKind, Announced, Arrived } = layout.ViolationField

// Functions, not accessors of an object: V8 does not inline those here, and they cost 0.4 µs for each pending receive.

/** Returns the number of descriptors of the received message. */
export function receivedFdCount(): number {
  return outcome[FD_COUNT]!
}

/** Returns what became of the received message's descriptors: a `ControlStatus`. */
export function receivedStatus(): number {
  return outcome[STATUS]!
}

/** Returns the size of the received message in bytes; more than the number of bytes returned if it was truncated. */
export function receivedSize(): number {
  return outcome[SIZE]!
}

/** Returns whether credentials or a pidfd arrived. */
export function hasReceivedExtras(): boolean {
  return outcome[EXTRAS] !== 0
}

/** The credentials of a message's sender. */
export interface SenderCredentials {
  readonly pid: number | null
  readonly uid: number
  readonly gid: number
  readonly unknownUid?: boolean
  readonly unknownGid?: boolean
}

/** Returns the sender's credentials, with a pid of null if the kernel does not know it; undefined if none arrived. */
export function receivedCredentials(): SenderCredentials | undefined {
  const extras = outcome[EXTRAS]!
  if ((extras & HAS_CREDENTIALS) === 0) return undefined
  const pid = outcome[receiveField.Pid]!
  const credentials = {
    pid: pid === 0 ? null : pid,
    uid: outcome[receiveField.Uid]! >>> 0,
    gid: outcome[receiveField.Gid]! >>> 0
  }
  if ((extras & (UNKNOWN_UID | UNKNOWN_GID)) === 0) return credentials
  return {
    ...credentials,
    ...((extras & UNKNOWN_UID) !== 0 && { unknownUid: true }),
    ...((extras & UNKNOWN_GID) !== 0 && { unknownGid: true })
  }
}

/** Returns the sender's pidfd, which the native side owns; undefined if none arrived. */
export function receivedPidfd(): number | undefined {
  return (outcome[EXTRAS]! & HAS_PIDFD) === 0 ? undefined : outcome[receiveField.Pidfd]!
}

/** Returns the length of the sender's address in the shared name; 0 if it has none. */
export function receivedNameLength(): number {
  return outcome[NAME_LENGTH]!
}

/** Returns the number of messages of a receive of several. Their bytes and descriptors follow each other in the shared arrays. */
export function batchCount(): number {
  return batch[BATCH_COUNT]!
}

/** Returns the number of bytes of a message of a receive of several. */
export function batchByteCount(message: number): number {
  return batch[BATCH_BYTES + message * BATCH_ENTRY_LENGTH]!
}

/** Returns the number of descriptors of a message of a receive of several. */
export function batchFdCount(message: number): number {
  return batch[BATCH_FDS + message * BATCH_ENTRY_LENGTH]!
}

const { Running: RUNNING, Held: HELD, Fd: EVENT_FD, Events: EVENTS, Armed: ARMED } = layout.TurnField

/** Returns whether a callback of the event loop is running. */
export function isInCallback(): boolean {
  return turn[RUNNING] !== 0
}

/** Adds to the number of handles that keep the process alive, and returns it. The native side reads it after each callback. */
export function addHeld(delta: number): number {
  return (turn[HELD]! += delta)
}

/** Returns the descriptor that the event loop reports as ready. */
export function readyFd(): number {
  return turn[EVENT_FD]!
}

/** Returns the events that the descriptor is ready for. */
export function readyEvents(): number {
  return turn[EVENTS]!
}

/** Returns the events that the descriptor is still armed for. */
export function armedEvents(): number {
  return turn[ARMED]!
}

/** Returns a copy of received bytes. */
export function copyBytes(from: number, count: number): Uint8Array {
  return copyInto(new Uint8Array(count), from, count)
}

/** Returns a copy of received bytes as a Buffer with memory of its own. */
export function copyBuffer(from: number, count: number): Buffer {
  return copyInto(newBuffer(count), from, count)
}

// The constructor of the Buffers that Buffer's own methods return. `Buffer.allocUnsafeSlow` takes half as long again.
const Species = (Buffer as unknown as { readonly [Symbol.species]?: new (length: number) => Buffer })[Symbol.species]
const newBuffer =
  Species === undefined || Species.prototype !== Buffer.prototype || (Species as unknown) === Buffer
    ? (count: number): Buffer => Buffer.allocUnsafeSlow(count)
    : (count: number): Buffer => new Species(count)

function copyInto<T extends Uint8Array>(data: T, from: number, count: number): T {
  if (count <= SMALL) for (let i = 0; i < count; i++) data[i] = bytes[from + i]!
  else data.set(bytes.subarray(from, from + count))
  return data
}

/** Puts the bytes of a small message, at most {@link SMALL}, where `send` expects them. */
export function putBytes(data: Uint8Array): void {
  for (let i = 0; i < data.length; i++) bytes[i] = data[i]!
}

/** Returns one of the received descriptor numbers. */
export function fdAt(position: number): number {
  return fds[position]!
}

/** Puts descriptor numbers where the native calls expect them. */
export function putAllFds(numbers: readonly number[]): void {
  for (let i = 0; i < numbers.length; i++) fds[i] = numbers[i]!
}

/** Puts a descriptor number where the native calls expect it. */
export function putFdAt(position: number, fd: number): void {
  fds[position] = fd
}

/** The violations of the channel protocol. */
export const ProtocolViolation: typeof Binding.ProtocolViolation = layout.ProtocolViolation

/** The frame that `channelReceive` received, beside its length, which the call returns. */
export const frameResult = {
  /** The number of its descriptors, which are in `fds`. */
  get fdCount(): number {
    return outcome[FdCount]!
  },
  /** Whether its descriptors were lost because the descriptor table is full. */
  get fdsLost(): boolean {
    return outcome[FdsLost] !== 0
  },
  /** A `FrameKind`. */
  get kind(): number {
    return outcome[Kind]!
  },
  /** A `FrameFormat`. */
  get format(): number {
    return outcome[Format]!
  },
  /** The id of the request that the frame belongs to; 0 for other frames. */
  get id(): number {
    return outcome[Id]! >>> 0
  },
  /** Whether another whole frame has arrived, which no event will report. */
  get hasMore(): boolean {
    return outcome[HasMore] !== 0
  }
}

/** The result of `channelFlush`, beside the number of frames sent, which the call returns. */
export const flushResult = {
  /** What stopped it: `AGAIN`, `BUSY` or a negative error number; 0 if nothing is left to send. */
  get stopped(): number {
    return outcome[Stopped]!
  }
}

/** The violation for which `channelReceive` returned `BROKEN`. */
export const violationResult = {
  /** A `ProtocolViolation`. */
  get kind(): number {
    return outcome[ViolationKind]!
  },
  /** The number of bytes or descriptors that the frame announced. */
  get announced(): number {
    return outcome[Announced]! >>> 0
  },
  /** The number of descriptors that arrived. */
  get arrived(): number {
    return outcome[Arrived]!
  }
}

/** The fields of a received frame. */
export interface FrameFields {
  fdsLost: boolean
  kind: number
  format: number
  id: number
  hasMore: boolean
}

/** Copies the fields of {@link frameResult}, and returns the number of descriptors. One call costs less than a getter for each. */
export function readFrameResult(frame: FrameFields): number {
  frame.fdsLost = outcome[FdsLost] !== 0
  frame.kind = outcome[Kind]!
  frame.format = outcome[Format]!
  frame.id = outcome[Id]! >>> 0
  frame.hasMore = outcome[HasMore] !== 0
  return outcome[FdCount]!
}
