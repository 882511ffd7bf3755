import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { invalidType, invalidValue, type Identity, identityOf } from '../base/internal.ts'
import { type BrokerPolicy, policyOf } from './policy.ts'
import { parseService } from './service-address.ts'

/** What a broker offers. */
export interface BrokerOffer {
  /**
   * The directories beneath which files are opened. Each is opened once, at the start: what is at its path later does not
   * matter. Without any no file is opened.
   */
  roots?: readonly string[] | undefined
  /**
   * What may be connected to and listened on, exactly: `'tcp:HOST:PORT'` (an IPv6 address in brackets), `'unix:PATH'`, or
   * a path or abstract address alone.
   */
  services?: readonly string[] | undefined
}

/** Where the policy of a helper is. */
export type PolicyLocation = 'none' | 'caller' | { readonly module: string }

/** What a helper is told at its start. */
export interface Settings {
  readonly roots: readonly string[]
  readonly services: readonly string[]
  readonly policy: PolicyLocation
  readonly identity: Identity | undefined
}

/** The roots among the options, as absolute paths. */
export function rootsOf(roots: unknown): readonly string[] {
  return textsOf('options.roots', roots).map((path, index) => {
    if (path === '' || path.includes('\0')) throw invalidValue(`options.roots[${index}]`, 'must be a path')
    return resolve(path)
  })
}

/** The services among the options. */
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

/** What a helper is told, and the policy that stays here, if one does. */
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
