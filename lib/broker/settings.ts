import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { invalidType, invalidValue, type Identity, identityOf } from '../base/internal.ts'
import { type BrokerPolicy, policyOf } from './policy.ts'
import { parseService } from './service-address.ts'

/** The files and services that a broker opens for its clients. */
export interface BrokerOffer {
  /**
   * The directories that files are opened beneath (default: none, so no file can be opened). Each is opened once, at the
   * start: replacing its path later has no effect.
   */
  roots?: readonly string[] | undefined
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
  readonly services: readonly string[]
  readonly policy: PolicyLocation
  readonly identity: Identity | undefined
}

/** Returns the `roots` option as absolute paths. */
export function rootsOf(roots: unknown): readonly string[] {
  return textsOf('options.roots', roots).map((path, index) => {
    if (path === '' || path.includes('\0'))
      throw invalidValue(`options.roots[${index}]`, 'must be a path, not empty and without a NUL')
    return resolve(path)
  })
}

/** Returns the `services` option, validated. */
export function servicesOf(services: unknown): readonly string[] {
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
  options: BrokerOffer & { user?: unknown; group?: unknown; allow?: unknown }
): [Settings, BrokerPolicy | undefined] {
  const { roots, services, user, group, allow } = options
  const offer = { roots: rootsOf(roots), services: servicesOf(services) }
  const identity = identityOf(user, group)
  if (allow === undefined) return [{ ...offer, identity, policy: 'none' }, undefined]
  if (typeof allow === 'string' || allow instanceof URL) {
    return [{ ...offer, identity, policy: { module: moduleOf(allow) } }, undefined]
  }
  if (typeof allow !== 'function') {
    throw invalidType('options.allow', 'of type function or string or an instance of URL', allow)
  }
  return [{ ...offer, identity, policy: 'caller' }, policyOf('options.allow', allow)]
}

function moduleOf(allow: string | URL): string {
  if (allow instanceof URL) return allow.href
  if (allow === '') throw invalidValue('options.allow', 'must not be empty')
  return /^(?:file|data|node):/.test(allow) ? allow : pathToFileURL(resolve(allow)).href
}
