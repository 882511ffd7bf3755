import { execFileSync } from 'node:child_process'
import {
  constants,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
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

/** A folder of its own for a test, with a path short enough for a socket; removed when the process ends. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  return folder
}

const folder = temporaryFolder()
let files = 0

/** A new file with this content. */
export function temporaryFile(content = ''): string {
  const path = join(folder, `file-${files++}`)
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
  const path = join(folder, `pipe-${files++}`)
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
