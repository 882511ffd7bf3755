// What was measured on: for the results.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { bench } from './build.mjs'

/** The first line that a command prints, or why it cannot be run. */
function firstLine(...commands) {
  for (const [command, ...args] of commands) {
    try {
      return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n')[0]
    } catch {
      // the next one
    }
  }
  return 'none'
}

export function machine() {
  const { version } = JSON.parse(readFileSync(join(bench, '../package.json'), 'utf8'))
  return {
    CPU: `${cpus()[0].model.trim()}, ${cpus().length} logical cores`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    kernel: `Linux ${release()}`,
    fdpass: `${version}, commit ${firstLine(['git', '-C', bench, 'describe', '--always', '--dirty'])}`,
    Node: `${process.version}, libuv ${process.versions.uv}, V8 ${process.versions.v8}`,
    C: firstLine(['cc', '--version']),
    Rust: firstLine(['rustc', '--version']),
    Go: firstLine(['go', 'version']),
    Python: firstLine(['python3', '--version'])
  }
}
