import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readlinkSync } from 'node:fs'
import { constants } from 'node:os'
import { isatty } from 'node:tty'
import { type Credentials, type Descriptor, type Message, type UnixSocket, bind, capabilities } from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { executableOf } from './executable.ts'
import { FAILED, Failure, complain, misused, shown } from './failure.ts'
import { untilInterrupted } from './interruption.ts'
import { type PeerOptions, allows, definePeer, listenFor, reach } from './peers.ts'
import { checkProgram } from './program-operand.ts'
import { addressOf } from './socket-address.ts'
import { number } from './values.ts'

interface RecvOptions extends PeerOptions {
  readonly connect?: true
  readonly count?: number
  readonly json?: true
}

export function define(command: CliCommand): void {
  definePeer(command)
    .usage('[OPTION...] SOCKET [-- PROGRAM [ARGUMENT...]]')
    .argument(
      '[PROGRAM...]',
      'A program and its arguments. It gets the descriptors from 3 on, as systemd passes them (LISTEN_PID, LISTEN_FDS), named ' +
        'after the data (LISTEN_FDNAMES).'
    )
    .description(
      'Listen on SOCKET, and receive descriptors. Each message is shown: its data, who sent it as the kernel tells, and what ' +
        'each descriptor is. With a PROGRAM nothing is shown, and the program is run when all have come; its exit status ' +
        'is that of fdpass, 128 and the number of the signal where one has ended it.'
    )
    .option('--connect', 'Connect to SOCKET instead of listening.')
    .option('--count <N>', 'Receive N messages (default: until the first connection ends; one datagram).', number(1))
    .option('--json', 'Show each message as a line of JSON.')
    .alsoExits({ 126: 'The program cannot be executed.', 127: 'The program was not found.' })
    .example(
      `
# Run a program with a file that somebody else has opened
echo hello > greeting.txt
fdpass recv ./example.sock -- sh -c 'echo "$LISTEN_FDNAMES:" && cat <&3' &
fdpass send --wait 5 ./example.sock greeting.txt
wait`
    )
    .example(
      `
# Take two files from root only, and tell a program of them in JSON
fdpass recv --json --count 2 --allow-uid 0 ./two.sock > received.jsonl &
fdpass send --wait 5 ./two.sock /etc/hostname
fdpass send --wait 5 ./two.sock /etc/passwd
wait
cat received.jsonl`
    )
    .action(recv)
}

async function recv(operand: string, program: readonly string[], options: RecvOptions): Promise<void> {
  checkProgram(program)
  const [name, ...args] = program
  if (name !== undefined && options.json === true)
    throw misused('--json is for showing: a program gets the descriptors')
  if (options.wait !== undefined && options.connect !== true) throw misused('--wait goes with --connect')
  if (options.connect === true && options.type === 'dgram')
    throw misused('--connect is for connections, which datagrams have none of')
  if (options.connect === true && options.socketMode !== undefined) throw misused('--socket-mode is for who listens')
  const executable = name === undefined ? undefined : executableOf(name)
  const kept: Message[] = []
  await untilInterrupted(async (signal) => {
    await receive(addressOf(operand), options, signal, (message, sender) => {
      if (executable !== undefined) {
        kept.push(message)
        return
      }
      process.stdout.write(`${options.json === true ? jsonOf(message, sender) : textOf(message, sender)}\n`)
      message.close()
    })
  })
  if (executable !== undefined) process.exitCode = await execute(executable, args, kept)
}

type Take = (message: Message, sender: Credentials | undefined) => void

/** Receives as many messages as are wanted. */
async function receive(address: string, options: RecvOptions, signal: AbortSignal, take: Take): Promise<void> {
  const { type, connect, socketMode: mode } = options
  const count = options.count ?? (type === 'dgram' ? 1 : Infinity)
  const enough = new AbortController()
  const either = AbortSignal.any([signal, enough.signal])
  let taken = 0

  async function drain(socket: UnixSocket): Promise<void> {
    using _socket = socket
    while (taken < count) {
      const message = await next(socket, either)
      if (message === null) return
      const sender = message.credentials ?? peerOf(socket)
      if (message.fds.length === 0 && message.size === 0 && type === 'stream') continue
      if (sender !== undefined && !allows(options, sender)) {
        message.close()
        continue
      }
      taken++
      take(message, sender)
    }
    enough.abort()
  }

  try {
    if (type === 'dgram') await drain(bind(address, { mode, credentials: capabilities().messageCredentials }))
    else if (connect === true) await drain(await reach(address, options, signal))
    else {
      using server = await listenFor(address, options)
      if (count === Infinity) {
        const socket = await server.accept({ signal })
        server.close()
        await drain(socket)
      } else {
        for (;;) drain(await server.accept({ signal: either })).catch((error) => fail(error, enough))
      }
    }
  } catch (error) {
    if (!enough.signal.aborted) throw error
  }
  if (count !== Infinity && taken < count)
    throw new Failure(`The connection has ended after ${taken} of ${count} messages`)
}

