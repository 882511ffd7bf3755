// What every scenario of fault injection is made of: steps, what is kept until the end, and the report.
import { closeSync, openSync, readFileSync, readdirSync, readlinkSync, writeFileSync, writeSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { Descriptor, type UnixSocket } from 'fdpass'

/** What came of a step. */
export interface Step {
  readonly step: string
  readonly value?: unknown
  readonly error?: {
    readonly name: string
    readonly code: unknown
    readonly errno: unknown
    readonly syscall: unknown
    readonly text: string
  }
}

/** What a scenario prints. */
export interface Report {
  readonly steps: readonly Step[]
  /** What must not be, whatever fails. */
  readonly broken: readonly string[]
  /** What the descriptors are of that are open at the end, and were not at the beginning. */
  readonly left: readonly string[]
}

/** How long a step may take. */
const PATIENCE = 15_000

export const steps: Step[] = []

export const broken: string[] = []

export const kept: { close?(): unknown; closeSync?(): unknown; destroy?(): unknown }[] = []

let folder = ''

const links = () =>
  readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).replace(/\d+/g, '')
    } catch {
      return [] // that of reading the folder
    }
  })

function difference(now: readonly string[], before: readonly string[]): string[] {
  const rest = [...before]
  return now.filter((link) => {
    const place = rest.indexOf(link)
    if (place >= 0) rest.splice(place, 1)
    return place < 0
  })
}

let before: readonly string[] = []

function tell(): void {
  const report: Report = { steps, broken, left: difference(links(), before) }
  const line = Buffer.from(`${JSON.stringify(report)}\n`)
  for (let from = 0; from < line.length;) from += writeSync(1, line, from)
}

export function failed(name: string, error: unknown): void {
  const { name: kind, code, errno, syscall, message, stack } = error as NodeJS.ErrnoException
  // What is no error of the system, nor of Node's kind, is a bug: its place is wanted.
  const text = code === undefined ? String(stack) : message
  steps.push({ step: name, error: { name: kind, code, errno, syscall, text } })
}

process.on('unhandledRejection', (error) => broken.push(`unhandled rejection: ${(error as Error)?.stack}`))

process.on('uncaughtException', (error) => broken.push(`uncaught exception: ${error.stack}`))

/** The system error that the text of a warning reports. */
function systemError(code: string): Error {
  const errno = -constants.errno[code as keyof typeof constants.errno]
  return Object.assign(new Error(`${code}, as a warning`), { code, errno, syscall: 'accept' })
}

process.on('warning', (warning) => {
  // Failures of a superserver before it can have a 'failure' listener are warnings.
  const code = /^(?:service|store|broker): (E[A-Z0-9]+): /.exec(warning.message)?.[1]
  if (code !== undefined) failed('failure before there is a listener', systemError(code))
  else if (warning.name !== 'ExperimentalWarning') broken.push(`warning: ${warning.message}`)
})

/** Takes a step. Resolves to its value, or to undefined if it failed. */
export async function step<T>(
  name: string,
  action: () => T | Promise<T>,
  show?: (value: T) => unknown
): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, _reject) => {
    timer = setTimeout(() => {
      broken.push(`hangs: ${name}`)
      tell()
      process.exit(0)
    }, PATIENCE * pace)
  })
  try {
    const value = await Promise.race([action(), late])
    steps.push(show === undefined ? { step: name } : { step: name, value: show(value) })
    return value
  } catch (error) {
    failed(name, error)
    return undefined
  } finally {
    clearTimeout(timer)
  }
}

/** Closes something at the end. */
export function keep<T extends { close?(): unknown; closeSync?(): unknown; destroy?(): unknown }>(
  thing: T | undefined
): T | undefined {
  if (thing !== undefined) kept.push(thing)
  return thing
}

export const path = (name: string) => join(folder, name)

/** A file of Node's with this content; closed at the end. */
export function file(content: string): number {
  const name = path(`file-${content}`)
  writeFileSync(name, content)
  const fd = openSync(name, 'r')
  kept.push({ closeSync: () => closeSync(fd) })
  return fd
}

