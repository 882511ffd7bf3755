import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { type NetConnectOpts, type Socket, connect } from 'node:net'
import { join, resolve } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Running, begin } from './cli.ts'

export let folders = 0

/** A folder inside the package, so that workers find `fdpass` by its name. */
export function folder(): string {
  const path = resolve('build', 'cli-serve', `${process.pid}-${folders++}`)
  mkdirSync(path, { recursive: true })
  return path
}

export function serve(t: ExecutionContext, cwd: string, args: readonly string[], options: object = {}): Running {
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

export function ask(to: string | number, text = ''): Promise<string> {
  const socket = dial(to)
  if (text === '')
    socket.end() // a write of nothing fails too where a program has ended already
  else socket.end(text)
  return answerOf(socket)
}

/** A worker that answers with its pid and the request, after a delay where the request asks for one. */
export const worker = `
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

export function withWorker(): string {
  const cwd = folder()
  writeFileSync(join(cwd, 'worker.mjs'), worker)
  return cwd
}
