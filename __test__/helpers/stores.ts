import { closeSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import { type ServeStoreOptions, type Store, type StoreService, connectStore, serveStore } from 'fdpass/store'
import { openFile, readAll, newPath } from './descriptors.ts'

export async function open(t: ExecutionContext, options: ServeStoreOptions): Promise<StoreService> {
  const service = await serveStore(options)
  t.teardown(() => service.close())
  return service
}

/** A store, and a client of it. */
export async function begin(t: ExecutionContext, options: Partial<ServeStoreOptions> = {}): Promise<[Store, string]> {
  const path = newPath()
  await open(t, { path, ...options })
  return [await client(t, path), path]
}

export async function client(t: ExecutionContext, path: string): Promise<Store> {
  const store = await connectStore(path)
  t.teardown(() => store.close())
  return store
}

/** Has a file kept, and closes it here. */
export async function put(store: Store, name: string, content: string, options = {}): Promise<void> {
  const file = openFile(content)
  const kept = store.put(name, file, options)
  closeSync(file) // at once
  await kept
}

/** What the file holds that is kept under a name. */
export async function get(store: Store, name: string, options = {}): Promise<string> {
  const [fd] = await store.get(name, options)
  const content = readAll(fd!.fd)
  fd!.closeSync()
  return content
}
