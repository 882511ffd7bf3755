import type { Server as HttpServer, ServerResponse } from 'node:http'
import type { Server } from 'node:net'
import { clearTimeout, setTimeout } from 'node:timers'

/** How long a connection of an HTTP server that is to finish may be idle at least, in milliseconds. */
const PATIENCE = 100

/** Whether a server is one of node:http or node:https. */
export function isHttp(server: Server): server is HttpServer {
  return 'closeIdleConnections' in server
}

/**
 * Has an HTTP server end each connection with its next answer, and what stays idle after its `keepAliveTimeout`; the result stops
 * that, when all have ended. Not what is idle now: a client would be about to ask again over a connection that it was promised.
 */
export function drainHttp(server: HttpServer): Disposable {
  server.prependListener('request', (_request, response: ServerResponse) => (response.shouldKeepAlive = false))
  const timer = setTimeout(
    () => {
      server.closeIdleConnections()
      timer.refresh() // no event tells that another one has become idle
    },
    Math.max(server.keepAliveTimeout, PATIENCE)
  )
  return { [Symbol.dispose]: () => clearTimeout(timer) }
}
