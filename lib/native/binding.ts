import { createRequire } from 'node:module'
import type * as Binding from '#binding'
import { bytes, fds, outcome, batch, name, turn } from './shared-memory.ts'

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

export const binding = load()

/** Whether descriptors can be passed here: false on Windows, and where no prebuilt binary fits. */
export const isSupported: boolean = binding !== undefined

/** The native calls; `openNative` sets them. */
export let native: Binding.Environment & Binding.HotCalls

/** Called when the shared memory holds an event: a socket's number, what it is ready and what it is still armed for. */
export type Dispatch = () => void

/**
 * Open the native half of this environment, once; gives why that failed. Only where `isSupported`.
 *
 * The back end is libuv's `uv_poll` where it works. Bun exports one that aborts the process and Deno one that fires
 * once, so that the runtime is asked for its name before any libuv function is called. FDPASS_BACKEND chooses for
 * tests.
 */
export function openNative(dispatch: Dispatch): Binding.SystemFailure | undefined {
  if (native !== undefined) return undefined
  const opened = binding!.openEnvironment(backend(), dispatch, { bytes, fds, outcome, batch, name, turn })
  if ('errno' in opened) return opened
  native = Object.assign(opened.environment, opened.hotCalls)
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
  return binding?.errnoText(errno) ?? { name: `E${errno}`, text: 'unknown error' }
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

/** Prevents other processes of this user from tracing this one. Returns 0 or a negative error number. */
export function setUndumpable(): number {
  return binding!.setUndumpable()
}

/** The number of a resource limit by its name in lower case; negative where this system has no such. */
export function resourceByName(resource: string): number {
  return binding!.resourceByName(resource)
}

export type { ExitStatus, InternetAddress, ProgramDescription, ServiceEvent, ServiceState } from '#binding'
