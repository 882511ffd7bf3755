import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import type { Descriptor } from 'fdpass'
import { type Broker, type StartBrokerOptions, startBroker } from 'fdpass/broker'
import { readAll, temporaryFolder } from './descriptors.ts'

/** A folder with a root in it, which anybody may read, and a secret beside the root. */
export function makeFolder(): { folder: string; root: string; inside: (path: string) => string } {
  const folder = temporaryFolder()
  const root = join(folder, 'inner')
  mkdirSync(join(root, 'folder'), { recursive: true })
  for (const path of [folder, root, join(root, 'folder')]) chmodSync(path, 0o755)
  mkdirSync(join(folder, 'outside'))
  for (const name of ['inner/file', 'inner/folder/file']) writeFileSync(join(folder, name), 'inside')
  writeFileSync(join(folder, 'outside/file'), 'outside')
  return { folder, root, inside: (path) => join(root, path) }
}

export async function begin(t: ExecutionContext, options: StartBrokerOptions): Promise<Broker> {
  const broker = await startBroker(options)
  t.teardown(() => broker[Symbol.asyncDispose]())
  return broker
}

export function contentOf(descriptor: Descriptor): string {
  using file = descriptor
  return readAll(file.fd)
}

export async function codeOf(promise: Promise<Descriptor>): Promise<string | undefined> {
  try {
    const descriptor = await promise
    descriptor.closeSync()
    return 'opened'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code
  }
}

export async function refused(t: ExecutionContext, promise: Promise<Descriptor>, about?: string): Promise<void> {
  t.is(await codeOf(promise), 'EACCES', about)
}
