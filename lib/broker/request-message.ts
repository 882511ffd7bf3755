import { constants } from 'node:os'
import { DEFAULT_BACKLOG, MAX_INT } from '../base/internal.ts'
import { systemError } from '../native/internal.ts'
import type { OpenArguments } from './open-beneath.ts'

const { EINVAL, ENAMETOOLONG } = constants.errno

/** A request as the channel carries it. */
export type RequestMessage =
  | ({ readonly operation: 'open' } & OpenArguments)
  | { readonly operation: 'connect'; readonly address: string }
  | {
      readonly operation: 'listen'
      readonly address: string
      readonly backlog: number
      /** Null for the broker's umask. */
      readonly mode: number | null
    }

/** The maximum length of a path in bytes: PATH_MAX, with its NUL. */
const MAX_PATH = 4096

/** The maximum length of a message in bytes, in either direction: JSON may need six bytes for each byte of a path. */
export const MAX_MESSAGE_BYTES = 64 * 1024

/** Validates a received message; throws `EINVAL` if it is not a request. */
export function parseRequest(value: unknown): RequestMessage {
  if (typeof value !== 'object' || value === null) throw systemError(-EINVAL, 'broker')
  const { operation, path, flags, mode, address, backlog } = value as Record<string, unknown>
  if (operation === 'open') {
    return { operation, path: text(path), flags: number(flags, MAX_INT), mode: number(mode, 0o7777) }
  }
  if (operation === 'connect') return { operation, address: text(address) }
  if (operation !== 'listen') throw systemError(-EINVAL, 'broker')
  return {
    operation,
    address: text(address),
    backlog: backlog === undefined ? DEFAULT_BACKLOG : number(backlog, MAX_INT),
    mode: mode === undefined || mode === null ? null : number(mode, 0o777)
  }
}

function text(value: unknown): string {
  // An abstract address begins with a NUL.
  if (typeof value !== 'string' || value.includes('\0', 1)) throw systemError(-EINVAL, 'broker')
  if (Buffer.byteLength(value) >= MAX_PATH) throw systemError(-ENAMETOOLONG, 'broker')
  return value
}

function number(value: unknown, max: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max) return value
  throw systemError(-EINVAL, 'broker')
}
