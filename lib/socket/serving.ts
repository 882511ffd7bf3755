import { setTimeout as sleep } from 'node:timers/promises'
import type { UnixServer } from './unix-server.ts'
import type { UnixSocket } from './unix-socket.ts'

/** The delay after a failed accept, in milliseconds. */
const RETRY_DELAY_MS = 100

const warned = new Set<string>()

/** Emits a warning about a failure of a service, once per text. Used where no promise or event reports it. */
export function warnOfService(service: string, error: unknown): void {
  const warning = `${service}: ${(error as Error).message}`
  if (warned.has(warning)) return
  warned.add(warning)
  process.emitWarning(warning, { code: 'FDPASS_SERVICE_FAILED' })
}

/** Serves each connection until the listener is closed. Retries a failed accept, for instance with a full descriptor table. */
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
      await sleep(RETRY_DELAY_MS)
    }
  }
}
