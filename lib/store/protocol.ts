// What a client asks a store for, over a channel: PROTOCOL.md, "Store".

/** The most descriptors of an entry. */
export const MAX_ENTRY_FDS = 253

/** The most bytes of a message. */
export const MAX_BYTES = 4 * 1024 * 1024

/** Requests. */
export type StoreRequest =
  | {
      readonly ask: 'put'
      readonly name: string
      /** How long it is kept, in milliseconds; null for ever. */
      readonly expires: number | null
      readonly mode: number
      /** The number of its group; null for the client's own. */
      readonly group: number | null
      readonly replace: boolean
    }
  | { readonly ask: 'get'; readonly name: string; readonly remove: boolean }
  | { readonly ask: 'list' }
  | { readonly ask: 'delete'; readonly name: string }

/** The code of the error by which a store sends a client to its successor, at the same address. */
export const MOVED = 'ERR_STORE_MOVED'
