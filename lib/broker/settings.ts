import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import {
  MAX_INT,
  boolean,
  checkRuntime,
  integer,
  invalidType,
  invalidValue,
  type Identity,
  identityOf
} from '../base/internal.ts'
import { type BrokerPolicy, policyOf } from './policy.ts'
import { parseService } from './service-sockets.ts'

/** The files and services that a broker opens for its clients. */
export interface BrokerOffer {
  /**
   * The directories that files are opened beneath (default: none, so no file can be opened). Each is opened once, at the
   * start: replacing its path later has no effect. Files that show the state of the kernel and of processes, as those of procfs,
   * sysfs and cgroups, are opened only beneath a root on that file system, such as `'/proc'`.
   */
  roots?: readonly string[] | undefined
  /**
   * Whether directories are opened for clients (default false). A directory's descriptor lets a client whose root directory
   * differs (chroot(2)) leave it: openat(2) from there resolves `..` beyond the broker's root.
   */
  directories?: boolean | undefined
  /**
   * The time for each step of opening a file, in milliseconds (default 10,000). File systems in user space (FUSE) and on other
   * machines can block it. The client gets `ETIMEDOUT`, and other users are not delayed. After 8 such calls of one user, this
   * user gets `EAGAIN` until one of them ends.
   */
  openTimeout?: number | undefined
  /**
   * The exact addresses that can be connected to and listened on: `'tcp:HOST:PORT'` (IPv6 addresses in brackets),
   * `'unix:PATH'`, or a path or abstract address alone (default: none).
   */
  services?: readonly string[] | undefined
}

/** The location of a helper's policy: the default policy, the parent process, or a module. */
export type PolicyLocation = 'none' | 'caller' | { readonly module: string }

/** The settings that a helper receives at its start. */
export interface Settings {
  readonly roots: readonly string[]
  readonly directories: boolean
  readonly openTimeout: number
  readonly services: readonly string[]
  readonly policy: PolicyLocation
  readonly readyTimeout: number
  readonly identity: Identity | undefined
}

const DEFAULT_OPEN_TIMEOUT = 10_000
const DEFAULT_READY_TIMEOUT = 30_000

/** Returns the options of a broker, validated: the roots as absolute paths. */
export function offerOf(options: BrokerOffer): Omit<Settings, 'policy' | 'identity' | 'readyTimeout'> {
  const { roots, services, directories = false, openTimeout = DEFAULT_OPEN_TIMEOUT } = options
  return {
    roots: rootsOf(roots),
    services: servicesOf(services),
    directories: boolean('options.directories', directories),
    openTimeout: integer('options.openTimeout', openTimeout, 1, MAX_INT)
  }
}

/** Returns the `roots` option as absolute paths. */
function rootsOf(roots: unknown): readonly string[] {
  return textsOf('options.roots', roots).map((path, index) => {
    if (path === '' || path.includes('\0'))
      throw invalidValue(`options.roots[${index}]`, 'must be a path, not empty and without a NUL')
    return resolve(path)
  })
}

/** Returns the `services` option, validated. */
function servicesOf(services: unknown): readonly string[] {
  const names = textsOf('options.services', services)
  names.forEach((name, index) => parseService(`options.services[${index}]`, name, 'connect'))
  return names
}

function textsOf(name: string, value: unknown): readonly string[] {
  if (value === undefined) return []
  if (!Array.isArray(value)) throw invalidType(name, 'an instance of Array', value)
  for (const [index, text] of value.entries()) {
    if (typeof text !== 'string') throw invalidType(`${name}[${index}]`, 'of type string', text)
  }
  return [...(value as string[])]
}

/** Returns the settings of a helper, and the policy if it is a function of this process. */
export function settingsOf(
  options: BrokerOffer & { user?: unknown; group?: unknown; allow?: unknown; readyTimeout?: unknown }
): [Settings, BrokerPolicy | undefined] {
  const { user, group, allow, readyTimeout = DEFAULT_READY_TIMEOUT } = options
  const identity = identityOf(user, group)
  if (identity !== undefined) {
    checkRuntime('Deno', 'options.user and options.group need Node or Bun: Deno has no process.setgroups()')
  }
  const settings = {
    ...offerOf(options),
    identity,
    readyTimeout: integer('options.readyTimeout', readyTimeout, 1, MAX_INT)
  }
  if (allow === undefined) return [{ ...settings, policy: 'none' }, undefined]
  if (typeof allow === 'string' || allow instanceof URL) {
    return [{ ...settings, policy: { module: moduleOf(allow) } }, undefined]
  }
  if (typeof allow !== 'function') {
    throw invalidType('options.allow', 'of type function or string or an instance of URL', allow)
  }
  return [{ ...settings, policy: 'caller' }, policyOf('options.allow', allow)]
}

function moduleOf(allow: string | URL): string {
  if (allow instanceof URL) return allow.href
  if (allow === '') throw invalidValue('options.allow', 'must not be empty')
  return /^(?:file|data|node):/.test(allow) ? allow : pathToFileURL(resolve(allow)).href
}
