import type { Server as HttpServer, ServerResponse } from 'node:http'
import type { Server } from 'node:net'
import { clearTimeout, setTimeout } from 'node:timers'

/** The shortest time for which a draining HTTP server keeps idle connections, in milliseconds. */
const MIN_IDLE_MS = 100

/** Returns whether a server is one of `node:http` or `node:https`. */
export function isHttp(server: Server): server is HttpServer {
  return 'closeIdleConnections' in server
}

/**
 * Drains an HTTP server: each connection is closed after its next response, and idle connections after `keepAliveTimeout`. Dispose of
 * the result when all connections are closed.
 *
 * Idle connections are not closed immediately, because a client may be sending a request over a connection that was kept alive.
 */
export function drainHttp(server: HttpServer): Disposable {
  server.prependListener('request', (_request, response: ServerResponse) => (response.shouldKeepAlive = false))
  const timer = setTimeout(
    () => {
      server.closeIdleConnections()
      timer.refresh() // no event reports that another connection has become idle
    },
    Math.max(server.keepAliveTimeout, MIN_IDLE_MS)
  )
  return { [Symbol.dispose]: () => clearTimeout(timer) }
}
