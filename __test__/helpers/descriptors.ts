import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The folder in which a process sees its open descriptors. */
const table = process.platform === 'linux' ? '/proc/self/fd' : '/dev/fd'

/** How many descriptors this process has open, without the one that counting takes. */
export function countFds(): number {
  return readdirSync(table).length - 1
}

/** Whether a number is open: by using it, as a number alone proves nothing. */
export function isOpen(fd: number): boolean {
  try {
    fstatSync(fd)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EBADF') return false
    throw error
  }
}

/** Whether two descriptors are of the same file. */
export function sameFile(a: number, b: number): boolean {
  const [x, y] = [fstatSync(a), fstatSync(b)]
  return x.dev === y.dev && x.ino === y.ino && x.rdev === y.rdev
}

/**
 * A folder of its own for a test, with a path short enough for a socket; removed when the process ends. Children that are being ended may
 * create files in it until then: a removal that finds a new one (ENOTEMPTY) is repeated.
 */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true, maxRetries: 10 }))
  return folder
}

let folder: string | undefined
let paths = 0

/** The temporary folder of this process, which every user may search. */
function ownFolder(): string {
  if (folder === undefined) {
    folder = temporaryFolder()
    chmodSync(folder, 0o755)
  }
  return folder
}

/** A new path in a folder that every user may search, short enough for a socket. */
export function newPath(name = 'path'): string {
  return join(ownFolder(), `${name}-${paths++}`)
}

/** A new folder in a folder that every user may search. */
export function newFolder(): string {
  return mkdtempSync(join(ownFolder(), 'folder-'))
}

/** A new file with this content. */
export function temporaryFile(content = ''): string {
  const path = newPath('file')
  writeFileSync(path, content)
  return path
}

/** A descriptor of a new file with this content; the caller closes it. */
export function openFile(content = '', flags = 'r+'): number {
  return openSync(temporaryFile(content), flags)
}

/** What a descriptor's file holds from its offset on. */
export function readAll(fd: number): string {
  return readFileSync(fd, 'utf8')
}

/** The file status flags of one of this process's descriptors, as /proc shows them (Linux). */
export function statusFlags(fd: number): number {
  return parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))![1]!, 8)
}

/** `O_CLOEXEC` as fdinfo shows it. */
export const CLOEXEC = 0o2000000

/** Both ends of a new pipe; the caller closes them. */
export function openPipe(): { read: number; write: number } {
  const path = newPath('pipe')
  execFileSync('mkfifo', [path])
  const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  return { read, write: openSync(path, constants.O_WRONLY) }
}

/** Whether an empty pipe has a writing end in any process, or in a message that was not received. */
export function hasWriter(read: number): boolean {
  try {
    return readSync(read, Buffer.alloc(1)) > 0
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return true
    throw error
  }
}

const filling: number[] = []

/** Leaves no room in this process's descriptor table. */
export function fillTable(): void {
  try {
    for (;;) filling.push(openSync('/dev/null', 'r'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EMFILE') throw error
  }
}

/** Makes room again, all that was taken or for so many. */
export function freeTable(count = filling.length): void {
  for (const fd of filling.splice(0, count)) closeSync(fd)
}

/**
 * Lowers the limit of open descriptors to that of `startLimited`. A program calls it after its imports: Node opens many modules at a time to
 * load them, more than some tests allow.
 */
export function limitDescriptors(): void {
  const limit = process.env.FDPASS_TEST_FD_LIMIT
  if (limit !== undefined) execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${limit}`])
}

/** What a process holds of the system: descriptors by what they are links to, threads by their names (Linux). */
export interface Resources {
  readonly fds: Readonly<Record<string, number>>
  readonly threads: Readonly<Record<string, number>>
}

function tally(names: Iterable<string>): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

/** What the calling process's descriptors are links to; a socket and a pipe without its inode, which is another one each time. */
function links(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const link = readlinkSync(`/proc/self/fd/${fd}`)
      // The folder that is being read is one of them.
      return /^\/proc\/\d+\/fd$/.test(link) ? [] : [link.replace(/^(socket|pipe):\[\d+\]$/, '$1')]
    } catch {
      return [] // it was the folder's, or closed meanwhile by another thread
    }
  })
}

/** The threads that close what other processes have sent. Two of them stay (crates/core/src/fd/apart.rs). */
const CLOSING_THREAD = 'fdpass-close'
const MAX_PARKED = 2

/** The names of the calling process's threads, without those that stay although nothing is left to do. */
function threadNames(): string[] {
  const names = allThreadNames()
  const parked = names.filter((name) => name === CLOSING_THREAD).slice(MAX_PARKED)
  return [...names.filter((name) => name !== CLOSING_THREAD), ...parked]
}

function allThreadNames(): string[] {
  return readdirSync('/proc/self/task').flatMap((task) => {
    try {
      return [readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim()]
    } catch {
      return [] // it has ended
    }
  })
}

/** What the calling process holds now. */
export function resources(): Resources {
  return { fds: tally(links()), threads: tally(threadNames()) }
}

/** In what two tallies differ, as text: `socket 3 instead of 2`; empty if in nothing. */
export function differences(now: Readonly<Record<string, number>>, before: Readonly<Record<string, number>>): string[] {
  return [...new Set([...Object.keys(now), ...Object.keys(before)])]
    .filter((name) => (now[name] ?? 0) !== (before[name] ?? 0))
    .map((name) => `${name}: ${now[name] ?? 0} instead of ${before[name] ?? 0}`)
}
