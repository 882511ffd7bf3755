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
import { CliError, reportRepeated } from './errors.ts'
import { repeatable, integerFrom, parseOctal, parseSeconds } from './option-parsers.ts'

/** The options of `send` and `recv` about the socket and its peer. */
export interface PeerOptions extends AncillaryOptions {
  readonly type: SocketType
  readonly wait?: number
  readonly socketMode?: number
  readonly allowUid?: readonly number[]
}

/** The delay before connecting again, in milliseconds. */
const RETRY_DELAY_MS = 20

/** Returns the address of an operand: `@name` is abstract, as in ss(8) and systemd; `./@name` is a path. */
export function addressOf(operand: string): Address {
  return operand.replace(/^@/, '\0')
}

/** Adds the SOCKET operand. */
export function defineSocket(command: CliCommand): CliCommand {
  return command.argument(
    'SOCKET',
    "The socket's path, or '@NAME' for an abstract address. Write './@NAME' for a path that begins with @."
  )
}

/** Adds the `--wait` option of commands that connect. */
export function defineWait(command: CliCommand): CliCommand {
  return command.option(
    '--wait <SECONDS>',
    'Wait up to SECONDS for a process to listen on SOCKET (default: do not wait).',
    parseSeconds
  )
}

/** Adds the options that restrict access to a socket. */
export function defineAccess(command: CliCommand): CliCommand {
  return command
    .option('--socket-mode <MODE>', "Set the permissions of the socket's file, such as 660.", parseOctal)
    .option('--allow-uid <UID>', 'Accept only this user as the peer. Repeatable.', repeatable(integerFrom(0)))
}

/** Adds the SOCKET operand and the options that `send` and `recv` share. */
export function definePeer(command: CliCommand): CliCommand {
  const types = ['stream', 'seqpacket', 'dgram']
  const type = new Option('--type <TYPE>', 'Set the type of the socket.').choices(types).default('stream')
  return defineAccess(defineWait(defineSocket(command).addOption(type)))
}

/** Calls `attempt` again while no process listens, for at most `wait` milliseconds. */
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

/** Connects to a socket; throws if its user is not allowed. */
export async function connectAllowed(address: Address, options: PeerOptions, signal: AbortSignal): Promise<UnixSocket> {
  const { type, credentials, wait } = options
  const socket = await waitForListener(wait, signal, () => connect(address, { type, credentials, signal }))
  if (type === 'dgram' || isPeerAllowed(options, socket.peer())) return socket
  socket.close()
  throw new CliError('The socket belongs to a user that --allow-uid does not list')
}

/** Listens, and accepts connections of allowed users. */
export function listenFor(address: Address, options: PeerOptions): Promise<UnixServer> {
  const { type, socketMode: mode, credentials } = options
  const allow = (peer: Credentials) => isPeerAllowed(options, peer)
  return listen(address, { type, mode, allow, credentials } as ListenOptions)
}

/** Errors of accept(2) that pass when other descriptors are closed. */
const exhausted = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM'])

/** Accepts a connection. While the descriptor table is full, which strangers can cause by their connections, tries again. */
export async function acceptFrom(server: UnixServer, signal: AbortSignal): Promise<UnixSocket> {
  for (;;) {
    try {
      return await server.accept({ signal })
    } catch (error) {
      if (!exhausted.has((error as NodeJS.ErrnoException).code ?? '')) throw error
      reportRepeated('accept', error)
      await setTimeout(RETRY_DELAY_MS, undefined, { signal })
    }
  }
}

/** Whether a peer's user is allowed. Reports a rejected peer, and how often its user was rejected. */
export function isPeerAllowed({ allowUid }: Pick<PeerOptions, 'allowUid'>, peer: Credentials | undefined): boolean {
  const { pid = null, uid, unknownUid = false } = peer ?? {}
  if (allowUid === undefined || (uid !== undefined && !unknownUid && allowUid.includes(uid))) return true
  const user = uid === undefined || unknownUid ? 'an unknown user' : `user ${uid}`
  reportRepeated('Refused', new CliError(`${user}, process ${pid ?? 'unknown'}`), user)
  return false
}
