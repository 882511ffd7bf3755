/** The signal that has ended a command. */
export class SignalError extends Error {
  readonly signal: NodeJS.Signals

  constructor(signal: NodeJS.Signals) {
    super(`Ended by ${signal}`)
    this.signal = signal
  }
}

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * Runs something that a signal ends in order, with its sockets closed and their files removed. `main` then has the process ended
 * by that very signal, so that whoever started it sees it.
 */
export async function withSignals<T>(task: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const interrupt = (signal: NodeJS.Signals) => controller.abort(new SignalError(signal))
  for (const signal of signals) process.on(signal, interrupt)
  try {
    return await task(controller.signal)
  } finally {
    for (const signal of signals) process.off(signal, interrupt)
  }
}

/** The signal by which a command was ended, if that is what it threw. */
export function signalErrorOf(error: unknown): SignalError | undefined {
  const cause = error instanceof Error && error.name === 'AbortError' ? error.cause : error
  return cause instanceof SignalError ? cause : undefined
}
