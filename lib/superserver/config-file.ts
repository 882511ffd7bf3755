import { close, constants, fstat, open, read } from 'node:fs'
import { Socket } from 'node:net'
import { dirname, resolve } from 'node:path'
import { type Readable, addAbortSignal } from 'node:stream'
import { ReadStream, isatty } from 'node:tty'
import { promisify } from 'node:util'
import { invalidType, invalidValue, raceAbort, withLimit } from '../base/internal.ts'
import { putFd } from '../descriptor/internal.ts'
import { duplicateShared, native } from '../native/internal.ts'

/** The maximum size of a configuration file, in bytes. */
const MAX_BYTES = 1024 * 1024

/** Names of a descriptor of this process. Linux cannot open a socket by such a name. */
const inherited = /^\/(?:dev|proc\/self)\/(?:stdin|fd\/(\d+))$/

const [openFile, closeFile, statFile, readFile] = [promisify(open), promisify(close), promisify(fstat), promisify(read)]

/** The bytes of a file, and whether it can be read again. */
interface Content {
  readonly bytes: Buffer
  readonly isRegular: boolean
}

/**
 * A configuration file in JSON. A regular file can be read again. A pipe, a socket or a terminal, such as standard input or the process
 * substitution of a shell, is read once: further reads return its first content.
 */
export class ConfigFile {
  readonly #path: string
  /** The working directory at the start. */
  readonly #cwd = process.cwd()
  /** The time within which the file is read again, in milliseconds. */
  timeout = 30_000
  #content: Content | undefined
  /** A reading of the file that has not ended. */
  #reading: Promise<unknown> | undefined

  constructor(path: string) {
    this.#path = path
  }

  /** Where relative paths begin: the file's folder, or the working directory for what has no folder. */
  get folder(): string {
    const hasFolder = this.#content?.isRegular !== false && !inherited.test(this.#path)
    return hasFolder ? dirname(resolve(this.#cwd, this.#path)) : this.#cwd
  }

  /**
   * Reads the file and returns the object that it contains. A further reading ends at the deadline. An abort rejects at once. A file system
   * that does not respond keeps a thread of the pool, but no more than one.
   */
  async read(signal: AbortSignal | undefined): Promise<object> {
    if (this.#content === undefined) this.#content = await raceAbort(this.#load(false, signal), signal)
    else if (this.#content.isRegular) this.#content = await this.#loadAgain(signal)
    const content: unknown = JSON.parse(this.#decode(this.#content!.bytes))
    if (typeof content !== 'object' || content === null) throw invalidType(this.#path, 'a JSON object', content)
    return content
  }

  async #loadAgain(signal: AbortSignal | undefined): Promise<Content> {
    try {
      return await withLimit(signal, this.timeout, 'open', async (limit) => {
        await raceAbort(this.#reading, limit)
        const content = this.#load(true, undefined)
        this.#reading = content.catch(() => {})
        return raceAbort(content, limit)
      })
    } catch (error) {
      throw Object.assign(
        error as object,
        (error as NodeJS.ErrnoException).code === 'ETIMEDOUT' && { path: this.#path }
      )
    }
  }

  async #load(again: boolean, signal: AbortSignal | undefined): Promise<Content> {
    const fd = await openNow(this.#path)
    let stream: Readable | undefined
    try {
      const isRegular = (await statFile(fd)).isFile()
      if (isRegular) return { bytes: await this.#readFile(fd), isRegular }
      if (again) throw invalidValue(this.#path, 'must come from a regular file, as it did before')
      stream = streamOf(fd)
      if (stream === undefined)
        throw invalidValue(this.#path, 'must come from a regular file, a pipe, a socket or a terminal')
      return { bytes: await this.#readStream(stream, signal), isRegular }
    } finally {
      if (stream === undefined) await closeFile(fd)
      else stream.destroy()
    }
  }

  async #readFile(fd: number): Promise<Buffer> {
    const buffer = Buffer.alloc(MAX_BYTES + 1)
    for (let length = 0; ;) {
      const { bytesRead } = await readFile(fd, buffer, length, buffer.length - length, null)
      length += bytesRead
      this.#checkSize(length)
      if (bytesRead === 0) return buffer.subarray(0, length)
    }
  }

  async #readStream(stream: Readable, signal: AbortSignal | undefined): Promise<Buffer> {
    if (signal !== undefined) addAbortSignal(signal, stream)
    const parts: Buffer[] = []
    let length = 0
    for await (const part of stream) {
      length += (part as Buffer).length
      this.#checkSize(length)
      parts.push(part as Buffer)
    }
    return Buffer.concat(parts)
  }

  #checkSize(length: number): void {
    if (length > MAX_BYTES) throw invalidValue(this.#path, `must have at most ${MAX_BYTES} bytes`)
  }

  /** Decodes UTF-8, and skips a byte order mark. */
  #decode(bytes: Buffer): string {
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    } catch {
      throw invalidValue(this.#path, 'must be UTF-8')
    }
  }
}

/** Opens a file for reading. Does not wait for the writer of a FIFO or the holder of a lease. */
async function openNow(path: string): Promise<number> {
  try {
    return await openFile(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (error) {
    const [name, number = '0'] = inherited.exec(path) ?? []
    if (name === undefined || (error as NodeJS.ErrnoException).code !== 'ENXIO') throw error
    putFd(Number(number))
    const [duplicate] = duplicateShared(1)
    native.release(duplicate!)
    return duplicate!
  }
}

function streamOf(fd: number): Readable | undefined {
  if (isatty(fd)) return new ReadStream(fd)
  try {
    return new Socket({ fd, readable: true, writable: false })
  } catch {
    return undefined // a device or a directory
  }
}
