import type * as Binding from '#binding'
import { binding } from './binding.ts'

/** The result of a call that cannot proceed now; the reactor reports when to call again. */
export const AGAIN = binding?.AGAIN
/** The result of a call that cannot proceed now; no event reports when it can, so it is retried after a delay. */
export const BUSY = binding?.BUSY
/** The result of a receive at the end of a connection. */
export const END = binding?.END
/** The result of a channel whose peer violated the protocol or a limit. */
export const BROKEN = binding?.BROKEN
/** The result of a channel whose next message exceeds the given limits. */
export const FULL = binding?.FULL
/** The event of a descriptor that can be read or accepted from. */
export const READABLE = binding?.READABLE ?? 0
/** The event of a descriptor that can be written to. */
export const WRITABLE = binding?.WRITABLE ?? 0
/** The maximum number of descriptors that one message can carry. */
export const MAX_SENT_FDS = binding?.MAX_SENT_FDS ?? 0
/** The maximum number of descriptors that the kernel can deliver in one message. */
export const MAX_RECEIVED_FDS = binding?.MAX_RECEIVED_FDS ?? 0
/** The maximum number of descriptors in one message of a channel. */
export const MAX_CHANNEL_FDS = binding?.MAX_CHANNEL_FDS ?? 0
/** The maximum length of a socket's path, in bytes. */
export const MAX_PATH = binding?.MAX_PATH ?? 0
// Copied into objects of fixed shape: V8 looks the properties of an object from Node-API up in a hash table.
const kinds = (binding?.FrameKind ?? {}) as typeof Binding.FrameKind
const formats = (binding?.FrameFormat ?? {}) as typeof Binding.FrameFormat
const statuses = (binding?.ControlStatus ?? {}) as typeof Binding.ControlStatus

/** The kinds of a channel's frames. */
export const FrameKind = {
  Message: kinds.Message,
  Request: kinds.Request,
  Response: kinds.Response,
  Error: kinds.Error,
  Cancel: kinds.Cancel,
  Close: kinds.Close
} as const

/** The formats of a frame's data. */
export const FrameFormat = { Bytes: formats.Bytes, Json: formats.Json } as const

/** The outcomes of a received message's descriptors. */
export const ControlStatus = {
  Complete: statuses.Complete,
  Truncated: statuses.Truncated,
  TooMany: statuses.TooMany,
  Unexpected: statuses.Unexpected
} as const
