import type { Credentials } from '../socket/index.ts'
import { invalidType } from '../base/internal.ts'
import type { Kind } from '../descriptor/index.ts'

/** A request to open a file. The policy is called before the file is opened, truncated or created. */
export interface OpenRequest {
  /** The operation. */
  readonly operation: 'open'
  /** The path, as the client sent it. */
  readonly path: string
  /** The root that contains the file. */
  readonly root: string
  /**
   * The file's resolved path, as the kernel reports it (Linux). Null if there is no such file, and on other platforms.
   * The file may have been renamed since; the broker opens the same inode.
   */
  readonly resolved: string | null
  /**
   * The file's kind; terminals are character devices. Null if there is no such file: it is created if `create` is true,
   * otherwise the client gets the error, such as `ENOENT`. A denied client always gets `EACCES`.
   */
  readonly kind: Kind | null
  /**
   * The resolved path of the directory in which the file would be created (Linux); null if the file exists, or that directory
   * does not. The directory may have been renamed since; the broker creates the file in the same one.
   */
  readonly parent: string | null
  /** The name of the file that would be created in `parent`; null if `parent` is. */
  readonly name: string | null
  /** The access: `'read'` only if the request changes nothing, so neither creates nor truncates a file. */
  readonly access: 'read' | 'write' | 'read-write'
  /** Whether a missing file is created (`O_CREAT`). */
  readonly create: boolean
  /** Whether the file is truncated (`O_TRUNC`). */
  readonly truncate: boolean
  /** Whether every write goes to the end of the file (`O_APPEND`). */
  readonly append: boolean
  /** The platform's open(2) flags. */
  readonly flags: number
  /** The permissions of a created file, before the umask. */
  readonly mode: number
}

/** A request to connect to a service. */
export interface ConnectRequest {
  /** The operation. */
  readonly operation: 'connect'
  /** The service's address: one of the broker's `services`. */
  readonly address: string
}

/** A request to listen on a service. */
export interface ListenRequest {
  /** The operation. */
  readonly operation: 'listen'
  /** The service's address: one of the broker's `services`. */
  readonly address: string
  /** The maximum number of connections that wait to be accepted. */
  readonly backlog: number
  /** The permissions of the socket's file; null if the client leaves them to the broker's umask. */
  readonly mode: number | null
}

/** A request to connect to a service, or to listen on it. */
export type ServiceRequest = ConnectRequest | ListenRequest

/** A request that a {@link BrokerPolicy} authorizes. */
export type BrokerRequest = OpenRequest | ServiceRequest

/**
 * Authorizes the requests of a broker, within its roots and services.
 *
 * @param request the request, with everything that will happen. An existing file has already been located beneath its root, and
 *   exactly this file is opened
 * @param credentials the credentials of the process that made the connection
 * @returns true to grant the request. Any other value, and an error, denies it with `EACCES`
 */
export type BrokerPolicy = (request: BrokerRequest, credentials: Credentials) => boolean | Promise<boolean>

/**
 * The default policy: opens regular files for reading, and directories if the broker has the option, and grants every service.
 * The error of a file that does not exist is reported.
 */
export const readOnlyPolicy: BrokerPolicy = (request) => {
  if (request.operation !== 'open') return true
  const { kind, access } = request
  return access === 'read' && (kind === null || kind === 'file' || kind === 'directory')
}

/** Returns the policy of an argument. */
export function policyOf(name: string, value: unknown): BrokerPolicy {
  if (typeof value !== 'function') throw invalidType(name, 'of type function', value)
  return value as BrokerPolicy
}
