import { constants, readdirSync, readlinkSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { Option } from 'commander'
import type { CliCommand } from './cli-command.ts'
import { CliError } from './errors.ts'
import { repeatable, integerFrom } from './option-parsers.ts'

/** How files are opened, and what is open already. */
export interface FileOptions {
  readonly fd?: readonly number[]
  readonly write?: true
  readonly append?: true
  readonly readWrite?: true
}

/** Something that is open, and its name. */
export interface OpenFile {
  readonly name: string
  readonly source: FileHandle | number
}

const modes = {
  read: 'r',
  write: 'w',
  append: 'a',
  readWrite: constants.O_RDWR | constants.O_CREAT
} as const

/** Adds the operand and the options that name files. */
export function defineFiles(command: CliCommand): CliCommand {
  return command
    .argument('[FILE...]', "What to open, to be read unless an option says otherwise; '-' is standard input.")
    .option(
      '--fd <N>',
      'Take descriptor N too, which the shell has opened; several times for several.',
      repeatable(integerFrom(0))
    )
    .addOption(
      new Option('--write', 'Open to be written, made or emptied first, as > does.').conflicts(['append', 'readWrite'])
    )
    .addOption(
      new Option('--append', 'Open to be appended to, made first where missing, as >> does.').conflicts('readWrite')
    )
    .option('--read-write', 'Open to be read and written, made first where missing, as <> does.')
}

/** Opens all files, has something done with them and the descriptors that the shell has opened, and closes the files. */
export async function withFiles<T>(
  files: readonly string[],
  options: FileOptions,
  use: (items: readonly OpenFile[]) => Promise<T>
): Promise<T> {
  const mode = options.write ? 'write' : options.append ? 'append' : options.readWrite ? 'readWrite' : 'read'
  const items: OpenFile[] = []
  try {
    // Before signals are listened to: opening a FIFO waits, and nothing but a signal ends that.
    for (const name of files) {
      items.push(name === '-' ? { name: 'stdin', source: 0 } : { name, source: await open(name, modes[mode]) })
    }
    for (const fd of options.fd ?? []) {
      checkInherited(fd)
      items.push({ name: `fd${fd}`, source: fd })
    }
    return await use(items)
  } finally {
    for (const { source } of items) if (typeof source === 'object') await source.close()
  }
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
    throw new CliError(`--fd ${fd}: Bad file descriptor. Was it redirected, as in '--fd ${fd} ${fd}< FILE'?`)
  }
}
