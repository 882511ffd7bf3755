import { createRequire } from 'node:module'
import type * as Binding from '#binding'

/** Why the binary could not be loaded, where it could not. */
export let loadFailure: unknown

// The binary's package on most machines: without it napi-rs' loader, which takes five times as long, looks everywhere and tells of it.
const usualPackage =
  process.env.NAPI_RS_NATIVE_LIBRARY_PATH ??
  `fdpass-${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`

function load(): typeof Binding | undefined {
  if (process.platform === 'win32') return undefined // its AF_UNIX carries no descriptors
  const require = createRequire(import.meta.url)
  try {
    return require(usualPackage) as typeof Binding
  } catch {}
  try {
    return require('#binding') as typeof Binding
  } catch (error) {
    loadFailure = error
    return undefined
  }
}

const binding = load()

/** Whether descriptors can be passed here: false on Windows, and where no prebuilt binary fits. */
export const isSupported: boolean = binding !== undefined

/** What a call gives when the reactor will say that it can be made again. */
export const AGAIN = binding?.AGAIN
/** What a call gives when it should be made again after a pause, as no event will announce it. */
export const BUSY = binding?.BUSY
/** What a receive gives at the end of a connection. */
export const END = binding?.END
/** What a channel gives when its peer does not keep to the protocol or the limits. */
export const BROKEN = binding?.BROKEN
/** Something can be received. */
export const READABLE = binding?.READABLE ?? 0
/** Something can be sent. */
export const WRITABLE = binding?.WRITABLE ?? 0
/** The most descriptors that one message may carry. */
export const MAX_SENT_FDS = binding?.MAX_SENT_FDS ?? 0
/** The most descriptors that the kernel can deliver in one message. */
export const MAX_RECEIVED_FDS = binding?.MAX_RECEIVED_FDS ?? 0
/** The most descriptors that one message of a channel may have. */
export const MAX_CHANNEL_FDS = binding?.MAX_CHANNEL_FDS ?? 0
/** The most bytes of a socket's path. */
export const MAX_PATH = binding?.MAX_PATH ?? 0

// Memory shared with the native calls: a call over it makes no values.
/** The most bytes that one receive puts into the shared memory. */
export const MOST_BYTES = 65_536
/** The bytes of a small message to be sent, or of those received. */
export const bytes: Uint8Array = new Uint8Array(2 * MOST_BYTES)
/** The same memory, with the calls between strings and bytes. */
export const text: Buffer = Buffer.from(bytes.buffer)
/** Copying so few bytes one by one costs less than a call that copies, or than telling the native side of an array. */
export const SMALL = 64
/** Descriptor numbers, in either direction. */
export const fds: Int32Array = new Int32Array(4096)
/**
 * What a receive tells beside its count: the number of descriptors, what became of them, the packet's size; what else
 * came, the sender's pid, uid, gid and pidfd; the length of its address.
 */
export const outcome: Int32Array = new Int32Array(9)
/** How many messages a receive of several gave, at most 64, and of each how many bytes and descriptors. */
export const batch: Int32Array = new Int32Array(1 + 2 * 64)
/** An address, in either direction, or the name of a memfd. */
export const name: Uint8Array = new Uint8Array(256)
/** Whether a callback of the event loop is running, how many sockets hold the process, and an event. */
export const turn: Int32Array = new Int32Array(5)

/** The native calls; `openNative` sets them. */
export let native: Binding.Calls

/** Called when the shared memory holds an event: a socket's number, what it is ready and what it is still armed for. */
export type Dispatch = () => void

/**
 * Open the native half of this environment, once; gives why that failed. Only where `isSupported`.
 *
 * The back end is libuv's `uv_poll` where it works. Bun exports one that aborts the process and Deno one that fires
 * once, so that the runtime is asked for its name before any libuv function is called. FDPASS_BACKEND chooses for
 * tests.
 */
export function openNative(dispatch: Dispatch): Binding.OpenFailure | undefined {
  if (native !== undefined) return undefined
  const opened = binding!.openEnvironment(backend(), dispatch, { bytes, fds, outcome, batch, name, turn })
  if ('errno' in opened) return opened
  native = opened
  return undefined
}

/** What the kernel can do; it is tried out each time. Only where `isSupported`. */
export function probeKernel(): Binding.KernelCapabilities {
  return binding!.probeKernel()
}

/** The back end that this environment uses. Only where `isSupported`. */
export function backend(): Binding.Backend {
  const chosen = process.env.FDPASS_BACKEND
  if (chosen === 'uv' || chosen === 'thread') return chosen
  const { bun, deno } = process.versions as Record<string, string | undefined>
  return bun === undefined && deno === undefined && binding!.uvSupported() ? 'uv' : 'thread'
}

/** The name and the text of a positive error number. */
export function describeErrno(errno: number): Binding.ErrnoText {
  return binding?.describeErrno(errno) ?? { name: `E${errno}`, text: 'unknown error' }
}

/** Looks a user up, by name or number; null where there is none, and an error number, negative, where that cannot be told. */
export function findUser(user: string | number): Binding.UserEntry | number | null {
  return binding!.findUser(user)
}

/** Looks a group up by name, as `findUser`. */
export function findGroup(group: string): number | null {
  return binding!.findGroup(group)
}

/** Executes a program in this one's place, with fewer rights; an error number, negative, where that fails. */
export function executeRestricted(changesUser: boolean, first: number, path: string, args: string[]): number {
  return binding!.executeRestricted(changesUser, first, path, args)
}

/** Keeps other processes of this user from tracing this one. */
export function hide(): number {
  return binding!.hide()
}

/** The number of a resource limit by its name in lower case; negative where this system has no such. */
export function resourceByName(resource: string): number {
  return binding!.resourceByName(resource)
}

/** The system call of a step that a new process has failed at. */
export function describeStep(step: number): string {
  return binding!.describeStep(step)
}

export type { ProgramDescription, ServiceState } from '#binding'
