import { withCode } from '../base/internal.ts'

/** Returns the error of a worker that exited before it was ready. */
export function workerFailed(command: string, { code, signal }: { code: number | null; signal: string | null }): Error {
  const how = signal === null ? `with code ${code}` : `by ${signal}`
  return Object.assign(
    withCode(new Error(`A worker has ended ${how} before it was ready: ${command}`), 'ERR_WORKER_FAILED'),
    { exitCode: code, signal }
  )
}

/** Returns the error of a call on a closed superserver. */
export function superserverClosed(): Error {
  return withCode(new Error('The superserver is closed'), 'ERR_SERVER_CLOSED')
}

/** Returns the error of a worker's call in a process that is not a worker. */
export function notAWorker(): Error {
  return withCode(
    new Error('This process is no worker of a superserver, or its channel has been taken already'),
    'ERR_INVALID_STATE'
  )
}

/** Returns the error of a worker on a runtime whose sockets cannot be made of a descriptor. */
export function noSockets(): Error {
  return withCode(
    new Error("Bun's net.Socket is made of no descriptor: run workers on Node or Deno"),
    'ERR_UNSUPPORTED_PLATFORM'
  )
}
