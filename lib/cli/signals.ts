/** A signal ended the command. */
export class SignalError extends Error {
  readonly signal: NodeJS.Signals

  constructor(signal: NodeJS.Signals) {
    super(`Terminated by ${signal}`)
    this.signal = signal
  }
}

/**
 * Runs a task that signals abort (SIGINT, SIGTERM and SIGHUP), so that it closes its sockets and removes their files. `main` then
 * raises the same signal again, so that the parent process sees it in the exit status.
 */
export async function withSignals<T>(
  task: (signal: AbortSignal) => Promise<T>,
  signals: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP']
): Promise<T> {
  const controller = new AbortController()
  const interrupt = (signal: NodeJS.Signals) => controller.abort(new SignalError(signal))
  for (const signal of signals) process.on(signal, interrupt)
  try {
    return await task(controller.signal)
  } finally {
    for (const signal of signals) process.off(signal, interrupt)
  }
}

/** Returns the `SignalError` that a command threw, directly or as the cause of an AbortError. */
export function signalErrorOf(error: unknown): SignalError | undefined {
  const cause = error instanceof Error && error.name === 'AbortError' ? error.cause : error
  return cause instanceof SignalError ? cause : undefined
}
