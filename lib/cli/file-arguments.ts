import { constants, readdirSync, readlinkSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { Option } from 'commander'
import type { CliCommand } from './cli-command.ts'
import { CliError } from './errors.ts'
import { repeatable, integerFrom } from './option-parsers.ts'

/** The options that select how files are opened, and inherited descriptors. */
export interface FileOptions {
  readonly fd?: readonly number[]
  readonly write?: true
  readonly append?: true
  readonly readWrite?: true
}

/** An open file or descriptor, and its name. */
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

/** Adds the operand and the options for files. */
export function defineFiles(command: CliCommand): CliCommand {
  return command
    .argument('[FILE...]', "A file to open, for reading unless an option changes that; '-' is standard input.")
    .option('--fd <N>', 'Also use descriptor N, which the shell opened. Repeatable.', repeatable(integerFrom(0)))
    .addOption(
      new Option('--write', 'Open for writing; create or truncate the file, as > does.').conflicts([
        'append',
        'readWrite'
      ])
    )
    .addOption(new Option('--append', 'Open for appending; create a missing file, as >> does.').conflicts('readWrite'))
    .option('--read-write', 'Open for reading and writing; create a missing file, as <> does.')
}

/** Opens all files, calls `use` with them and the inherited descriptors, then closes the files. */
export async function withFiles<T>(
  files: readonly string[],
  options: FileOptions,
  use: (items: readonly OpenFile[]) => Promise<T>
): Promise<T> {
  const mode = options.write ? 'write' : options.append ? 'append' : options.readWrite ? 'readWrite' : 'read'
  const items: OpenFile[] = []
  try {
    // Before signal handlers are installed: opening a FIFO blocks, and only a signal's default action ends that.
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

/** Returns what /proc reports a descriptor to be; empty if it is not open. */
function linkOf(fd: number | string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return ''
  }
}

/** Throws for a descriptor that is not open, or that Node opened for itself: the user forgot to redirect it. */
function checkInherited(fd: number): void {
  if (process.platform !== 'linux') return
  const link = linkOf(fd)
  // libuv opens pipes for itself, both ends of which are in this process, and descriptors for its event loop.
  const isOwnPipe =
    link.startsWith('pipe:') && readdirSync('/proc/self/fd').filter((other) => linkOf(other) === link).length > 1
  if (link === '' || isOwnPipe || /^anon_inode:\[(?:eventpoll|eventfd|io_uring)\]$/.test(link)) {
    throw new CliError(`--fd ${fd}: Bad file descriptor. Was it redirected, as in '--fd ${fd} ${fd}< FILE'?`)
  }
}
