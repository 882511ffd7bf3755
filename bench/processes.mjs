// Programs that are measured: started, pinned, and looked at from outside.
import { spawn } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'

/** A program that takes longer hangs. */
const TIMEOUT = 120_000

const running = new Set()
process.on('exit', () => {
  for (const child of running) kill(child)
})
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))

/** Ends a program and all that it has started: each is a process group. */
function kill({ pid }) {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // it has ended
  }
}

/** A command on one CPU; as it is where `cpu` is undefined. */
export function pinned(command, cpu) {
  return cpu === undefined ? command : ['taskset', '-c', `${cpu}`, ...command]
}

function launch([command, ...args], options) {
  const child = spawn(command, args, { ...options, detached: true })
  running.add(child)
  const timer = setTimeout(() => kill(child), TIMEOUT)
  const errors = text(child.stderr)
  const ended = new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', async (code, signal) => {
      running.delete(child)
      clearTimeout(timer)
      if (code === 0) return resolve()
      const lines = (await errors).trim().split('\n')
      const reason = lines.find((line) => /error|abort|assert/i.test(line)) ?? lines.at(-1)
      reject(new Error(`${signal ?? `code ${code}`}${reason === '' ? '' : `: ${reason.trim()}`}`.slice(0, 200)))
    })
  })
  ended.catch(() => {}) // whoever waits has it
  return { child, ended }
}

/** Runs a program to its end; resolves to what it printed. */
export async function run(command, options = {}) {
  const { child, ended } = launch(command, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  const output = text(child.stdout)
  await ended
  return output
}

/** Runs a program to its end; resolves to the JSON of its last line. */
export async function runForJson(command) {
  const output = await run(command)
  return JSON.parse(output.trim().split('\n').at(-1))
}

/** A program that one talks with, line by line, until it is killed. */
export class Conversation {
  #lines
  #ended

  constructor(command, options = {}) {
    const { child, ended } = launch(command, { ...options, stdio: ['pipe', 'pipe', 'pipe'] })
    this.child = child
    this.#ended = ended
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    child.stdin.on('error', () => {}) // it has ended, which the next answer tells
  }

  get pid() {
    return this.child.pid
  }

  /** The next line that it prints. */
  async line() {
    const { value, done } = await this.#lines.next()
    if (!done) return value
    await this.#ended
    throw new Error('It has ended')
  }

  /** Writes a line; resolves to the one that answers it. */
  ask(question) {
    this.child.stdin.write(`${question}\n`)
    return this.line()
  }

  /** Resolves when it has ended by itself, and well. */
  ended() {
    return this.#ended
  }

  async end() {
    kill(this.child)
    await this.#ended.catch(() => {})
  }
}

/** The processes below one. */
export function childrenOf(pid) {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) => {
    const children = readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim()
    return children === '' ? [] : children.split(' ').map(Number)
  })
}

/** The seconds that the threads of a process have had a CPU: to the nanosecond, where /proc/PID/stat counts hundredths. */
export function cpuOf(pid) {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, task) => {
    const [nanoseconds] = readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')
    return sum + Number(nanoseconds) / 1e9
  }, 0)
}

/** A number of /proc/PID/status, in kB. */
export function statusOf(pid, key) {
  return Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1])
}

export function openDescriptorsOf(pid) {
  return readdirSync(`/proc/${pid}/fd`).length
}