/** Reads the files of descriptors, and closes each descriptor, also if closing another one fails. */
export function contents(fds: readonly Descriptor[]): string {
  try {
    return fds.map(({ fd }) => readFileSync(`/proc/self/fd/${fd}`, 'utf8')).join()
  } finally {
    closeEach(fds)
  }
}

export function closeEach(fds: readonly Descriptor[]): void {
  let failure: unknown
  for (const fd of fds) {
    try {
      fd.closeSync()
    } catch (error) {
      failure = error
    }
  }
  if (failure !== undefined) throw failure as Error
}

export const text = (data: Uint8Array) => Buffer.from(data).toString()

/** Receives a message; on a stream, which may deliver it in parts, all of its bytes. */
export async function gather(socket: UnixSocket, length: number, signal: AbortSignal): Promise<unknown> {
  const fds: Descriptor[] = []
  let said = ''
  let uid: number | undefined
  try {
    do {
      const message = await socket.recv({ signal, maxBytes: 200_000 })
      if (message === null) break
      said += text(message.data)
      fds.push(...message.fds)
      uid ??= message.credentials?.uid
      message.pidfd?.closeSync()
    } while (socket.type === 'stream' && said.length < length)
  } catch (error) {
    contents(fds)
    throw error
  }
  return [said.length > 100 ? said.length : said, contents(fds), uid]
}

/**
 * Sends and receives at a time. Where the send fails, the receive is given up: nothing may come. A receive that fails after a send that
 * succeeded must be reported.
 */
export async function exchange<T>(
  name: string,
  send: () => Promise<unknown>,
  receive: (signal: AbortSignal) => Promise<T>,
  show: (value: T) => unknown
): Promise<void> {
  const controller = new AbortController()
  const receiving = step(`${name}: receive`, () => receive(controller.signal), show)
  const known = steps.length
  await step(`${name}: send`, send)
  if (steps.slice(known).some(({ step: sent, error }) => sent === `${name}: send` && error !== undefined)) {
    await Promise.race([receiving, pause(20)])
    controller.abort()
  }
  await receiving
}

export function keepPair(pair: [UnixSocket, UnixSocket] | undefined): [UnixSocket, UnixSocket] | undefined {
  pair?.forEach((end) => keep(end))
  return pair
}

/** Reads a Node stream up to its end; an error counts as the end. */
export async function read(stream: AsyncIterable<unknown>): Promise<string> {
  let said = ''
  try {
    for await (const chunk of stream) said += String(chunk)
  } catch (error) {
    said += ` ${(error as NodeJS.ErrnoException).code}`
  }
  return said
}

/** Records the events of a superserver. */
export function watch(server: import('fdpass/superserver').Superserver): void {
  server.on('failure', ({ error }) => failed('failure event', error))
  // A worker that fails prints the reason on its standard error.
  server.on('exit', ({ code, signal, lost }) => {
    if (code !== 0) steps.push({ step: 'exit event', value: [code, signal, lost] })
  })
}

/** Closes all that was kept. */
async function closeAll(): Promise<void> {
  for (const thing of kept.splice(0).toReversed()) {
    await step('closing', () => {
      if (thing.closeSync !== undefined) thing.closeSync()
      else if (thing.destroy !== undefined) thing.destroy()
      else thing.close!()
    })
  }
}

/** By how much the times of scenarios are extended: a number before the folder in a line of standard input. */
let pace = 1

/** Returns a signal for something that arrives at once, unless the fault prevents it. */
export function within(milliseconds: number): AbortSignal {
  return AbortSignal.timeout(milliseconds * pace)
}

/** Resolves when something would have happened that the fault may prevent. */
export function pause(milliseconds: number): Promise<void> {
  return delay(milliseconds * pace)
}

/** Runs a scenario for each line of standard input, which names a folder for it, and reports after each. */
export async function runInEachFolder(scenario: () => Promise<void>): Promise<void> {
  for await (const line of createInterface(process.stdin)) {
    const [extent, ...rest] = line.split(' ')
    pace = Number(extent)
    folder = rest.join(' ')
    before = links()
    await scenario()
    await closeAll()
    // Closes on other threads, closes of Node in the next turn, and rejections without a handler.
    for (let i = 0; i < 250 * pace && difference(links(), before).length > 0; i++) await delay(2)
    await new Promise(setImmediate)
    tell()
    steps.length = broken.length = 0
  }
}
