import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { readFileSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import { type Descriptor, type SocketType, type UnixSocket, socketpair } from 'fdpass'
import { text } from './sockets.ts'

/** A child program, the socket that ends in it, and what it printed. */
export interface Fixture {
  readonly child: ChildProcess
  /** This end of the socket whose other end is the child's descriptor 3. */
  readonly socket: UnixSocket
  /** Resolves at the child's end to what it printed; rejects unless it ended with code 0. */
  readonly done: Promise<string>
}

/** The compiled path of a program in `__test__/fixtures`. */
export function fixturePath(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}.js`, import.meta.url))
}

/** How a program is started. */
export interface ProgramOptions extends SpawnOptions {
  /** The first three descriptors of the child. */
  standard?: readonly [Standard, Standard, Standard]
  /** The number that the socket has in the child; 3 unless given. */
  socketAt?: number
  /** Options of Node itself. */
  execArgv?: readonly string[]
  /** The type of the pair; a stream unless given. */
  type?: SocketType
}

type Standard = 'ignore' | 'pipe' | 'inherit' | number

/** Starts any program with one end of a new pair as its descriptor 3. */
export function startProgram(command: string, args: readonly string[], options: ProgramOptions = {}): Fixture {
  const { standard = ['ignore', 'pipe', 'inherit'], socketAt = 3, type = 'stream', ...rest } = options
  const [socket, theirs] = socketpair({ type })
  const between = Array.from({ length: socketAt - 3 }, () => 'ignore' as const)
  const child = spawn(command, args, { stdio: [...standard, ...between, theirs.fd], ...rest })
  theirs.close() // only the child holds that end from now on
  return { child, socket, done: finish(child) }
}

/** Starts a program of `__test__/fixtures` on the Node that runs the test. */
export function startFixture(name: string, args: readonly string[] = [], options: ProgramOptions = {}): Fixture {
  const { execArgv = [], ...rest } = options
  return startProgram(process.execPath, [...process.execArgv, ...execArgv, fixturePath(name), ...args], rest)
}

/** Starts a fixture that can have `limit` descriptors. On Linux it lowers the limit itself, by `limitDescriptors`. */
export function startLimited(
  limit: number,
  name: string,
  args: readonly string[],
  type: SocketType = 'stream'
): Fixture {
  const node = [process.execPath, ...process.execArgv, fixturePath(name), ...args]
  if (process.platform !== 'linux') {
    return startProgram('sh', ['-c', 'ulimit -n "$0" && exec "$@"', `${limit}`, ...node], { type })
  }
  return startProgram(node[0]!, node.slice(1), { type, env: { ...process.env, FDPASS_TEST_FD_LIMIT: `${limit}` } })
}

/** The path of a file of `__test__/fixtures` that is not compiled with the tests, which run in the repository's root. */
export function fixtureSource(name: string): string {
  return join('__test__', 'fixtures', name)
}

/** Starts a scene of `peer.py`. */
export function startPython(scene: string, args: readonly string[] = [], options: ProgramOptions = {}): Fixture {
  return startProgram('python3', [fixtureSource('peer.py'), String(options.socketAt ?? 3), scene, ...args], options)
}

/** Resolves at a child's end to what it printed; rejects unless it ended with code 0. */
export async function finish(child: ChildProcess): Promise<string> {
  let output = ''
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (output += chunk))
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  if (code !== 0) throw new Error(`The child ended with ${signal ?? `code ${code}`}: ${output}`)
  return output
}

/** A program that was started, and what it printed, once it has ended well. */
export interface Program {
  readonly child: ChildProcess
  readonly done: Promise<string>
}

/** Whether a command can be run, and ends well. */
export function runs(command: string, ...args: string[]): boolean {
  return process.platform === 'linux' && spawnSync(command, args, { stdio: 'ignore' }).status === 0
}

/** Starts a program with this as its input. It does not outlive the test. */
export function start(
  t: ExecutionContext,
  command: string,
  args: readonly string[],
  options: SpawnOptions = {},
  input = ''
): Program {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], ...options })
  child.stdin?.end(input)
  return { child, done: endWith(t, child) }
}

/** Ends a program with the test, by this signal if it has something to clean up. */
export function endWith(t: ExecutionContext, child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): Promise<string> {
  const done = finish(child)
  const settled = done.catch(() => {}) // a test that fails before it awaits this has its own error
  t.teardown(async () => {
    child.kill(signal)
    await settled
  })
  return done
}

/** Receives a descriptor of the scene `lingering` of hostile.py, of which this process has the last copy then. */
export async function receiveLast(socket: UnixSocket): Promise<Descriptor> {
  const { fd } = (await socket.recvFd({ required: true }))!
  await socket.recv({ maxBytes: 1 })
  return fd
}

/** Starts a scene of `conformance.py`. */
export function play(scene: string, ...args: string[]): Fixture {
  return startProgram('python3', [fixtureSource('conformance.py'), scene, ...args])
}

/** The process that a pidfd means, by the kernel's word: -1 once it has ended. */
export function pidOf(pidfd: Descriptor): number {
  return Number(/^Pid:\s+(-?\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd.fd}`, 'utf8'))![1])
}

/** Starts `other-user.ts` as a user, with one end of a pair as its descriptor 3. */
export function startAs(user: { uid: number; gid: number; groups: readonly number[] }, path: string, words: string) {
  return startFixture('other-user', ['credentials', `${user.uid}`, `${user.gid}`, user.groups.join(), path, words])
}

/** Starts another user; see other-user.ts. */
export function startOtherUser(scene: string, ...args: string[]): Fixture {
  return startFixture('other-user', [scene, ...args])
}

/** The lines that another user's process sends, up to its end. */
export async function linesFrom({ socket, done }: Fixture): Promise<string[]> {
  let said = ''
  for (let message = await socket.recv(); message !== null; message = await socket.recv()) said += text(message)
  await done
  socket.close()
  return said.trimEnd().split('\n')
}
