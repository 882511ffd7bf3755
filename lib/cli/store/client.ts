import { type Store, connectStore } from 'fdpass/store'
import { argumentIn, optionFor } from '../argument-error.ts'
import type { CliCommand } from '../cli-command.ts'
import { Failure, USAGE } from '../failure.ts'
import { untilInterrupted } from '../interruption.ts'
import { addressOf, defineSocket, defineWait, whenThere } from '../peers.ts'

/** What all who ask a store know. */
export interface ClientOptions {
  readonly wait?: number
}

/** Adds the operand and the option of all who ask a store. */
export function defineClient(command: CliCommand): CliCommand {
  return defineWait(defineSocket(command))
}

/** Asks a store for something, as soon as it is there. */
export function ask<T>(
  operand: string,
  { wait }: ClientOptions,
  question: (store: Store, signal: AbortSignal) => Promise<T>
): Promise<T> {
  return untilInterrupted(async (signal) => {
    const address = addressOf(operand)
    using store = await whenThere(wait, signal, () => connectStore(address, { signal }))
    return await question(store, signal)
  })
}

/** Does something with a name of a store, and has its errors say so. */
export async function named<T>(name: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task()
  } catch (error) {
    throw inWordsOf(name, error)
  }
}

function inWordsOf(name: string, error: unknown): unknown {
  const found = argumentIn(error)
  if (found !== undefined) {
    return new Failure(`${found.path === 'name' ? 'NAME' : optionFor(found.path)} ${found.reason}`, USAGE)
  }
  const { message, syscall } = error as NodeJS.ErrnoException
  const reason = syscall === 'store' ? /^\w+: (.*), store '.*'$/s.exec(message)?.[1] : undefined
  return reason === undefined ? error : new Failure(`${name}: ${reason.charAt(0).toUpperCase()}${reason.slice(1)}`)
}
