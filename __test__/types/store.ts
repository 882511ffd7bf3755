import type { Descriptor } from 'fdpass'
import * as stores from 'fdpass/store'
import type { GetOptions, PutOptions, ServeStoreOptions, StoreEntry } from 'fdpass/store'
import { exactly, same } from './exactly.ts'

same<keyof typeof stores, 'Store' | 'StoreService' | 'connectStore' | 'serveStore'>()

export type Types = [GetOptions, PutOptions]

declare const descriptor: Descriptor

/** A store, and a client of it. */
export async function keep(): Promise<void> {
  const options: ServeStoreOptions = {
    path: '/run/store.sock',
    mode: 0o660,
    allow: async ({ uid }) => uid === 0,
    maxFds: 10,
    maxPerUser: 5,
    takeover: '\0takeover',
    signal: AbortSignal.timeout(1)
  }
  using service = await stores.serveStore(options)
  exactly<stores.StoreService>()(service)
  exactly<string>()(service.address)
  exactly<boolean>()(service.closed)
  exactly<Promise<void>>()(service.superseded)
  using store = await stores.connectStore('/run/store.sock', { signal: AbortSignal.timeout(1) })
  exactly<stores.Store>()(store)
  exactly<void>()(await store.put('x', descriptor, { expires: 5, mode: 0o640, group: 'www', replace: true }))
  await store.put('x', [descriptor, 5] as const, { group: 5 })
  exactly<readonly Descriptor[]>()(await store.get('x', { remove: true }))
  exactly<readonly StoreEntry[]>()(await store.list())
  exactly<void>()(await store.delete('x'))
  // @ts-expect-error a name is needed
  await store.put(descriptor)
  // @ts-expect-error the path is needed
  await stores.serveStore({})
  // @ts-expect-error connectStore() makes it
  new stores.Store('x')
}
