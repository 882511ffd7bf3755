import type { InspectOptions, inspect } from 'node:util'

/** The key of the method that `util.inspect` and `console.log` call, in Node, Bun and Deno. */
export const inspection: unique symbol = Symbol.for('nodejs.util.inspect.custom') as never

/** The arguments of that method. */
export type InspectionArguments = [depth: number, options: StylizedOptions, show: typeof inspect]

/** Not the type of @types/node, which has other names in other versions. */
interface StylizedOptions extends InspectOptions {
  stylize(text: string, style: 'special'): string
}

/** Returns what `util.inspect` shows of an object: its class, and what `state` returns, which throws for a prototype. */
export function inspected(name: string, state: () => object, [depth, options, show]: InspectionArguments): string {
  if (depth < 0) return options.stylize(`[${name}]`, 'special')
  let shown = {}
  try {
    shown = state()
  } catch {
    // A prototype has no state.
  }
  return `${name} ${show(shown, { ...options, depth })}`
}

/** Returns the state of an object that can be closed, for {@link inspected}. */
export function stateOf({ closed }: { readonly closed: boolean }): 'open' | 'closed' {
  return closed ? 'closed' : 'open'
}

/**
 * The value of a property that makes `structuredClone` and `postMessage` throw a DataCloneError with this text: no runtime clones a symbol.
 * `worker_threads.markAsUncloneable` needs no property, but Node 20 lacks it, and it takes 40 ns in Node and 700 ns in Deno for each object;
 * the property takes 1 ns.
 *
 * Each copy of the package has a symbol of its own.
 */
export const uncloneable: unique symbol = Symbol('an object of fdpass: send its descriptor with sendFd()')

/** Returns whether a value belongs to another copy of the package in this process. */
export function isOfAnotherCopy(value: object): boolean {
  if (!('uncloneable' in value) || typeof value.uncloneable !== 'symbol') return false
  return value.uncloneable !== uncloneable && value.uncloneable.description === uncloneable.description
}
