import { setTimeout } from 'node:timers/promises'
import { Option } from 'commander'
import {
  type Address,
  type Credentials,
  type ListenOptions,
  type AncillaryOptions,
  type SocketType,
  UnixServer,
  UnixSocket,
  connect,
  listen
} from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { CliError, reportError } from './errors.ts'
import { repeatable, integerFrom, parseOctal, parseSeconds } from './option-parsers.ts'

/** What `send` and `recv` know of who is at the other end. */
export interface PeerOptions extends AncillaryOptions {
  readonly type: SocketType
  readonly wait?: number
  readonly socketMode?: number
  readonly allowUid?: readonly number[]
}

/** How long to wait until a socket is looked for once more, in milliseconds. */
const RETRY_DELAY_MS = 20

/** The address that an operand names: `@name` is abstract, as in ss(8) and systemd; `./@name` is a path. */
export function addressOf(operand: string): Address {
  return operand.replace(/^@/, '\0')
}

/** Adds the operand that names a socket. */
export function defineSocket(command: CliCommand): CliCommand {
  return command.argument(
    'SOCKET',
    "The socket's path, or '@NAME' for one in the abstract space; a path that begins with @ is './@…'."
  )
}

/** Adds how long who connects waits. */
export function defineWait(command: CliCommand): CliCommand {
  return command.option(
    '--wait <SECONDS>',
    'How long to wait for somebody to listen (default: not at all).',
    parseSeconds
  )
}

/** Adds who may use a socket. */
export function defineAccess(command: CliCommand): CliCommand {
  return command
    .option(
      '--socket-mode <MODE>',
      "The permissions of the socket's file where it is made here, such as 660.",
      parseOctal
    )
    .option(
      '--allow-uid <UID>',
      'Have nothing to do with other users than this one; several times for several.',
      repeatable(integerFrom(0))
    )
}

/** Adds the operand and the options that `send` and `recv` share. */
export function definePeer(command: CliCommand): CliCommand {
  const types = ['stream', 'seqpacket', 'dgram']
  const type = new Option('--type <TYPE>', "The socket's type.").choices(types).default('stream')
  return defineAccess(defineWait(defineSocket(command).addOption(type)))
}

/** Connects, as soon as somebody listens. */
export async function waitForListener<T>(
  wait: number | undefined,
  signal: AbortSignal,
  attempt: () => Promise<T>
): Promise<T> {
  const deadline = performance.now() + (wait ?? 0)
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if ((code !== 'ENOENT' && code !== 'ECONNREFUSED') || performance.now() > deadline) throw error
      await setTimeout(RETRY_DELAY_MS, undefined, { signal })
    }
  }
}

/** Connects to whoever listens, if that is somebody who is allowed. */
export async function connectAllowed(address: Address, options: PeerOptions, signal: AbortSignal): Promise<UnixSocket> {
  const { type, credentials, wait } = options
  const socket = await waitForListener(wait, signal, () => connect(address, { type, credentials, signal }))
  if (type === 'dgram' || isPeerAllowed(options, socket.peer())) return socket
  socket.close()
  throw new CliError('The socket is of a user who is not allowed')
}

/** Listens for those who may connect. */
export function listenFor(address: Address, options: PeerOptions): Promise<UnixServer> {
  const { type, socketMode: mode, credentials } = options
  const allow = (peer: Credentials) => isPeerAllowed(options, peer)
  return listen(address, { type, mode, allow, credentials } as ListenOptions)
}

/** Whether somebody is among the users who are allowed; says so where not. */
export function isPeerAllowed({ allowUid }: Pick<PeerOptions, 'allowUid'>, { pid, uid }: Credentials): boolean {
  if (allowUid === undefined || allowUid.includes(uid)) return true
  reportError('Refused', new CliError(`user ${uid}, process ${pid ?? 'unknown'}`))
  return false
}
