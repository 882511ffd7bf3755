import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { isatty } from 'node:tty'
import type { Descriptor, Message } from 'fdpass'
import { CliError } from './errors.ts'
import { decodeUtf8 } from './message-format.ts'

/** What systemd takes for the name of a descriptor: sd_listen_fds(3). */
const nameOf = /^[ -9;-~]{1,255}$/

/** The names of a message's descriptors: its data, or a line of them for each. */
export function descriptorNames({ data, fds }: Message): string[] {
  const text = decodeUtf8(data) ?? ''
  const lines = text.split('\n')
  const each = lines.length === fds.length ? lines : fds.map(() => text)
  return each.map((name) => (nameOf.test(name) ? name : 'unknown'))
}

const forwarded = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const
/** What a terminal sends to the program too. */
const fromTerminals = ['SIGINT', 'SIGQUIT'] as const

/** Runs a program with descriptors, which are closed here, and their names; resolves to its exit code. */
export async function runProgram(
  executable: string,
  args: readonly string[],
  fds: readonly Descriptor[],
  names: readonly string[]
): Promise<number> {
  if (fds.length === 0) throw new CliError('No descriptor has come')
  const env = {
    ...process.env,
    LISTEN_FDS: `${fds.length}`,
    LISTEN_FDNAMES: names.join(':'),
    LISTEN_PIDFDID: undefined // would be another process's
  }
  // LISTEN_PID has to be the program's own pid, which nobody knows before its fork: the shell tells its own, and becomes it.
  const script = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'
  // Before the program is there, which may expect a signal at once. None is handled before this function waits.
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
