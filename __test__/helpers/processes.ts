import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { UnixSocket, socketpair } from 'fdpass'

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

/** Starts any program with one end of a new stream pair as its descriptor 3. */
export function startProgram(command: string, args: readonly string[], options: SpawnOptions = {}): Fixture {
  const [socket, theirs] = socketpair()
  const number = theirs.release()
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit', number], ...options })
  UnixSocket.from(number).close() // only the child holds that end from now on
  return { child, socket, done: finish(child) }
}

/** Starts a program of `__test__/fixtures` on the Node that runs the test. */
export function startFixture(name: string, args: readonly string[] = [], options: SpawnOptions = {}): Fixture {
  return startProgram(process.execPath, [...process.execArgv, fixturePath(name), ...args], options)
}

/** Resolves at a child's end to what it printed; rejects unless it ended with code 0. */
export async function finish(child: ChildProcess): Promise<string> {
  let output = ''
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output += text))
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  if (code !== 0) throw new Error(`The child ended with ${signal ?? `code ${code}`}: ${output}`)
  return output
}
