import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { type Ended, type Running, begin, fdpass, sandbox } from './cli.ts'

/** A folder with two files. */
export function files(): string {
  const cwd = sandbox()
  writeFileSync(join(cwd, 'a'), 'content of a')
  writeFileSync(join(cwd, 'b'), 'content of b')
  return cwd
}

/** Starts `fdpass recv`. */
export function receiver(t: ExecutionContext, cwd: string, args: readonly string[], options: object = {}): Running {
  return begin(t, 'fdpass', ['recv', './x.sock', ...args], { cwd, ...options })
}

/** Sends by `fdpass send`, as soon as there is a listener. */
export function send(t: ExecutionContext, cwd: string, args: readonly string[], options: object = {}): Promise<Ended> {
  return fdpass(t, ['send', '--wait', '20', './x.sock', ...args], { cwd, ...options })
}
