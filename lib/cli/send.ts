import type { UnixSocket } from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { usageError } from './errors.ts'
import { withSignals } from './signals.ts'
import { type FileOptions, type OpenFile, defineFiles, withFiles } from './file-arguments.ts'
import { type PeerOptions, addressOf, definePeer, listenFor, connectAllowed } from './peers.ts'

interface SendOptions extends PeerOptions, FileOptions {
  readonly data?: string
  readonly together?: true
  readonly listen?: true
}

export function define(command: CliCommand): void {
  defineFiles(definePeer(command))
    .usage('[OPTION...] SOCKET FILE...')
    .description(
      'Send open files to whoever listens on SOCKET, one message for each, with its name as the data. All are opened before the ' +
        'first one is sent: either all are there, or nothing is sent. Whoever receives a file can use it as it was opened, ' +
        'with whatever rights.'
    )
    .option('--data <TEXT>', "The data of each message (default: the file's name; of descriptor N fdN, of '-' stdin).")
    .option('--together', 'Send all in one message, whose data are their names, one a line.')
    .option('--listen', 'Listen on SOCKET, and send to the first who connects.')
    .addExample(
      `
# Give a file to a process, which is shown what came
echo hello > greeting.txt
fdpass recv ./example.sock &
fdpass send --wait 5 ./example.sock greeting.txt
wait`
    )
    .addExample(
      `
# Let a program append to a log that it could not open itself
fdpass recv ./log.sock -- sh -c 'echo started >&3' &
fdpass send --wait 5 --append ./log.sock service.log
wait
cat service.log`
    )
    .addExample(
      `
# Send what the shell has opened, under a name; the receiver connects
fdpass send --listen ./pipe.sock --fd 3 --data report 3< /etc/hostname &
fdpass recv --wait 5 --connect ./pipe.sock
wait`
    )
    .action(send)
}

async function send(operand: string, files: readonly string[], options: SendOptions): Promise<void> {
  const { fd: numbers = [], data, type } = options
  if (files.length + numbers.length === 0) throw usageError('There is nothing to send: name a FILE, or --fd N')
  if (options.listen === true && type === 'dgram')
    throw usageError('--listen is for connections, which datagrams have none of')
  if (options.listen !== true && options.socketMode !== undefined) throw usageError('--socket-mode goes with --listen')
  if (options.listen === true && options.wait !== undefined)
    throw usageError('--wait is for who connects, not for --listen')
  if (data === '' && type === 'stream')
    throw usageError('--data must have a byte at least, which carries the descriptor')
  await withFiles(files, options, (items) => withSignals((signal) => sendAll(operand, items, options, signal)))
}

/** Sends one message of all, or one of each. */
async function sendAll(
  operand: string,
  items: readonly OpenFile[],
  options: SendOptions,
  signal: AbortSignal
): Promise<void> {
  const { together, data } = options
  using socket = await peerFor(addressOf(operand), options, signal)
  try {
    for (const message of together === true ? [items] : items.map((item) => [item])) {
      const names = message.map(({ name }) => name).join('\n')
      await socket.send(data ?? names, { fds: message.map(({ source }) => source), signal })
    }
  } catch (error) {
    throw Object.assign(error as Error, { address: operand })
  }
}

async function peerFor(address: string, options: SendOptions, signal: AbortSignal): Promise<UnixSocket> {
  if (options.listen !== true) return connectAllowed(address, options, signal)
  using server = await listenFor(address, options)
  return await server.accept({ signal })
}
