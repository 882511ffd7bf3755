import assert from 'node:assert/strict'
import type { ReadStream } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import type { Descriptor, UnixSocket } from 'fdpass'
import { temporaryFolder } from '../descriptors.ts'

/**
 * A thing that one process makes and sends, and that another process casts and uses. Each function is one side of a channel between them,
 * and asserts what that side sees.
 */
export interface Cast {
  readonly method: Method
  /** Makes the thing, sends its descriptor, closes it here, and watches from outside how it is used. */
  send(channel: UnixSocket): Promise<void>
  /** Receives the descriptor, casts it and uses the object up to its close. */
  cast(channel: UnixSocket): Promise<void>
}

export type Method =
  'toSocket' | 'toServer' | 'toDatagramSocket' | 'toReadStream' | 'toWriteStream' | 'toUnixSocket' | 'toUnixServer'

let folder: string | undefined
let names = 0
/** A path for a socket, in a folder of this process. */
export const newPath = () => join((folder ??= temporaryFolder()), `socket-${names++}`)

/** Resolves after so many milliseconds: between attempts at what no event reports. */
export const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Receives the descriptor that the other side has sent. */
export async function receiveDescriptor(channel: UnixSocket): Promise<Descriptor> {
  return (await channel.recvFd())!.fd!
}

/** Asserts that a descriptor that was cast has given its number away. */
export function assertGivenAway(descriptor: Descriptor): void {
  assert.throws(() => descriptor.fd, { code: 'ERR_DESCRIPTOR_CLOSED' })
}

/** Reads a socket or a stream up to its end; an error counts as the end, and its code is appended. */
export async function readToEnd(socket: Socket | ReadStream): Promise<string> {
  let seen = ''
  try {
    for await (const chunk of socket) seen += String(chunk)
  } catch (error) {
    seen += ` ${(error as NodeJS.ErrnoException).code}`
  }
  return seen
}
