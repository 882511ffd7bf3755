import { type Store, connectStore } from 'fdpass/store'
import { optionFor, refusedArgument, CliError, USAGE } from '../errors.ts'
import type { CliCommand } from '../cli-command.ts'
import { withSignals } from '../signals.ts'
import { addressOf, defineSocket, defineWait, waitForListener } from '../peers.ts'

/** The options of all clients of a store. */
export interface ClientOptions {
  readonly wait?: number
}

/** Adds the operand and the option of all clients of a store. */
export function defineClient(command: CliCommand): CliCommand {
  return defineWait(defineSocket(command))
}

/** Connects to a store, waiting for it if requested, and calls `use` with it. */
export function withStore<T>(
  operand: string,
  { wait }: ClientOptions,
  use: (store: Store, signal: AbortSignal) => Promise<T>
): Promise<T> {
  return withSignals(async (signal) => {
    const address = addressOf(operand)
    using store = await waitForListener(wait, signal, () => connectStore(address, { signal }))
    return await use(store, signal)
  })
}

/** Runs a task on an entry; its errors name the entry. */
export async function withEntryName<T>(name: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task()
  } catch (error) {
    throw entryError(name, error)
  }
}

function entryError(name: string, error: unknown): unknown {
  const refused = refusedArgument(error)
  if (refused !== undefined) {
    const [argument = ''] = refused.path
    return new CliError(`${argument === 'name' ? 'NAME' : optionFor(argument)} ${refused.reason}`, USAGE)
  }
  if (!(error instanceof Error) || !('reason' in error) || typeof error.reason !== 'string') return error
  return new CliError(`${name}: ${error.reason.charAt(0).toUpperCase()}${error.reason.slice(1)}`)
}
