import { type Credentials, type Message, type UnixSocket, bind, capabilities } from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { checkSeparator, findProgram } from './find-program.ts'
import { FAILED, CliError, reportError, usageError } from './errors.ts'
import { withSignals } from './signals.ts'
import { runProgram, descriptorNames } from './run-program.ts'
import { type PeerOptions, addressOf, isPeerAllowed, definePeer, listenFor, connectAllowed } from './peers.ts'
import { formatJson, formatText } from './message-format.ts'
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
      'A program and its arguments. It gets the descriptors from 3 on, as systemd passes them (LISTEN_PID, LISTEN_FDS), named ' +
        'after the data (LISTEN_FDNAMES).'
    )
    .description(
      'Listen on SOCKET, and receive descriptors. Each message is shown: its data, who sent it as the kernel tells, and what ' +
        'each descriptor is. With a PROGRAM nothing is shown, and the program is run when all have come; its exit status ' +
        'is that of fdpass, 128 and the number of the signal where one has ended it.'
    )
    .option('--connect', 'Connect to SOCKET instead of listening.')
    .option(
      '--count <N>',
      'Receive N messages (default: until the first connection ends; one datagram).',
      integerFrom(1)
    )
    .option(
      '--json',
      'Show each message as a line of JSON: data, or base64 where they are no text; fds, with kind, path and address; sender, with pid, uid and gid.'
    )
    .addExitCodes({ 126: 'The program cannot be executed.', 127: 'The program was not found.' })
    .addExample(
      `
# Run a program with a file that somebody else has opened
echo hello > greeting.txt
fdpass recv ./example.sock -- sh -c 'echo "$LISTEN_FDNAMES:" && cat <&3' &
fdpass send --wait 5 ./example.sock greeting.txt
wait`
    )
    .addExample(
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
  checkSeparator(program)
  const [name, ...args] = program
  if (name !== undefined && options.json === true)
    throw usageError('--json is for showing: a program gets the descriptors')
  if (options.wait !== undefined && options.connect !== true) throw usageError('--wait goes with --connect')
  if (options.connect === true && options.type === 'dgram')
    throw usageError('--connect is for connections, which datagrams have none of')
  if (options.connect === true && options.socketMode !== undefined) throw usageError('--socket-mode is for who listens')
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
  process.exitCode = await runProgram(executable, args, fds, kept.flatMap(descriptorNames))
}

type OnMessage = (message: Message, sender: Credentials | undefined) => void

/** Receives as many messages as are wanted. */
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
      // Of several connections another one may have brought the last that was wanted.
      if (taken < count && (sender === undefined || isPeerAllowed(options, sender))) {
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
    throw new CliError(`The connection has ended after ${taken} of ${count} messages`)
}

/** Tells of a connection that has failed, while others go on. */
function fail(error: unknown, enough: AbortController): void {
  if (enough.signal.aborted || (error as Error).name === 'AbortError') return
  reportError('recv', error)
  process.exitCode = FAILED
}

/** The next message that could be received as a whole. */
async function next(socket: UnixSocket, signal: AbortSignal): Promise<Message | null> {
  for (;;) {
    try {
      return await socket.recv({ signal })
    } catch (error) {
      if (!(error instanceof Error) || !('data' in error)) throw error
      reportError('recv', error)
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
