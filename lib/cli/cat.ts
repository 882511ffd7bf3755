import { spawn } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Channel, type Descriptor, socketpair } from 'fdpass'
import type { CliCommand } from './cli-command.ts'
import { FAILED, reportError } from './errors.ts'
import { CHUNK_SIZE, copyToStdout, checkIsNotStdout } from './output.ts'

export function define(command: CliCommand): void {
  command
    .usage('[FILE...]')
    .argument('[FILE...]', "The files to print, in order; '-' is standard input, which is the default.")
    .description(
      'Copies files to standard output, as cat(1) does. A child process opens each file and passes the descriptor. A file ' +
        'that cannot be opened is reported, and the next one is copied.'
    )
    .addExample(
      `
# Print two files with standard input between them
echo hello > greeting.txt
echo 'and also' | fdpass cat greeting.txt - greeting.txt`
    )
    .action(cat)
}

/** The child process that opens files. */
class Openfile implements Disposable {
  readonly #channel: Channel<string>

  constructor() {
    const [socket, theirs] = socketpair()
    const program = fileURLToPath(new URL('openfile.js', import.meta.url))
    try {
      spawn(process.execPath, [program], { stdio: ['inherit', 'ignore', 'inherit', theirs.fd] }).unref()
    } finally {
      theirs.close()
    }
    this.#channel = new Channel<string>(socket)
  }

  async open(path: string): Promise<Descriptor> {
    // In the child, /dev/fd/N is another descriptor. Bash's <(…) passes such a path.
    const own = process.platform === 'linux' ? /^\/(?:dev|proc\/self)\/fd\/(\d+)$/.exec(path)?.[1] : undefined
    const { fds } = await this.#channel.request(own === undefined ? path : `/proc/${process.pid}/fd/${own}`)
    return fds[0]!
  }

  [Symbol.dispose](): void {
    this.#channel.close()
  }
}

async function cat(files: readonly string[]): Promise<void> {
  let openfile: Openfile | undefined
  for (const path of files.length > 0 ? files : ['-']) {
    try {
      if (path === '-') {
        checkIsNotStdout(0)
        await copyToStdout(process.stdin)
      } else {
        openfile ??= new Openfile()
        using file = await openfile.open(path)
        checkIsNotStdout(file.fd)
        await copyToStdout(createReadStream('', { fd: file.release(), highWaterMark: CHUNK_SIZE }))
      }
    } catch (error) {
      const { message, code, errno } = error as NodeJS.ErrnoException
      reportError(`cat: ${path}`, Object.assign(new Error(message), { code, errno }))
      process.exitCode = FAILED
      if (code !== 'ECONNRESET') continue
      openfile?.[Symbol.dispose]() // the child died: start another one for the next file
      openfile = undefined
    }
  }
  openfile?.[Symbol.dispose]()
}
