// The requests of a store's clients, over a channel: PROTOCOL.md, "Store".

/** The maximum number of descriptors of an entry. */
export const MAX_ENTRY_FDS = 253

/** The maximum length of a message, in bytes. */
export const MAX_BYTES = 4 * 1024 * 1024

/** A request. */
export type StoreRequest =
  | {
      readonly ask: 'put'
      readonly name: string
      /** The time until it expires, in milliseconds; null for never. */
      readonly expires: number | null
      readonly mode: number
      /** The gid of its group; null for the client's own. */
      readonly group: number | null
      readonly replace: boolean
    }
  | { readonly ask: 'get'; readonly name: string; readonly remove: boolean }
  | { readonly ask: 'list' }
  | { readonly ask: 'delete'; readonly name: string }

/** The code of the error that directs a client to the successor, at the same address. */
export const MOVED = 'ERR_STORE_MOVED'
