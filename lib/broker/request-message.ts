import { constants } from 'node:os'
import { MAX_INT } from '../base/internal.ts'
import { systemError } from '../native/internal.ts'
import type { OpenArguments } from './open-beneath.ts'

const { EINVAL, ENAMETOOLONG } = constants.errno

/** What comes over the channel. */
export type RequestMessage =
  | ({ readonly operation: 'open' } & OpenArguments)
  | { readonly operation: 'connect'; readonly address: string }
  | {
      readonly operation: 'listen'
      readonly address: string
      readonly backlog?: number | undefined
      readonly mode?: number | undefined
    }

/** The most bytes of a path: PATH_MAX, with its NUL. */
const MAX_PATH = 4096

/** The most bytes of a message in either direction: each character of a path may take six in JSON. */
export const MAX_MESSAGE_BYTES = 64 * 1024

/** What is asked for by whoever is at the other end, who may send anything: `EINVAL` for what is no request. */
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
    backlog: backlog === undefined ? undefined : number(backlog, MAX_INT),
    mode: mode === undefined ? undefined : number(mode, 0o777)
  }
}

function text(value: unknown): string {
  // An abstract address begins with a NUL.
  if (typeof value !== 'string' || value.includes('\0', 1)) throw systemError(-EINVAL, 'broker')
  if (Buffer.byteLength(value) >= MAX_PATH) throw systemError(-ENAMETOOLONG, 'broker')
  return value
}

function number(value: unknown, most: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most) return value
  throw systemError(-EINVAL, 'broker')
}
