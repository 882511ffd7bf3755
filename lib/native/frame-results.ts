// Named views of the results that the native calls on channels leave in `outcome`. A result is valid until the next native call.
import type * as Binding from '#binding'
import { binding } from './binding.ts'
import { outcome } from './shared-memory.ts'

// Without a binary no call is made, and no result is read.
const layout = (binding ?? {
  FrameField: {},
  FlushField: {},
  ViolationField: {},
  ProtocolViolation: {}
}) as typeof Binding
const { FdCount, FdsLost, Kind, Format, Id, HasMore } = layout.FrameField
const { Stopped } = layout.FlushField
const { Kind: ViolationKind, Announced, Arrived } = layout.ViolationField

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
