import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs'
import { type NetConnectOpts, type Socket, connect } from 'node:net'
import { join, resolve } from 'node:path'
import type { ExecutionContext } from 'ava'
import { temporaryFolder } from './descriptors.ts'

/** The package that the examples use: this check-out, or an installed one, by which `npm run test:package -- --all` tests it. */
export const packageFolder = process.env.FDPASS_PACKAGE ?? '.'

/** A folder of a name in which `fdpass` is found: inside of the package's own folder, or where it is installed. */
export function projectFolder(name: string): string {
  return process.env.FDPASS_PACKAGE === undefined ? resolve('build', name) : resolve(packageFolder, '../..', name)
}

/** A folder in which `fdpass` is found, as npm installs it: a link to the built file. */
const folder = realpathSync(temporaryFolder())
const bin = join(folder, 'bin')
mkdirSync(bin)
chmodSync(folder, 0o755) // other users are to find it
symlinkSync(resolve(packageFolder, 'dist/lib/cli/main.js'), join(bin, 'fdpass'))
symlinkSync(process.execPath, join(bin, 'node')) // what its first line asks for

/** The environment of a user who has installed the package. */
export const installed: NodeJS.ProcessEnv = { ...process.env, PATH: `${bin}:${process.env.PATH}` }

/** How a command has ended. */
export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** A command that runs. */
export interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  /** Resolves when so much has been printed on standard error or output. */
  printed: (pattern: RegExp) => Promise<RegExpExecArray>
}

/** A folder for a command, by its real path, which is short enough for a socket. */
export function sandbox(): string {
  return mkdtempSync(join(folder, 's'))
}

/** Starts any command with `fdpass` in its PATH, in a folder; it does not outlive the test. */
export function begin(
  t: ExecutionContext,
  command: string,
  args: readonly string[],
  { input, ...options }: SpawnOptions & { input?: string } = {}
): Running {
  const child = spawn(command, args, { env: installed, ...options })
  t.teardown(() => child.kill('SIGKILL'))
  if (input !== undefined || options.stdio === undefined) child.stdin?.end(input)
  const output = { stdout: '', stderr: '' }
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output.stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (output.stderr += text))
  const ended = once(child, 'close').then(([code, signal]) => ({ code, signal, ...output }) as Ended)
  return {
    child,
    ended,
    async printed(pattern) {
      for (;;) {
        const match = pattern.exec(output.stdout) ?? pattern.exec(output.stderr)
        if (match !== null) return match
        const isOver = await Promise.race([
          ended.then(() => true),
          ...[child.stdout, child.stderr].flatMap((stream) =>
            stream === null ? [] : once(stream, 'data').then(() => false)
          )
        ])
        if (isOver) throw new Error(`It never printed ${pattern}: ${JSON.stringify(output)}`)
      }
    }
  }
}

/** Runs `fdpass` in a folder until its end. */
export function fdpass(
  t: ExecutionContext,
  args: readonly string[],
  options: SpawnOptions & { input?: string } = {}
): Promise<Ended> {
  return begin(t, 'fdpass', args, options).ended
}

/** Runs a script of a shell's, with `fdpass` in its PATH. */
export function script(t: ExecutionContext, text: string, options: SpawnOptions = {}, shell = 'sh'): Promise<Ended> {
  return begin(t, shell, ['-ec', text], options).ended
}

/** The names of all commands, as a help lists them. */
export function commandsIn(help: string): string[] {
  const list = /^Commands:\n((?: .*\n)+)/m.exec(help)?.[1] ?? ''
  return [...list.matchAll(/^ {2}(\w+) {2,}/gm)].map(([, name]) => name!).filter((name) => name !== 'help')
}

const helps = new Map<string, string>()

/** The help of a command, which is run once. */
export function helpOf(words: readonly string[]): string {
  const known = helps.get(words.join(' '))
  if (known !== undefined) return known
  const { stdout } = spawnSync('fdpass', [...words, '--help'], { env: installed, encoding: 'utf8' })
  helps.set(words.join(' '), stdout)
  return stdout
}

