import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { Places } from '../base/collections.ts'
import { MAX_INT, integer } from '../base/validate.ts'
import { native } from '../native/binding.ts'
import type { SystemError } from '../native/system-error.ts'
import { type Credentials, isUser } from './credentials.ts'

/** The limits of a server's connections. */
export interface ConnectionLimits {
  /** The maximum number of connections. */
  maxConnections?: number | undefined
  /** The maximum number of connections of one user. */
  maxConnectionsPerUser?: number | undefined
}

interface Limits {
  readonly maxConnections: number
  readonly maxConnectionsPerUser: number
}

/** Returns the limits among options, validated. */
export function connectionLimitsOf(options: ConnectionLimits, defaults: Limits): Limits {
  const { maxConnections = defaults.maxConnections, maxConnectionsPerUser = defaults.maxConnectionsPerUser } = options
  return {
    maxConnections: limitOf('options.maxConnections', maxConnections),
    maxConnectionsPerUser: limitOf('options.maxConnectionsPerUser', maxConnectionsPerUser)
  }
}

function limitOf(name: string, value: number): number {
  return value === Infinity ? value : integer(name, value, 1, MAX_INT)
}

/** Counts the connections of a server, in all and for each user. */
export class ConnectionCounter {
  readonly #limits: Limits
  readonly #users = new Map<number, number>()
  readonly #counts = new Map<number, number>()

  constructor(limits: Limits) {
    this.#limits = limits
  }

  /** Counts a connection of a user; returns false, and does not count it, if it exceeds a limit. */
  admit(fd: number, uid: number): boolean {
    const count = this.#counts.get(uid) ?? 0
    if (count >= this.#limits.maxConnectionsPerUser || this.#users.size >= this.#limits.maxConnections) return false
    this.#users.set(fd, uid)
    this.#counts.set(uid, count + 1)
    return true
  }

  /** Removes a connection that was closed or released. */
  leave(fd: number): void {
    const uid = this.#users.get(fd)
    if (uid === undefined) return
    this.#users.delete(fd)
    const count = this.#counts.get(uid)! - 1
    if (count === 0) this.#counts.delete(uid)
    else this.#counts.set(uid, count)
  }
}

/** The time after which a connection that has sent no request makes room for another one, in milliseconds. */
const SILENCE_MS = 1000

const MAX_SERVICE_CONNECTIONS = 1024
const MAX_SERVICE_CONNECTIONS_PER_USER = 128

/** The number of descriptors of one user that are being closed from which on its connections are refused, and its requests wait. */
const MAX_CLOSING_PER_USER = 1024

/** The interval in which a request that waits for them looks again, in milliseconds. */
const CLOSING_INTERVAL_MS = 100

/** A connection of a service. */
export interface ServiceConnection {
  readonly uid: number
  /** Whether its user is root or this process's own. */
  readonly isTrusted: boolean
  readonly since: number
  /** Whether the peer has sent no request. */
  isSilent: boolean
  readonly close: () => void
  /** Its place among the connections of the service. */
  place: number
}

/**
 * The connections of a service to other users: a number in all, and of one user, except of root and of this process's own user. If there
 * are as many, the connection that has been silent for longest is closed in favour of a new one. A connection without requests is kept
 * otherwise.
 */
export class ServiceConnections {
  readonly #limits: Limits
  readonly #maxClosing: number
  readonly #connections = new Places<ServiceConnection>()

  /** Creates it with the limits among options. By default the connections take at most half of the free descriptor table. */
  constructor(options: ConnectionLimits) {
    const available = native.availableDescriptors()
    const limit = (most: number, share: number) => Math.max(Math.min(most, Math.floor(available / share)), 1)
    this.#maxClosing = limit(MAX_CLOSING_PER_USER, 8)
    this.#limits = connectionLimitsOf(options, {
      maxConnections: limit(MAX_SERVICE_CONNECTIONS, 2),
      maxConnectionsPerUser: limit(MAX_SERVICE_CONNECTIONS_PER_USER, 8)
    })
  }

  /** Adds a connection, which `close` closes; returns undefined if there is no room for it. */
  admit(credentials: Credentials, close: () => void): ServiceConnection | undefined {
    const { uid } = credentials
    const isTrusted = isUser(credentials, 0) || isUser(credentials, process.geteuid!())
    if (!isTrusted && this.#isBlocked(uid)) return undefined
    const { maxConnections, maxConnectionsPerUser } = this.#limits
    const isSameUser = (other: ServiceConnection) => other.uid === uid
    if (!isTrusted && this.#count(isSameUser) >= maxConnectionsPerUser && !this.#closeSilent(isSameUser))
      return undefined
    if (this.#connections.size >= maxConnections && !this.#closeSilent(() => true)) return undefined
    const connection = { uid, isTrusted, since: performance.now(), isSilent: true, close, place: 0 }
    connection.place = this.#connections.add(connection)
    return connection
  }

  /**
   * Notes a request. Returns a promise if it has to wait, because too many descriptors that its user has sent are being closed; it rejects with
   * the reason of the signal.
   */
  noteRequest(connection: ServiceConnection, signal: AbortSignal): Promise<void> | undefined {
    connection.isSilent = false
    return !connection.isTrusted && this.#isBlocked(connection.uid) ? this.#untilClosed(connection, signal) : undefined
  }

  async #untilClosed({ uid }: ServiceConnection, signal: AbortSignal): Promise<void> {
    while (this.#isBlocked(uid)) {
      await sleep(CLOSING_INTERVAL_MS, undefined, { ref: false })
      signal.throwIfAborted()
    }
  }

  #isBlocked(uid: number): boolean {
    return native.closing(uid) >= this.#maxClosing
  }

  remove(connection: ServiceConnection): void {
    this.#connections.remove(connection, connection.place)
  }

  #count(matches: (connection: ServiceConnection) => boolean): number {
    let count = 0
    for (const connection of this.#connections) if (matches(connection)) count++
    return count
  }

  #closeSilent(matches: (connection: ServiceConnection) => boolean): boolean {
    let oldest: ServiceConnection | undefined
    let before = performance.now() - SILENCE_MS
    for (const connection of this.#connections) {
      if (!connection.isSilent || connection.since > before || !matches(connection)) continue
      oldest = connection
      before = connection.since
    }
    if (oldest === undefined) return false
    this.remove(oldest)
    oldest.close()
    return true
  }
}

/** Returns the error for a client that is refused because of a limit. */
export function tooManyConnections(): SystemError {
  const error = new Error('EAGAIN: the listening process has as many connections as it accepts, connect')
  return Object.assign(error, { code: 'EAGAIN', errno: -constants.errno.EAGAIN, syscall: 'connect' })
}
