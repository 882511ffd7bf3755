import { setTimeout as sleep } from 'node:timers/promises'
import type { UnixServer } from './unix-server.ts'
import type { UnixSocket } from './unix-socket.ts'

/** After an accept that failed, in milliseconds. */
const PAUSE = 100

const warned = new Set<string>()

/** Warns, once, of something that has gone wrong with a service and that nobody is told otherwise. */
export function warnOfService(service: string, error: unknown): void {
  const warning = `${service}: ${(error as Error).message}`
  if (warned.has(warning)) return
  warned.add(warning)
  process.emitWarning(warning, { code: 'FDPASS_SERVICE_FAILED' })
}

/**
 * Serves each connection until the listener is closed. After an accept that failed, because the descriptor table is full for one, the next
 * is tried again.
 */
export async function serveConnections(
  service: string,
  listener: UnixServer,
  serve: (socket: UnixSocket) => unknown
): Promise<void> {
  while (!listener.closed) {
    try {
      for await (const socket of listener) void serve(socket)
    } catch (error) {
      warnOfService(service, error)
      await sleep(PAUSE)
    }
  }
}
