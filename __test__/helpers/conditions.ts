import { execFileSync, spawnSync } from 'node:child_process'
import test, { type ExecutionContext, type SerialFn, type TestFn } from 'ava'

export const isLinux = process.platform === 'linux'

/** A Python that has `socket.send_fds` and `socket.recv_fds`: 3.9 or later. */
export const hasPython = spawnSync('python3', ['-c', 'import socket; socket.send_fds']).status === 0

/** How many descriptors a process may have. */
export const fdLimit = Number(execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' })) || Infinity

/** `test` where a condition holds, and otherwise `test.skip` with the reason in the title. */
export function onlyIf(condition: boolean, reason: string, kind: TestFn | SerialFn = test) {
  return (title: string, body: (t: ExecutionContext) => void | Promise<void>) =>
    condition ? kind(title, body) : kind.skip(`${title} (skipped: ${reason})`, body)
}
