import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { isatty } from 'node:tty'
import type { Descriptor, Message } from 'fdpass'
import { CliError } from './errors.ts'
import { decodeUtf8 } from './message-format.ts'

/** A valid descriptor name of systemd: sd_listen_fds(3). */
const validName = /^[ -9;-~]{1,255}$/

/** Returns the names of a message's descriptors: one line of its data for each, or all of its data. */
export function descriptorNames({ data, fds }: Message): string[] {
  const text = decodeUtf8(data) ?? ''
  const lines = text.split('\n')
  const each = lines.length === fds.length ? lines : fds.map(() => text)
  return each.map((name) => (validName.test(name) ? name : 'unknown'))
}

const forwarded = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const
/** Signals that a terminal sends to the whole process group, and so to the program too. */
const fromTerminals = ['SIGINT', 'SIGQUIT'] as const

/** Runs a program with descriptors and their names; closes them here; resolves to its exit code. */
export async function runProgram(
  executable: string,
  args: readonly string[],
  fds: readonly Descriptor[],
  names: readonly string[]
): Promise<number> {
  if (fds.length === 0) throw new CliError('No descriptor was received')
  const env = {
    ...process.env,
    LISTEN_FDS: `${fds.length}`,
    LISTEN_FDNAMES: names.join(':'),
    LISTEN_PIDFDID: undefined // it would name another process
  }
  // LISTEN_PID must be the program's pid, which is unknown before fork(2): the shell sets its own, then executes the program.
  const script = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'
  // Before spawn(), because the program may expect a signal at once. No handler runs before this function awaits.
  for (const signal of forwarded) process.on(signal, () => child.kill(signal))
  for (const signal of fromTerminals) process.on(signal, () => isatty(0) || child.kill(signal))
  const child = spawn('/bin/sh', ['-c', script, 'sh', executable, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', ...fds.map(({ fd }) => fd)],
    env
  })
  for (const fd of fds) fd.closeSync()
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
  return code ?? 128 + constants.signals[signal!]
}