/** Tells of a connection that has failed, while others go on. */
function fail(error: unknown, enough: AbortController): void {
  if (enough.signal.aborted || (error as Error).name === 'AbortError') return
  complain('recv', error)
  process.exitCode = FAILED
}

/** The next message that could be received as a whole. */
async function next(socket: UnixSocket, signal: AbortSignal): Promise<Message | null> {
  for (;;) {
    try {
      return await socket.recv({ signal })
    } catch (error) {
      if (!(error instanceof Error) || !('data' in error)) throw error
      complain('recv', error)
      process.exitCode = FAILED
    }
  }
}

/** Who connected, where the kernel does not tell who sent. */
function peerOf(socket: UnixSocket): Credentials | undefined {
  try {
    return socket.peer()
  } catch {
    return undefined // of datagrams nobody is known
  }
}

/** What is known of a descriptor. */
function describe(descriptor: Descriptor): { kind: string; path?: string; address?: string } {
  const { kind } = descriptor
  const { address } = descriptor
  if (typeof address === 'string') return { kind, address: shown(address) }
  if (address !== null) {
    const host = address.family === 'IPv6' ? `[${address.address}]` : address.address
    return { kind, address: `${host}:${address.port}` }
  }
  try {
    const path = readlinkSync(`/proc/self/fd/${descriptor.fd}`)
    return path.startsWith('/') ? { kind, path } : { kind }
  } catch {
    return { kind } // no /proc
  }
}

/** Data as text; undefined where they are none. */
function decode(data: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(data)
  } catch {
    return undefined
  }
}

function jsonOf(message: Message, sender: Credentials | undefined): string {
  const text = decode(message.data)
  const { pid = null, uid = null, gid = null } = sender ?? {}
  return JSON.stringify({
    ...(text === undefined ? { base64: Buffer.from(message.data).toString('base64') } : { data: text }),
    ...(message.size > message.data.length && { size: message.size }),
    fds: message.fds.map(describe),
    sender: { pid, uid, gid },
    ...(typeof message.address === 'string' && { address: shown(message.address) })
  })
}

function textOf(message: Message, sender: Credentials | undefined): string {
  const text = decode(message.data)
  const data = text === undefined ? `base64 ${Buffer.from(message.data).toString('base64')}` : quote(text)
  const from = sender === undefined ? 'unknown' : `pid ${sender.pid ?? 'unknown'}, uid ${sender.uid}, gid ${sender.gid}`
  const fds = message.fds.map(describe).map(({ kind, path, address }) => {
    const where = path ?? address
    return `\n  ${kind}${where === undefined ? '' : ` ${quote(where)}`}`
  })
  return `${data} from ${from}${fds.join('')}`
}

const escape = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`

/** A text that does nothing to a terminal. */
function quote(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, escape)
}

/** What systemd takes for the name of a descriptor: sd_listen_fds(3). */
const nameOf = /^[ -9;-~]{1,255}$/

/** The names of a message's descriptors: its data, or a line of them for each. */
function namesOf({ data, fds }: Message): string[] {
  const text = decode(data) ?? ''
  const lines = text.split('\n')
  const each = lines.length === fds.length ? lines : fds.map(() => text)
  return each.map((name) => (nameOf.test(name) ? name : 'unknown'))
}

// What a shell's parent would hand on, without what comes from a terminal, whose processes all get it.
const forwarded = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const
const fromTerminals = ['SIGINT', 'SIGQUIT'] as const

/** Runs a program with what has come; resolves to its exit code. */
async function execute(executable: string, args: readonly string[], messages: readonly Message[]): Promise<number> {
  const fds = messages.flatMap((message) => message.fds)
  if (fds.length === 0) throw new Failure('No descriptor has come')
  const env = {
    ...process.env,
    LISTEN_FDS: `${fds.length}`,
    LISTEN_FDNAMES: messages.flatMap(namesOf).join(':'),
    LISTEN_PIDFDID: undefined // would be another process's
  }
  // LISTEN_PID has to be the program's own pid, which nobody knows before its fork: the shell tells its own, and becomes it.
  const script = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'
  const child = spawn('/bin/sh', ['-c', script, 'sh', executable, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', ...fds.map(({ fd }) => fd)],
    env
  })
  for (const message of messages) message.close()
  for (const signal of forwarded) process.on(signal, () => child.kill(signal))
  for (const signal of fromTerminals) process.on(signal, () => isatty(0) || child.kill(signal))
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
  return code ?? 128 + constants.signals[signal!]
}
