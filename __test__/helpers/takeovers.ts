import { type AddressInfo, connect as dial, createServer } from 'node:net'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { Descriptor } from 'fdpass'
import { type Takeover, type TakeoverOptions, takeover } from 'fdpass/takeover'
import { readAllOf } from './connections.ts'
import { temporaryFolder } from './descriptors.ts'

export const folder = temporaryFolder()

export let paths = 0

export const newPath = () => join(folder, `x${paths++}`)

/** Takes over, or begins; what it has does not outlive the test. */
export async function open(t: ExecutionContext, options: TakeoverOptions): Promise<Takeover> {
  const place = await takeover(options)
  t.teardown(() => {
    place.close()
    for (const listener of Object.values(place.listeners)) listener.closeSync()
  })
  return place
}

/** As `open`, and is ready. */
export async function begin(t: ExecutionContext, options: TakeoverOptions): Promise<Takeover> {
  const place = await open(t, options)
  await place.ready()
  return place
}

export const portOf = ({ address }: Descriptor) => (address as AddressInfo).port

/** Sends a request over a new connection, and resolves to the answer. */
export async function ask(to: number | string): Promise<string> {
  const socket = typeof to === 'number' ? dial(to, '127.0.0.1') : dial(to)
  return (await readAllOf(socket)).toString()
}

/** A server that answers each connection with a word. */
export const saying = (word: string) => createServer((connection) => connection.end(word))

export const tcp = { http: 'tcp:127.0.0.1:0' }
