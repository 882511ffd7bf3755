import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Ended, type Running, begin, fdpass, sandbox } from './cli.ts'

export const done = { code: 0, signal: null, stdout: '', stderr: '' }

/** Starts a store in a folder; resolves when it serves. */
export async function serve(
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
export async function withStore(t: ExecutionContext, ...args: readonly string[]): Promise<string> {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  writeFileSync(join(cwd, 'b'), 'content of b')
  await serve(t, cwd, args)
  return cwd
}

/** Asks the store of a folder. */
export function ask(t: ExecutionContext, cwd: string, verb: string, ...args: readonly string[]): Promise<Ended> {
  return fdpass(t, ['store', verb, './s.sock', ...args], { cwd })
}
