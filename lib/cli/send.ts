import type { UnixSocket } from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { usageError } from './errors.ts'
import { withSignals } from './signals.ts'
import { type FileOptions, type OpenFile, defineFiles, withFiles } from './file-arguments.ts'
import { type PeerOptions, acceptFrom, addressOf, definePeer, listenFor, connectAllowed } from './peers.ts'

interface SendOptions extends PeerOptions, FileOptions {
  readonly data?: string
  readonly together?: true
  readonly listen?: true
}

export function define(command: CliCommand): void {
  defineFiles(definePeer(command))
    .usage('[OPTION...] SOCKET FILE...')
    .description(
      'Opens files and sends them to the process that listens on SOCKET, one message for each file, with its name as the ' +
        'data. If a file cannot be opened, nothing is sent. The receiver can use each file in the mode in which it was ' +
        "opened, regardless of the file's permissions."
    )
    .option(
      '--data <TEXT>',
      "Set the data of each message (default: the file's name; fdN for descriptor N; stdin for '-')."
    )
    .option('--together', 'Send all in one message. Its data has one name per line.')
    .option('--listen', 'Listen on SOCKET, and send to the first process that connects.')
    .addExample(
      `
# Send a file to a process that prints what it receives
echo hello > greeting.txt
fdpass recv ./example.sock &
fdpass send --wait 5 ./example.sock greeting.txt
wait`
    )
    .addExample(
      `
# Let a program append to a log that it has no permission to open
fdpass recv ./log.sock -- sh -c 'echo started >&3' &
fdpass send --wait 5 --append ./log.sock service.log
wait
cat service.log`
    )
    .addExample(
      `
# Send a descriptor that the shell opened, with a name; the receiver connects
fdpass send --listen ./pipe.sock --fd 3 --data report 3< /etc/hostname &
fdpass recv --wait 5 --connect ./pipe.sock
wait`
    )
    .action(send)
}

async function send(operand: string, files: readonly string[], options: SendOptions): Promise<void> {
  const { fd: numbers = [], data, type } = options
  if (files.length + numbers.length === 0) throw usageError('Nothing to send: specify FILE or --fd N')
  if (options.listen === true && type === 'dgram')
    throw usageError('--listen does not support --type dgram, which has no connections')
  if (options.listen !== true && options.socketMode !== undefined) throw usageError('--socket-mode requires --listen')
  if (options.listen === true && options.wait !== undefined) throw usageError('--wait cannot be used with --listen')
  if (data === '' && type === 'stream')
    throw usageError('--data must not be empty on a stream: a byte carries the descriptor')
  await withFiles(files, options, (items) => withSignals((signal) => sendAll(operand, items, options, signal)))
}

/** Sends one message for each file, or one with all of them. */
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
  return await acceptFrom(server, signal)
}
