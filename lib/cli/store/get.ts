import { constants, createReadStream, readFileSync } from 'node:fs'
import type { Descriptor } from 'fdpass'
import type { Store } from 'fdpass/store'
import type { CliCommand } from '../cli-command.ts'
import { checkSeparator, findProgram, runProgram } from '../run-program.ts'
import { CliError } from '../errors.ts'
import { CHUNK_SIZE, copyToStdout, checkIsNotStdout } from '../output.ts'
import { type ClientOptions, withStore, defineClient, withEntryName } from './client.ts'

export const summary = 'Print a stored file, or run a program with stored descriptors'

interface GetOptions extends ClientOptions {
  readonly remove?: true
}

export function define(command: CliCommand): void {
  defineClient(command)
    .usage('[OPTION...] SOCKET NAME [-- PROGRAM [ARGUMENT...]]')
    .argument('NAME', 'The name of the entry.')
    .argument(
      '[PROGRAM...]',
      'The program to run, and its arguments. It inherits the descriptors from 3 on, as with systemd (LISTEN_PID, ' +
        'LISTEN_FDS), each named NAME (LISTEN_FDNAMES).'
    )
    .description(
      'Gets the entry NAME. A file, a memfd or a FIFO is copied to standard output. A file is copied from its start, and its ' +
        'shared offset does not move. A FIFO is read until its end, which consumes the data. Other descriptors, and entries of ' +
        'several descriptors, require a PROGRAM. The program replaces fdpass: it has its process id, and its exit status is the ' +
        'one of fdpass.'
    )
    .option('--remove', 'Remove the entry from the store. Only one of several concurrent clients gets it.')
    .addExitCodes({ 126: 'The program is not executable.', 127: 'The program was not found.' })
    .addExample(
      `
# Let each run of a program continue in a file where the previous run ended
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
      // Check before removing: an entry that cannot be copied would be lost.
      if (executable === undefined && options.remove === true) closeAll(await copyable(store, name, { signal }))
      const wanted = { remove: options.remove, signal }
      return executable === undefined ? copyable(store, name, wanted) : store.get(name, wanted)
    })
  )
  if (executable === undefined) await copy(fds[0]!)
  else {
    const names = fds.map(() => name)
    runProgram(executable, args, fds, names)
  }
}

type Wanted = Parameters<Store['get']>[1]

/** Gets an entry; throws if it cannot be copied. */
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
    throw new CliError(`${name}: These are ${fds.length} descriptors: pass them to a program, after --`)
  const [fd] = fds as [Descriptor]
  const { kind } = fd
  if (kind !== 'file' && kind !== 'memfd' && kind !== 'fifo') {
    throw new CliError(`${name}: This is a ${kind}, which cannot be printed: pass it to a program, after --`)
  }
  const flags = flagsOf(fd)
  if ((flags & O_ACCMODE) === constants.O_WRONLY || (flags & O_PATH) !== 0) {
    throw new CliError(`${name}: This is not open for reading: pass it to a program, after --`)
  }
  checkIsNotStdout(fd.fd)
}

const O_ACCMODE = 3
/** The value on Linux, the only platform whose flags are read here: open(2). */
const O_PATH = 0o10_000_000

/** Returns the open(2) flags of a descriptor; `O_RDONLY` without /proc. */
function flagsOf({ fd }: Descriptor): number {
  if (process.platform !== 'linux') return constants.O_RDONLY
  return parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '0', 8)
}

function closeAll(fds: readonly Descriptor[]): void {
  for (const fd of fds) fd.closeSync()
}

async function copy(fd: Descriptor): Promise<void> {
  const isFifo = fd.kind === 'fifo'
  // A file stream would fail with EAGAIN. The socket stream leaves the shared O_NONBLOCK flag as it is.
  if (isFifo && (flagsOf(fd) & constants.O_NONBLOCK) !== 0) return copyToStdout(fd.toSocket())
  const start = isFifo ? undefined : 0
  await copyToStdout(createReadStream('', { fd: fd.release(), start, highWaterMark: CHUNK_SIZE }))
}