/** All commands behind these words, those below them too, as the words by which each is called. */
export function commandsBelow(...words: readonly string[]): string[][] {
  return commandsIn(helpOf(words)).flatMap((name) => [[...words, name], ...commandsBelow(...words, name)])
}

/** A folder with two files. */
export function folderWithFiles(): string {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  writeFileSync(join(cwd, 'b'), 'content of b')
  return cwd
}

/** Starts `fdpass recv`. */
export function startRecv(t: ExecutionContext, cwd: string, args: readonly string[], options: object = {}): Running {
  return begin(t, 'fdpass', ['recv', './x.sock', ...args], { cwd, ...options })
}

/** Sends by `fdpass send`, as soon as there is a listener. */
export function runSend(
  t: ExecutionContext,
  cwd: string,
  args: readonly string[],
  options: object = {}
): Promise<Ended> {
  return fdpass(t, ['send', '--wait', '20', './x.sock', ...args], { cwd, ...options })
}

export let folders = 0

/** A folder inside the package, so that workers find `fdpass` by its name. */
export function folderInPackage(): string {
  const path = resolve('build', 'cli-serve', `${process.pid}-${folders++}`)
  mkdirSync(path, { recursive: true })
  return path
}

export function startServe(t: ExecutionContext, cwd: string, args: readonly string[], options: object = {}): Running {
  return begin(t, 'fdpass', ['serve', ...args], { cwd, ...options })
}

export function dial(to: string | number): Socket {
  return connect((typeof to === 'number' ? { port: to, host: '127.0.0.1' } : { path: to }) as NetConnectOpts)
}

/** Reads a connection up to its end. */
export async function answerOf(socket: Socket): Promise<string> {
  let answer = ''
  socket.setEncoding('utf8').on('data', (data: string) => (answer += data))
  await once(socket, 'end')
  return answer
}

export function askService(to: string | number, text = ''): Promise<string> {
  const socket = dial(to)
  if (text === '')
    socket.end() // a write of nothing fails too where a program has ended already
  else socket.end(text)
  return answerOf(socket)
}

/** A worker that answers with its pid and the request, after a delay where the request asks for one. */
export const workerProgram = `
import { connections } from 'fdpass/superserver'
for await (const connection of connections({ allowHalfOpen: true })) {
  let asked = ''
  connection.setEncoding('utf8').on('data', (data) => {
    asked += data
    if (data.includes('begin')) connection.write('begun')
  })
  connection.on('end', () => connection.end(process.pid + ' ' + process.argv.slice(2).join() + ' ' + asked))
}
`

export function folderWithWorker(): string {
  const cwd = folderInPackage()
  writeFileSync(join(cwd, 'worker.mjs'), workerProgram)
  return cwd
}

export const succeeded = { code: 0, signal: null, stdout: '', stderr: '' }

/** Starts a store in a folder; resolves when it serves. */
export async function startStore(
  t: ExecutionContext,
  cwd: string,
  args: readonly string[] = [],
  options: object = {}
): Promise<Running> {
  const running = begin(t, 'fdpass', ['store', 'serve', './s.sock', ...args], { cwd, ...options })
  await running.printed(/^fdpass: store serve: Listening on unix:.*\/s\.sock\n/m)
  return running
}

/** A folder with two files, and a store. */
export async function folderWithStore(t: ExecutionContext, ...args: readonly string[]): Promise<string> {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  writeFileSync(join(cwd, 'b'), 'content of b')
  await startStore(t, cwd, args)
  return cwd
}

/** Asks the store of a folder. */
export function runStore(t: ExecutionContext, cwd: string, verb: string, ...args: readonly string[]): Promise<Ended> {
  return fdpass(t, ['store', verb, './s.sock', ...args], { cwd })
}
