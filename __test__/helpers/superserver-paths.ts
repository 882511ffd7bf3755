import { once } from 'node:events'
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import type { ProcessEvent, Superserver } from 'fdpass/superserver'
import { temporaryFolder } from './descriptors.ts'

export const handoffs = ['connection', 'listener'] as const

export const folder = temporaryFolder()

chmodSync(folder, 0o755)

export let paths = 0

export const newPath = () => join(folder, `path-${paths++}`)

/** The next event of a process, or of one that is awaited. */
export async function nextOf<E extends ProcessEvent>(
  server: Superserver,
  name: 'spawn' | 'ready' | 'exit'
): Promise<E> {
  return ((await once(server, name)) as [E])[0]
}
