import { type Credentials, type Message, type UnixSocket, bind, capabilities } from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { checkSeparator, findProgram, runProgram, descriptorNames } from './run-program.ts'
import { FAILED, CliError, reportRepeated, usageError } from './errors.ts'
import { withSignals } from './signals.ts'
import {
  type PeerOptions,
  acceptFrom,
  addressOf,
  isPeerAllowed,
  definePeer,
  listenFor,
  connectAllowed
} from './peers.ts'
import { formatJson, formatText } from './output.ts'
import { integerFrom } from './option-parsers.ts'

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
      'The program to run, and its arguments. It inherits the descriptors from 3 on, as with systemd (LISTEN_PID, ' +
        'LISTEN_FDS), named after the data (LISTEN_FDNAMES).'
    )
    .description(
      'Listens on SOCKET and receives descriptors. Prints each message: its data, its sender as reported by the kernel, and ' +
        'the kind of each descriptor. With PROGRAM, prints nothing and executes the program after all messages were received. ' +
        'The program replaces fdpass: it has its process id, and its exit status is the one of fdpass.'
    )
    .option('--connect', 'Connect to SOCKET instead of listening.')
    .option('--count <N>', 'Receive N messages (default: all of the first connection; one datagram).', integerFrom(1))
    .option(
      '--json',
      'Print each message as a line of JSON: data, or base64 if it is not text; fds, with kind, path and address; sender, with pid, uid and gid.'
    )
    .addExitCodes({ 126: 'The program is not executable.', 127: 'The program was not found.' })
    .addExample(
      `
# Run a program with a file that another process opened
echo hello > greeting.txt
fdpass recv ./example.sock -- sh -c 'echo "$LISTEN_FDNAMES:" && cat <&3' &
fdpass send --wait 5 ./example.sock greeting.txt
wait`
    )
    .addExample(
      `
# Receive two files, from root only, and write a line of JSON for each
fdpass recv --json --count 2 --allow-uid 0 ./two.sock > received.jsonl &
fdpass send --wait 5 ./two.sock /etc/hostname
fdpass send --wait 5 ./two.sock /etc/passwd
wait
cat received.jsonl`
    )
    .action(recv)
}

async function recv(operand: string, program: readonly string[], options: RecvOptions): Promise<void> {
  checkSeparator(program)
  const [name, ...args] = program
  if (name !== undefined && options.json === true) throw usageError('--json cannot be used with PROGRAM')
  if (options.wait !== undefined && options.connect !== true) throw usageError('--wait requires --connect')
  if (options.connect === true && options.type === 'dgram')
    throw usageError('--connect does not support --type dgram, which has no connections')
  if (options.connect === true && options.socketMode !== undefined)
    throw usageError('--socket-mode cannot be used with --connect')
  const executable = name === undefined ? undefined : findProgram(name)
  const kept: Message[] = []
  await withSignals(async (signal) => {
    await receive(addressOf(operand), options, signal, (message, sender) => {
      if (executable !== undefined) {
        kept.push(message)
        return
      }
      process.stdout.write(`${options.json === true ? formatJson(message, sender) : formatText(message, sender)}\n`)
      message.close()
    })
  })
  if (executable === undefined) return
  const fds = kept.flatMap((message) => message.fds)
  runProgram(executable, args, fds, kept.flatMap(descriptorNames))
}

type OnMessage = (message: Message, sender: Credentials | undefined) => void

/** Receives messages, as many as `--count` says. */
async function receive(address: string, given: RecvOptions, signal: AbortSignal, take: OnMessage): Promise<void> {
  const credentials = capabilities().messageCredentials
  const options = { ...given, credentials }
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
      // Another connection may have received the last message meanwhile.
      if (taken < count && isPeerAllowed(options, sender)) {
        taken++
        take(message, sender)
      } else {
        message.close()
      }
    }
    enough.abort()
  }

  try {
    if (type === 'dgram') await drain(bind(address, { mode, credentials }))
    else if (connect === true) await drain(await connectAllowed(address, options, signal))
    else {
      using server = await listenFor(address, options)
      if (count === Infinity) {
        const socket = await acceptFrom(server, signal)
        server.close()
        await drain(socket)
      } else {
        for (;;) drain(await acceptFrom(server, either)).catch((error) => fail(error, enough))
      }
    }
  } catch (error) {
    if (!enough.signal.aborted) throw error
  }
  if (count !== Infinity && taken < count)
    throw new CliError(`The connection closed after ${taken} of ${count} messages`)
}

/** Reports a connection that failed; the others continue. */
function fail(error: unknown, enough: AbortController): void {
  if (enough.signal.aborted || (error as Error).name === 'AbortError') return
  reportRepeated('recv', error)
  process.exitCode = FAILED
}

/** Returns the next complete message; reports incomplete ones and skips them. */
async function next(socket: UnixSocket, signal: AbortSignal): Promise<Message | null> {
  for (;;) {
    try {
      return await socket.recv({ signal })
    } catch (error) {
      if (!(error instanceof Error) || !('data' in error)) throw error
      reportRepeated('recv', error)
      process.exitCode = FAILED
    }
  }
}

/** Returns the credentials of the connection's peer, if the kernel does not report those of the sender. */
function peerOf(socket: UnixSocket): Credentials | undefined {
  try {
    return socket.peer()
  } catch {
    return undefined // a datagram socket has no peer
  }
}
