/**
 * A store keeps descriptors for other processes, by name, across their restarts and its own.
 *
 * - The store: {@link serveStore} with {@link StoreService}
 * - Its clients: {@link connectStore} with {@link Store}
 *
 * @module fdpass/store
 */
import '../stream/index.ts' // adds the casts to Descriptor and UnixSocket
export { StoreService, serveStore } from './service.ts'
export type { ServeStoreOptions } from './settings.ts'
export { type GetOptions, type PutOptions, Store, type StoreEntry, connectStore } from './store.ts'
