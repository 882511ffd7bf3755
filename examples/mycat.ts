// mycat [FILE…]: cat(1) with a child process that opens each file and passes the descriptor (UNP vol. 1, section 15.7).
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { getSystemErrorMap } from 'node:util'
import { recvFd, socketpair } from 'fdpass'

const openfile = fileURLToPath(import.meta.url).replace(/mycat(?=\.\w+$)/, 'openfile')

/** Returns the file, opened by openfile; rejects with openfile's error. */
async function open(path: string): Promise<NodeJS.ReadableStream> {
  const [socket, theirs] = socketpair()
  spawn(process.execPath, [openfile, '3', path], { stdio: ['inherit', 'inherit', 'inherit', theirs.fd] })
  theirs.close()
  const received = await recvFd(socket)
  socket.close()
  if (received?.fd) return createReadStream('', { fd: received.fd.release(), highWaterMark: 262_144 })
  throw Object.assign(new Error('openfile ended'), { errno: received ? Number(received.data) : 0 })
}

function reportError(about: string, { errno, message }: NodeJS.ErrnoException): void {
  const [code, text] = getSystemErrorMap().get(errno ?? 0) ?? ['', message]
  console.error(`mycat: ${about}: ${code === 'EISDIR' ? 'Is a directory' : text[0]!.toUpperCase() + text.slice(1)}`)
  process.exitCode = 1
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // The exit code that a shell reports after SIGPIPE. Writing to a socket may fail with ECONNRESET instead.
  if (error.code === 'EPIPE' || error.code === 'ECONNRESET') process.exit(128 + 13)
  reportError('write error', error)
  process.exit()
})

for (const path of process.argv.length > 2 ? process.argv.slice(2) : ['-']) {
  try {
    for await (const chunk of path === '-' ? process.stdin : await open(path)) {
      if (!process.stdout.write(chunk)) await once(process.stdout, 'drain')
    }
  } catch (error) {
    reportError(path, error as NodeJS.ErrnoException)
  }
}
