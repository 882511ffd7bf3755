import type { Arrived } from './codec.ts'
import { type Descriptor, wrapFd } from '../descriptor/descriptor.ts'
import { SMALL, bytes, fds, outcome, text } from '../native/shared-memory.ts'
import { native } from '../native/binding.ts'

// What a frame is for, by the native side's code.
export const MESSAGE = 0
export const REQUEST = 1
export const RESPONSE = 2
export const ERROR = 3
export const CANCEL = 4
export const CLOSE = 5

const noDescriptors: readonly Descriptor[] = []

/** The frame that has just been received; its data are in the shared bytes, or in an array where they are too long. */
export class Frame implements Arrived {
  kind = 0
  format = 0
  id = 0
  lost = false
  fds = noDescriptors
  #length = 0
  #large: Uint8Array | undefined

  /** Takes what the native side has received. */
  set(fd: number, length: number): void {
    this.#length = length
    this.#large = undefined
    if (length > bytes.length) {
      this.#large = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer) // filling it with zeros first is felt
      native.channelTake(this.#large, fd)
    }
    this.lost = outcome[1] !== 0
    this.kind = outcome[2]!
    this.format = outcome[3]!
    this.id = outcome[4]! >>> 0
    const count = outcome[0]!
    this.fds = noDescriptors
    if (count === 0) return
    const received = [wrapFd(fds[0]!)]
    for (let i = 1; i < count; i++) received.push(wrapFd(fds[i]!))
    this.fds = received
  }

  get size(): number {
    return this.#length
  }

  bytes(): Uint8Array {
    const length = this.#length
    if (this.#large !== undefined) return this.#large
    const data = new Uint8Array(length)
    if (length <= SMALL) for (let i = 0; i < length; i++) data[i] = bytes[i]!
    else data.set(bytes.subarray(0, length))
    return data
  }

  text(): string {
    const large = this.#large
    return large === undefined ? text.toString('utf8', 0, this.#length) : Buffer.from(large.buffer).toString()
  }
}
