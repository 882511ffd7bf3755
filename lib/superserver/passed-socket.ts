import type { ListeningSocket } from '../socket/internal.ts'

/** The environment variables that a superserver sets for its workers, beside `FDPASS_WORKER`. */
export const LISTEN = 'FDPASS_LISTEN'
/** The time that a worker has to finish its connections, in milliseconds. */
export const DRAIN_TIMEOUT = 'FDPASS_DRAIN_TIMEOUT'
/** When a worker that listens by itself is ready: see {@link ReadyCondition}. */
export const READY = 'FDPASS_READY'
/** The place of a worker among those of its service, under the name that PM2 and many programs use. */
export const PLACE = 'NODE_APP_INSTANCE'
/** The port of the first TCP source. Many programs listen on it. */
export const PORT = 'PORT'

/** When a worker with `preload` is ready: when it listens, or when it calls `process.send('ready')`. */
export type ReadyCondition = 'listening' | 'message'

/** What a program listens on in place of a source: a port, or `'*'` for whatever it listens on first. */
export type ListenAlias = number | '*'

/** A socket that the superserver listens on for a worker, as `FDPASS_LISTEN` describes it. */
export interface PassedSocket {
  /** Its source in the superserver's options. */
  readonly name: string
  /** Its IP address and port; absent for a Unix domain socket. */
  readonly address?: string | undefined
  readonly port?: number | undefined
  /** Whether it receives datagrams. */
  readonly datagrams?: boolean | undefined
  /** Its path; an abstract address begins with NUL. */
  readonly path?: string | undefined
  /** What the program listens on in its place. */
  readonly as?: ListenAlias | undefined
}

/** Describes a socket for a worker. */
export function describe(
  { name, address }: Pick<ListeningSocket, 'name' | 'address'>,
  as: ListenAlias | undefined,
  datagrams: boolean
): PassedSocket {
  const where =
    typeof address === 'string' ? { path: address } : address && { address: address.address, port: address.port }
  return { name, ...where, ...(as !== undefined && { as }), ...(datagrams && { datagrams }) }
}

/** Returns the description of a socket in the notation of `listen`, with what the program listens on in its place. */
export function displayPassed({ name, as }: PassedSocket): string {
  const shown = name.replace('\0', '@')
  return as === undefined ? shown : `${shown}=${as}`
}

/** Returns the variables of a worker in the form of execve(2). `own` are those that the user has set for it. */
export function variablesOf(
  passed: readonly PassedSocket[],
  drainTimeout: number,
  place: number,
  ready: ReadyCondition,
  own: readonly string[]
): string[] {
  const port = passed.find((one) => one.port !== undefined && one.datagrams !== true)
  const usual = port === undefined || own.some((variable) => variable.startsWith(`${PORT}=`)) ? [] : [portOf(port)]
  return [
    ...own,
    `${LISTEN}=${JSON.stringify(passed)}`,
    `${DRAIN_TIMEOUT}=${drainTimeout}`,
    `${PLACE}=${place}`,
    ...(ready === 'message' ? [`${READY}=${ready}`] : []),
    ...usual.map((number) => `${PORT}=${number}`)
  ]
}

function portOf({ as, port }: PassedSocket): number {
  return typeof as === 'number' ? as : port!
}

/** Takes what the superserver has set for this process out of its environment: its own child processes are no workers. */
export function takePassed(): readonly PassedSocket[] {
  const { [LISTEN]: value } = process.env
  delete process.env[LISTEN]
  return value === undefined ? [] : (JSON.parse(value) as PassedSocket[])
}

/** Takes the condition for this process to be ready out of its environment. */
export function takeReadyCondition(): ReadyCondition {
  const { [READY]: value } = process.env
  delete process.env[READY]
  return value === 'message' ? value : 'listening'
}
