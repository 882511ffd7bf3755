import type * as Binding from '#binding'
import { binding } from './binding.ts'

/** What a call gives when the reactor will say that it can be made again. */
export const AGAIN = binding?.AGAIN
/** What a call gives when it should be made again after a pause, as no event will announce it. */
export const BUSY = binding?.BUSY
/** What a receive gives at the end of a connection. */
export const END = binding?.END
/** What a channel gives when its peer does not keep to the protocol or the limits. */
export const BROKEN = binding?.BROKEN
/** Something can be received. */
export const READABLE = binding?.READABLE ?? 0
/** Something can be sent. */
export const WRITABLE = binding?.WRITABLE ?? 0
/** The most descriptors that one message may carry. */
export const MAX_SENT_FDS = binding?.MAX_SENT_FDS ?? 0
/** The most descriptors that the kernel can deliver in one message. */
export const MAX_RECEIVED_FDS = binding?.MAX_RECEIVED_FDS ?? 0
/** The most descriptors that one message of a channel may have. */
export const MAX_CHANNEL_FDS = binding?.MAX_CHANNEL_FDS ?? 0
/** The most bytes of a socket's path. */
export const MAX_PATH = binding?.MAX_PATH ?? 0
/** The kinds of a channel's frames. */
export const FrameKind = (binding?.FrameKind ?? {}) as typeof Binding.FrameKind
/** The formats of a frame's data. */
export const FrameFormat = (binding?.FrameFormat ?? {}) as typeof Binding.FrameFormat
/** The code of stream sockets. */
export const STREAM = 0
