// Memory shared with the native calls: a call over it creates no JavaScript values. Read results through results.ts.
/** The maximum number of bytes that one receive puts into the shared memory. */
export const MOST_BYTES = 65_536
/** The bytes of a small message to send, or of received messages. */
export const bytes: Uint8Array = new Uint8Array(2 * MOST_BYTES)
/** The same memory as a Buffer, which converts between strings and bytes. */
export const text: Buffer = Buffer.from(bytes.buffer)
/** Copying at most this many bytes one by one costs less than a call that copies, or than passing an array. */
export const SMALL = 64
/** Descriptor numbers, in either direction. */
export const fds: Int32Array = new Int32Array(4096)
/** The fields of the last result. */
export const outcome: Int32Array = new Int32Array(9)
/** The fields of a receive of several messages, at most 64. */
export const batch: Int32Array = new Int32Array(1 + 2 * 64)
/** An address, in either direction, or the name of a memfd. */
export const name: Uint8Array = new Uint8Array(256)
/** The state of the event loop's current callback. */
export const turn: Int32Array = new Int32Array(5)
