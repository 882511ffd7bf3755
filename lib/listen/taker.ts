import { isIPv6, type Server, type Socket } from 'node:net'
import { clearInterval, setImmediate, setInterval } from 'node:timers'
import type { ConnectionHandle } from '../descriptor/internal.ts'
import { isWildcard, type PassedSource, type TakingServer } from './matching.ts'

/** A time that never comes, in milliseconds. */
const NEVER = 2 ** 30

/** The handles that keep the process alive, as listening does. */
const keeping = new Set<object>()
let timer: NodeJS.Timeout | undefined

function keepAlive(handle: object, isKept: boolean): void {
  if (isKept) keeping.add(handle)
  else keeping.delete(handle)
  if (keeping.size > 0) timer ??= setInterval(() => {}, NEVER)
  else timer = void clearInterval(timer)
}

/**
 * The handle of a server that has taken a passed socket: what `net.Server` uses of a handle that listens. It accepts nothing itself. Node
 * sets `onconnection`, which dispatches a connection.
 */
export class Taker implements TakingServer {
  readonly source: PassedSource<Taker>
  readonly server: Server
  /** The address that the server listens on; null for every address. */
  readonly address: string | null
  readonly fd = -1
  onconnection!: (status: number, connection: ConnectionHandle) => void
  getsockname?: (into: object) => number

  constructor(source: PassedSource<Taker>, server: Server, address: string | null) {
    this.source = source
    this.server = server
    this.address = address
    const { socket } = source
    // Without it `server.address()` returns the path.
    if (socket.path === undefined) {
      this.getsockname = (into) => {
        Object.assign(into, {
          address: socket.address,
          family: isIPv6(socket.address!) ? 'IPv6' : 'IPv4',
          port: socket.port
        })
        return 0
      }
    }
  }

  listen(): number {
    this.source.takers.add(this)
    this.ref()
    return 0
  }

  close(callback?: () => void): void {
    this.source.takers.delete(this)
    this.unref()
    if (callback) setImmediate(callback)
  }

  ref(): void {
    keepAlive(this, true)
  }

  unref(): void {
    keepAlive(this, false)
  }

  hasRef(): boolean {
    return keeping.has(this)
  }

  /** Gives the server a connection. Calls `track` with its socket, unless the server refuses it or passes it to another process. */
  dispatch(connection: ConnectionHandle, track: (socket: Socket) => void): void {
    this.server.prependOnceListener('connection', track)
    try {
      this.onconnection(0, connection)
    } finally {
      this.server.off('connection', track)
    }
  }
}

/** Returns the server that serves a connection of a source: the one that listens on its local address, or on every address. */
export function takerOf({ takers }: PassedSource<Taker>, connection: ConnectionHandle): Taker | undefined {
  const [first, ...others] = takers
  if (others.length === 0 || connection.getsockname === undefined) return first
  const local: { address?: string } = {}
  connection.getsockname(local)
  const address = local.address?.replace(/^::ffff:(?=\d)/, '')
  const all = [...takers]
  return all.find((taker) => taker.address === address) ?? all.find((taker) => isWildcard(taker.address)) ?? first
}
