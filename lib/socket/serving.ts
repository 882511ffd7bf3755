import { setTimeout as sleep } from 'node:timers/promises'
import { borrow } from '../descriptor/fd-source.ts'
import { native } from '../native/binding.ts'
import type { UnixServer } from './unix-server.ts'
import type { UnixSocket } from './unix-socket.ts'

/** The delay after a failed accept, in milliseconds. */
const RETRY_DELAY_MS = 100

/** The maximum number of different warnings: their texts can depend on what peers do. */
const MAX_WARNINGS = 100

const warned = new Set<string>()

/** Emits a warning about a failure of a service, once per text. Used where no promise or event reports it. */
export function warnOfService(service: string, error: unknown): void {
  const warning = `${service}: ${error instanceof Error ? error.message : String(error)}`
  if (warned.has(warning) || warned.size === MAX_WARNINGS) return
  warned.add(warning)
  process.emitWarning(warning, { code: 'FDPASS_SERVICE_FAILED' })
}

/**
 * Lets a connection, and all descriptors that come over it once it is a channel, be closed on other threads: its peer can make close(2) block as
 * long as it likes, for instance by `SO_LINGER` or a file system in user space, also of a connection in which descriptors are queued.
 */
export function closeApart(socket: UnixSocket): void {
  native.setSender(socket[borrow](), socket.peer().uid)
}

/**
 * Serves each connection until the listener is closed. Retries a failed accept, for instance with a full descriptor table.
 *
 * Closing the listener closes no connection: none is accepted ahead.
 */
export async function serveConnections(
  service: string,
  listener: UnixServer,
  serve: (socket: UnixSocket) => unknown
): Promise<void> {
  while (!listener.closed) {
    let socket: UnixSocket
    try {
      socket = await listener.accept()
    } catch (error) {
      if (listener.closed) return
      warnOfService(service, error)
      await sleep(RETRY_DELAY_MS)
      continue
    }
    try {
      closeApart(socket)
    } catch {
      socket.close() // the client has already disconnected
      continue
    }
    void serve(socket)
  }
}
