import { setTimeout as delay } from 'node:timers/promises'
import { type Address, type ConnectOptions, type UnixSocket, connect } from 'fdpass'

/** Connects to another program's socket, as soon as that has made it. */
export async function connectWhenThere(address: Address, options?: ConnectOptions): Promise<UnixSocket> {
  const deadline = performance.now() + 30_000
  for (;;) {
    try {
      return await connect(address, options)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if ((code !== 'ENOENT' && code !== 'ECONNREFUSED') || performance.now() > deadline) throw error
    }
    await delay(20)
  }
}
