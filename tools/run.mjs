import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The project's folder. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)))

const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** The entry points by name: their paths below dist/ without an extension (`broker`: `lib/broker/index`). */
export const entryPoints = Object.fromEntries(
  Object.entries(exports)
    .filter(([, target]) => typeof target === 'object')
    .map(([subpath, { default: path }]) => [
      subpath === '.' ? 'index' : subpath.replace('./', ''),
      path.replace('./dist/', '').replace('.js', '')
    ])
)

/** Runs a command in the project's folder; returns its exit code and its standard output, which `show` also prints. */
export function run(command, args, { env = {}, show = true } = {}) {
  const child = spawn(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text
    if (show) process.stdout.write(text)
  })
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: error.code, output }))
    child.on('close', (code) => resolve({ code, output }))
  })
}

/** Returns the sum of the numbers that a pattern captures. */
export function sum(output, pattern) {
  return [...output.matchAll(pattern)].reduce((total, [, number]) => total + Number(number), 0)
}
