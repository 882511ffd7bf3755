import { constants, createReadStream, readFileSync } from 'node:fs'
import type { Descriptor } from 'fdpass'
import type { Store } from 'fdpass/store'
import type { CliCommand } from '../cli-command.ts'
import { checkSeparator, findProgram } from '../find-program.ts'
import { CliError } from '../errors.ts'
import { runProgram } from '../run-program.ts'
import { CHUNK_SIZE, copyToStdout, checkIsNotStdout } from '../stdout.ts'
import { type ClientOptions, withStore, defineClient, withEntryName } from './client.ts'

export const summary = 'Get descriptors: print a file, or run a program with them'

interface GetOptions extends ClientOptions {
  readonly remove?: true
}

export function define(command: CliCommand): void {
  defineClient(command)
    .usage('[OPTION...] SOCKET NAME [-- PROGRAM [ARGUMENT...]]')
    .argument('NAME', 'What is kept.')
    .argument(
      '[PROGRAM...]',
      'A program and its arguments. It gets the descriptors from 3 on, as systemd passes them (LISTEN_PID, LISTEN_FDS), each with ' +
        'the name NAME (LISTEN_FDNAMES).'
    )
    .description(
      'Get what is kept under NAME. A file, memory or a FIFO is copied to standard output: a file from its beginning, and its offset, ' +
        'which is shared with all who have it, does not move; a FIFO until its end, and what is read is gone. Anything else, and ' +
        'several descriptors, are for a PROGRAM; its exit status is that of fdpass, 128 and the number of the signal where one ' +
        'has ended it.'
    )
    .option('--remove', 'Have them kept no more: of all who get them so, one does.')
    .addExitCodes({ 126: 'The program cannot be executed.', 127: 'The program was not found.' })
    .addExample(
      `
# Each run of a program goes on in a file where the one before it ended
fdpass store serve ./get.sock &
fdpass store put --wait 5 --read-write ./get.sock counter counter.txt
for run in 1 2 3; do
  fdpass store get ./get.sock counter -- sh -c "echo run $run >&3"
done
fdpass store get --remove ./get.sock counter
kill $!`
    )
    .action(get)
}

async function get(operand: string, name: string, program: readonly string[], options: GetOptions): Promise<void> {
  checkSeparator(program)
  const [first, ...args] = program
  const executable = first === undefined ? undefined : findProgram(first)
  const fds = await withStore(operand, options, (store, signal) =>
    withEntryName(name, async () => {
      // What cannot be copied is not to be lost.
      if (executable === undefined && options.remove === true) closeAll(await copyable(store, name, { signal }))
      const wanted = { remove: options.remove, signal }
      return executable === undefined ? copyable(store, name, wanted) : store.get(name, wanted)
    })
  )
  if (executable === undefined) await copy(fds[0]!)
  else {
    const names = fds.map(() => name)
    process.exitCode = await runProgram(executable, args, fds, names)
  }
}

type Wanted = Parameters<Store['get']>[1]

/** What is kept, if it can be copied. */
async function copyable(store: Store, name: string, wanted: Wanted): Promise<readonly Descriptor[]> {
  const fds = await store.get(name, wanted)
  try {
    checkCopyable(name, fds)
    return fds
  } catch (error) {
    closeAll(fds)
    throw error
  }
}

function checkCopyable(name: string, fds: readonly Descriptor[]): void {
  if (fds.length > 1)
    throw new CliError(`${name}: These are ${fds.length} descriptors: give them to a program, after --`)
  const [fd] = fds as [Descriptor]
  const { kind } = fd
  if (kind !== 'file' && kind !== 'memfd' && kind !== 'fifo') {
    throw new CliError(`${name}: This is a ${kind}, which cannot be copied: give it to a program, after --`)
  }
  const flags = flagsOf(fd)
  if ((flags & O_ACCMODE) === constants.O_WRONLY || (flags & O_PATH) !== 0) {
    throw new CliError(`${name}: This is not open to be read: give it to a program, after --`)
  }
  checkIsNotStdout(fd.fd)
}

const O_ACCMODE = 3
/** That of Linux, where alone flags are known: open(2). */
const O_PATH = 0o10_000_000

/** The flags with which something is open; none where there is no /proc. */
function flagsOf({ fd }: Descriptor): number {
  if (process.platform !== 'linux') return constants.O_RDONLY
  return parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '0', 8)
}

function closeAll(fds: readonly Descriptor[]): void {
  for (const fd of fds) fd.closeSync()
}

async function copy(fd: Descriptor): Promise<void> {
  const isFifo = fd.kind === 'fifo'
  // A read of it would not wait. What others share is as it was: libuv would make it so, too.
  if (isFifo && (flagsOf(fd) & constants.O_NONBLOCK) !== 0) return copyToStdout(fd.toSocket())
  const start = isFifo ? undefined : 0
  await copyToStdout(createReadStream('', { fd: fd.release(), start, highWaterMark: CHUNK_SIZE }))
}
