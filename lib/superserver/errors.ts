import { withCode } from '../base/internal.ts'

/** A worker that has ended before it was ready to serve. */
export function workerFailed(command: string, { code, signal }: { code: number | null; signal: string | null }): Error {
  const how = signal === null ? `with code ${code}` : `by ${signal}`
  return Object.assign(
    withCode(new Error(`A worker has ended ${how} before it was ready: ${command}`), 'ERR_WORKER_FAILED'),
    { exitCode: code, signal }
  )
}

/** A call on a superserver that is closed. */
export function superserverClosed(): Error {
  return withCode(new Error('The superserver is closed'), 'ERR_SERVER_CLOSED')
}

/** A call of a worker's in a process that is none. */
export function notAWorker(): Error {
  return withCode(
    new Error('This process is no worker of a superserver, or its channel has been taken already'),
    'ERR_INVALID_STATE'
  )
}

/** A worker on a runtime whose sockets are made of no descriptor. */
export function noSockets(): Error {
  return withCode(
    new Error("Bun's net.Socket is made of no descriptor: run workers on Node or Deno"),
    'ERR_UNSUPPORTED_PLATFORM'
  )
}
