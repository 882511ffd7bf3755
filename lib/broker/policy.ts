import type { Credentials } from '../socket/index.ts'
import { invalidType } from '../base/internal.ts'
import type { Kind } from '../descriptor/index.ts'

/** A file that a broker is to open; asked before anything happens to it. */
export interface OpenRequest {
  /** What is asked for. */
  readonly operation: 'open'
  /** The path, as it was given. */
  readonly path: string
  /** The root beneath which it is. */
  readonly root: string
  /**
   * Where the file really is, as the kernel tells (Linux). Null for a file to be created, and where that is not known.
   * Whoever may rename it can have done so since; the file is the same.
   */
  readonly resolved: string | null
  /** What it is, terminals among the character devices; null for a file to be created. */
  readonly kind: Kind | null
  /** What it is to be used for. */
  readonly access: 'read' | 'write' | 'read-write'
  /** Whether it is to be created if there is none (`O_CREAT`). */
  readonly create: boolean
  /** Whether it is to be emptied (`O_TRUNC`). */
  readonly truncate: boolean
  /** Whether all that is written goes to its end (`O_APPEND`). */
  readonly append: boolean
  /** The flags, as the platform's open(2) has them. */
  readonly flags: number
  /** The permissions of a file to be created. */
  readonly mode: number
}

/** A service that a broker is to connect to, or to listen for. */
export interface ServiceRequest {
  /** What is asked for. */
  readonly operation: 'connect' | 'listen'
  /** The service, one of those that the broker has. */
  readonly address: string
}

/** What a broker is asked for. */
export type BrokerRequest = OpenRequest | ServiceRequest

/**
 * Decides what a broker gives, within its roots and services: whatever this says yes to.
 *
 * @param request what is asked for; a file has been found beneath its root by then, and exactly this file will be opened
 * @param credentials of who asks
 * @returns true for yes; anything else, and an error, is a refusal
 */
export type BrokerPolicy = (request: BrokerRequest, credentials: Credentials) => boolean | Promise<boolean>

/** What holds where nobody says: files and directories to read, and the services. */
export const readOnlyPolicy: BrokerPolicy = (request) => {
  if (request.operation !== 'open') return true
  const { kind, access, create, truncate } = request
  return access === 'read' && !create && !truncate && (kind === 'file' || kind === 'directory')
}

/** A policy that the caller gave. */
export function policyOf(name: string, value: unknown): BrokerPolicy {
  if (typeof value !== 'function') throw invalidType(name, 'of type function', value)
  return value as BrokerPolicy
}
