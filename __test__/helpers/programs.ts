import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import type { ExecutionContext } from 'ava'
import type { Message, UnixSocket } from 'fdpass'
import { isLinux } from './conditions.ts'
import { finish } from './processes.ts'

/** A program that was started, and what it printed, once it has ended well. */
export interface Program {
  readonly child: ChildProcess
  readonly done: Promise<string>
}

/** Whether a command can be run, and ends well. */
export function runs(command: string, ...args: string[]): boolean {
  return isLinux && spawnSync(command, args, { stdio: 'ignore' }).status === 0
}

/** Starts a program with this as its input. It does not outlive the test. */
export function start(
  t: ExecutionContext,
  command: string,
  args: readonly string[],
  options: SpawnOptions = {},
  input = ''
): Program {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], ...options })
  child.stdin?.end(input)
  return { child, done: endWith(t, child) }
}

/** Ends a program with the test, by this signal if it has something to clean up. */
export function endWith(t: ExecutionContext, child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): Promise<string> {
  const done = finish(child)
  const settled = done.catch(() => {}) // a test that fails before it awaits this has its own error
  t.teardown(async () => {
    child.kill(signal)
    await settled
  })
  return done
}

/** Receives a message that another program has to send soon. */
export async function receive(socket: UnixSocket): Promise<Message> {
  const message = await socket.recv({ signal: AbortSignal.timeout(30_000) })
  if (message === null) throw new Error('The connection has ended')
  return message
}
