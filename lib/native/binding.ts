import { createRequire } from 'node:module'
import type * as Binding from '#binding'
import { bytes, fds, outcome, batch, name, turn } from './shared-memory.ts'

/** The loader's error, if the binary could not be loaded. */
export let loadFailure: unknown

// The binary's package on most machines. napi-rs' loader, which tries all places, takes five times as long.
const usualPackage =
  process.env.NAPI_RS_NATIVE_LIBRARY_PATH ??
  `fdpass-${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`

function load(): typeof Binding | undefined {
  if (process.platform === 'win32') return undefined // AF_UNIX of Windows carries no descriptors
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

/** Whether descriptors can be passed on this platform: false on Windows, and without a binary for the platform. */
export const isSupported: boolean = binding !== undefined

/** The native calls; `openNative` sets them. */
export let native: Binding.Environment & Binding.HotCalls

/** Called when the shared memory holds an event: a descriptor, the events that it is ready for, and those that it is still armed for. */
export type Dispatch = () => void

/**
 * Opens the native half of this environment, once; returns the failure if it fails. Requires `isSupported`.
 *
 * The back end is libuv's `uv_poll` if it works. Bun exports one that aborts the process, and Deno one that fires once, so the runtime's
 * name is checked before any libuv function is called. FDPASS_BACKEND selects a back end for tests.
 */
export function openNative(dispatch: Dispatch): Binding.SystemFailure | undefined {
  if (native !== undefined) return undefined
  const opened = binding!.openEnvironment(backend(), dispatch, { bytes, fds, outcome, batch, name, turn })
  if ('errno' in opened) return opened
  native = Object.assign(opened.environment, opened.hotCalls)
  return undefined
}

/** Probes the features of the kernel, each time. Requires `isSupported`. */
export function probeKernel(): Binding.KernelCapabilities {
  return binding!.probeKernel()
}

/** Returns the back end of this environment. Requires `isSupported`. */
export function backend(): Binding.Backend {
  const chosen = process.env.FDPASS_BACKEND
  if (chosen === 'uv' || chosen === 'thread') return chosen
  const { bun, deno } = process.versions as Record<string, string | undefined>
  return bun === undefined && deno === undefined && binding!.uvSupported() ? 'uv' : 'thread'
}

/** Returns the name and the text of a positive error number. */
export function describeErrno(errno: number): Binding.ErrnoText {
  return binding?.errnoText(errno) ?? { name: `E${errno}`, text: 'unknown error' }
}

/** Looks a user up by name or id. Returns null if there is none, and a negative error number if the lookup fails. */
export function findUser(user: string | number): Binding.UserEntry | number | null {
  return binding!.findUser(user)
}

/** Looks a group up by name. Returns null if there is none, and a negative error number if the lookup fails. */
export function findGroup(group: string): number | null {
  return binding!.findGroup(group)
}

/** Replaces this process by a program with fewer privileges. Returns a negative error number if that fails. */
export function executeRestricted(changesUser: boolean, first: number, path: string, args: string[]): number {
  return binding!.executeRestricted(changesUser, first, path, args)
}

/** Replaces this process by a program with descriptors from 0 on. Returns the failure if nothing but the mode of the standard streams has changed; any later one ends the process. */
export function executeProgram(program: Binding.ProgramDescription, numbers: number[]): Binding.SystemFailure {
  return binding!.executeProgram(program, numbers)
}

/** Prevents other processes of this user from tracing this one. Returns 0 or a negative error number. */
export function setUndumpable(): number {
  return binding!.setUndumpable()
}

/** Makes `process.exit` end this process by a signal. Returns 0 or a negative error number. */
export function endBySignalAtExit(signal: number): number {
  return binding!.endBySignalAtExit(signal)
}

/** Returns the number of a resource limit by its name in lower case; negative if this system does not have it. */
export function resourceByName(resource: string): number {
  return binding!.resourceByName(resource)
}

export type { BlockingOpen, ExitStatus, InternetAddress, ProgramDescription, ServiceEvent, ServiceState } from '#binding'
