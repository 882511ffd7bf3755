// Memory shared with the native calls: a call over it makes no values.
/** The most bytes that one receive puts into the shared memory. */
export const MOST_BYTES = 65_536
/** The bytes of a small message to be sent, or of those received. */
export const bytes: Uint8Array = new Uint8Array(2 * MOST_BYTES)
/** The same memory, with the calls between strings and bytes. */
export const text: Buffer = Buffer.from(bytes.buffer)
/** Copying so few bytes one by one costs less than a call that copies, or than telling the native side of an array. */
export const SMALL = 64
/** Descriptor numbers, in either direction. */
export const fds: Int32Array = new Int32Array(4096)
/**
 * What a receive tells beside its count: the number of descriptors, what became of them, the packet's size; what else
 * came, the sender's pid, uid, gid and pidfd; the length of its address.
 */
export const outcome: Int32Array = new Int32Array(9)
/** How many messages a receive of several gave, at most 64, and of each how many bytes and descriptors. */
export const batch: Int32Array = new Int32Array(1 + 2 * 64)
/** An address, in either direction, or the name of a memfd. */
export const name: Uint8Array = new Uint8Array(256)
/** Whether a callback of the event loop is running, how many sockets hold the process, and an event. */
export const turn: Int32Array = new Int32Array(5)
