import { constants, readdirSync, readlinkSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { Option } from 'commander'
import type { UnixSocket } from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { Failure, misused } from './failure.ts'
import { untilInterrupted } from './interruption.ts'
import { type PeerOptions, addressOf, definePeer, listenFor, reach } from './peers.ts'
import { each, number } from './values.ts'

interface SendOptions extends PeerOptions {
  readonly fd?: readonly number[]
  readonly write?: true
  readonly append?: true
  readonly readWrite?: true
  readonly data?: string
  readonly together?: true
  readonly listen?: true
}

/** Something to be sent, and its name. */
interface Item {
  readonly name: string
  readonly source: FileHandle | number
}

export function define(command: CliCommand): void {
  definePeer(command)
    .usage('[OPTION...] SOCKET FILE...')
    .argument('[FILE...]', "What to open and send, to be read unless an option says otherwise; '-' is standard input.")
    .description(
      'Send open files to whoever listens on SOCKET, one message for each, with its name as the data. All are opened before the ' +
        'first one is sent: either all are there, or nothing is sent. Whoever receives a file can use it as it was opened, ' +
        'with whatever rights.'
    )
    .option(
      '--fd <N>',
      'Send descriptor N too, which the shell has opened; several times for several.',
      each(number(0))
    )
    .addOption(
      new Option('--write', 'Open to be written, made or emptied first, as > does.').conflicts(['append', 'readWrite'])
    )
    .addOption(
      new Option('--append', 'Open to be appended to, made first where missing, as >> does.').conflicts('readWrite')
    )
    .option('--read-write', 'Open to be read and written, made first where missing, as <> does.')
    .option('--data <TEXT>', "The data of each message (default: the file's name; of descriptor N fdN, of '-' stdin).")
    .option('--together', 'Send all in one message, whose data are their names, one a line.')
    .option('--listen', 'Listen on SOCKET, and send to the first who connects.')
    .example(
      `
# Give a file to a process, which is shown what came
echo hello > greeting.txt
fdpass recv ./example.sock &
fdpass send --wait 5 ./example.sock greeting.txt
wait`
    )
    .example(
      `
# Let a program append to a log that it could not open itself
fdpass recv ./log.sock -- sh -c 'echo started >&3' &
fdpass send --wait 5 --append ./log.sock service.log
wait
cat service.log`
    )
    .example(
      `
# Send what the shell has opened, under a name; the receiver connects
fdpass send --listen ./pipe.sock --fd 3 --data report 3< /etc/hostname &
fdpass recv --wait 5 --connect ./pipe.sock
wait`
    )
    .action(send)
}

const modes = {
  read: 'r',
  write: 'w',
  append: 'a',
  readWrite: constants.O_RDWR | constants.O_CREAT
} as const

async function send(operand: string, files: readonly string[], options: SendOptions): Promise<void> {
  const { fd: numbers = [], data, type } = options
  if (files.length + numbers.length === 0) throw misused('There is nothing to send: name a FILE, or --fd N')
  if (options.listen === true && type === 'dgram')
    throw misused('--listen is for connections, which datagrams have none of')
  if (options.listen !== true && options.socketMode !== undefined) throw misused('--socket-mode goes with --listen')
  if (options.listen === true && options.wait !== undefined)
    throw misused('--wait is for who connects, not for --listen')
  if (data === '' && type === 'stream') throw misused('--data must have a byte at least, which carries the descriptor')
  const mode = options.write ? 'write' : options.append ? 'append' : options.readWrite ? 'readWrite' : 'read'
  const items: Item[] = []
  try {
    // Before signals are listened to: opening a FIFO waits, and nothing but a signal ends that.
    for (const name of files) {
      items.push(name === '-' ? { name: 'stdin', source: 0 } : { name, source: await open(name, modes[mode]) })
    }
    for (const fd of numbers) {
      checkInherited(fd)
      items.push({ name: `fd${fd}`, source: fd })
    }
    await untilInterrupted((signal) => sendAll(operand, items, options, signal))
  } finally {
    for (const { source } of items) if (typeof source === 'object') await source.close()
  }
}

/** Sends one message of all, or one of each. */
async function sendAll(operand: string, items: Item[], options: SendOptions, signal: AbortSignal): Promise<void> {
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
  if (options.listen !== true) return reach(address, options, signal)
  using server = await listenFor(address, options)
  return await server.accept({ signal })
}

/** What a descriptor is, as /proc tells; empty where it is not open. */
function linkOf(fd: number | string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return ''
  }
}

/** Throws for a number that is open, but Node's own: whoever forgot to redirect it would send that. */
function checkInherited(fd: number): void {
  if (process.platform !== 'linux') return
  const link = linkOf(fd)
  // What libuv makes for itself: a pipe both of whose ends are here, and what only an event loop uses.
  const isOwnPipe =
    link.startsWith('pipe:') && readdirSync('/proc/self/fd').filter((other) => linkOf(other) === link).length > 1
  if (link === '' || isOwnPipe || /^anon_inode:\[(?:eventpoll|eventfd|io_uring)\]$/.test(link)) {
    throw new Failure(
      `--fd ${fd}: Bad file descriptor. Was it redirected, as in 'fdpass send … --fd ${fd} ${fd}< FILE'?`
    )
  }
}
